"""What the class ids mean: names, colours, and the id that does not count."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError

Colour = tuple[int, int, int]

VOID_COLOUR: Colour = (224, 224, 192)

DEFAULT_TASK = "semantic"
"""The task of a data set's own masks, and of a network that has only one."""


def voc_palette(count: int) -> tuple[Colour, ...]:
    """Return the first ``count`` colours (red, green, blue; 0–255) of PASCAL VOC's palette.

    >>> voc_palette(3)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0))

    Source: ``VOClabelcolormap`` of the VOC 2012 development kit: bit 3j + c of the id becomes bit 7 − j of
        channel c.
    """
    return tuple(_voc_colour(index) for index in range(count))


def _voc_colour(index: int) -> Colour:
    red, green, blue = (sum((index >> (3 * j + c) & 1) << (7 - j) for j in range(8)) for c in range(3))
    return red, green, blue


@dataclass(frozen=True)
class LabelSet:
    """The classes of a task: class ``i`` is called ``names[i]`` and drawn in ``palette[i]``.

    Attributes:
        names: One unique name per class.
        palette: One colour per class: red, green, blue, 0–255.
        ignore_index: Id of the target pixels that neither train nor count; outside the classes.

    Raises:
        UsageError: No class, a name twice, a palette of another length, or an ``ignore_index`` that is a
            class.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if not self.names:
            raise UsageError("a label set needs at least one class; give names")
        if twice := sorted(name for name, count in Counter(self.names).items() if count > 1):
            raise UsageError(f"class name {twice[0]!r} stands for more than one class; rename one of them")
        if len(self.palette) != len(self.names):
            raise UsageError(f"palette has {len(self.palette)} colours for {len(self.names)} classes; give one each")
        for name, colour in zip(self.names, self.palette, strict=True):
            _check_colour(name, colour)
        if 0 <= self.ignore_index < len(self.names):
            raise UsageError(
                f"ignore_index {self.ignore_index} is class {self.names[self.ignore_index]!r}; "
                f"choose one outside 0–{len(self.names) - 1}, such as 255"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes; the ignored id is not one."""
        return len(self.names)

    @classmethod
    def of(
        cls, names: Sequence[str], palette: Sequence[Sequence[int]] | None = None, ignore_index: int = 255
    ) -> "LabelSet":
        """Return a label set from any sequences; without ``palette`` in PASCAL VOC's colours.

        >>> LabelSet.of(["sky", "tree"]).palette
        ((0, 0, 0), (128, 0, 0))

        Raises:
            UsageError: As for the class.
        """
        colours = voc_palette(len(names)) if palette is None else palette
        return cls(tuple(names), tuple(_as_colour(colour) for colour in colours), ignore_index)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, ready for JSON; ``from_dict`` undoes it."""
        palette = [list(colour) for colour in self.palette]
        return {"names": list(self.names), "palette": palette, "ignore_index": self.ignore_index}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LabelSet":
        """Return the label set that ``to_dict`` wrote.

        Raises:
            UsageError: A key is missing, unknown or of the wrong type, or the values do not fit together.
        """
        keys = {"names", "palette", "ignore_index"}
        if set(data) != keys:
            raise UsageError(f"label set has keys {sorted(data)}; it needs exactly {sorted(keys)}")
        names, palette, ignore_index = data["names"], data["palette"], data["ignore_index"]
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"label set's names is {names!r}; it must be a list of text")
        if not isinstance(palette, list | tuple):
            raise UsageError(f"label set's palette is {palette!r}; it must be a list of [red, green, blue]")
        if not _is_whole(ignore_index):
            raise UsageError(f"label set's ignore_index is {ignore_index!r}; it must be a whole number such as 255")
        return cls.of(names, palette, ignore_index)

    def png_palette(self) -> list[int]:
        """Return 768 numbers for a palette PNG: red, green, blue of ids 0–255.

        Ids that are no class have PASCAL VOC's colours, the ignored id VOC's void colour.
        """
        colours = [*self.palette, *voc_palette(256)[self.num_classes :]][:256]
        if 0 <= self.ignore_index < 256:
            colours[self.ignore_index] = VOID_COLOUR
        return [channel for colour in colours for channel in colour]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _as_colour(value: object) -> Colour:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise UsageError(f"palette colour is {value!r}; it must be [red, green, blue]")
    red, green, blue = value
    return red, green, blue


def _check_colour(name: str, colour: Colour) -> None:
    if not all(_is_whole(channel) and 0 <= channel <= 255 for channel in colour):
        raise UsageError(f"colour of class {name!r} is {list(colour)}; give red, green, blue as whole numbers 0–255")
