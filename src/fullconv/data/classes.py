"""From what stands in mask files (ids, colours) to the class ids a network learns."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, Integer, UInt8
from torch import Tensor

from ..errors import DataError, UsageError
from ..files.images import mask_palette
from ..files.masks import Mask, MaskFile
from ..files.text import read_text
from .labels import VOID_COLOUR, Colour, LabelSet, voc_palette
from .problems import Problem

VOID = "void"
"""What a class is called whose pixels do not count."""

_UNKNOWN = np.iinfo(np.int64).min
_IDS = 65536
_MOST_COLOURS = 256
_RARE = 0.02


@dataclass(frozen=True)
class ClassEntry:
    """One class as its data set describes it: id in the masks, name, and colour (0–255) if it has one."""

    id: int
    name: str
    colour: Colour | None = None


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The classes of a data set and how its masks spell them.

    Attributes:
        labels: The classes in the order of their ids in the masks.
        ids: Id in the mask → class id or ``labels.ignore_index``.
        colours: Colour in the mask → class id or ``labels.ignore_index``.
        where: The file in which the classes stand or would stand, for messages.
    """

    labels: LabelSet
    ids: dict[int, int]
    colours: dict[Colour, int]
    where: Path

    @classmethod
    def of(
        cls,
        entries: Sequence[ClassEntry],
        where: Path,
        void_id: int | None = 255,
        label_map: Mapping[int, int | str] | None = None,
    ) -> "ClassTable":
        """Return the table of ``entries``; an entry called ``void`` is no class, its pixels are ignored.

        Args:
            entries: Classes in any order; they are numbered 0 … by ascending id.
            where: The file they come from.
            void_id: Id in the masks that is void, unless it is a class.
            label_map: More ids in the masks → name or id of an entry, or ``void``.

        Raises:
            DataError: An id, name or colour stands twice, or ``label_map`` names no class; the message names
                the file.
        """
        entries = sorted(entries, key=lambda entry: entry.id)
        _check_unique(entries, where)
        classes = [entry for entry in entries if entry.name != VOID]
        labels = _label_set(classes, where, void_id)
        numbers = {entry.name: index for index, entry in enumerate(classes)} | {VOID: labels.ignore_index}
        ids = {} if void_id is None else {void_id: labels.ignore_index}
        ids |= {entry.id: numbers[entry.name] for entry in entries}
        ids |= {raw: _target_of(raw, to, entries, numbers, where) for raw, to in (label_map or {}).items()}
        colours = {entry.colour: numbers[entry.name] for entry in entries if entry.colour is not None}
        if colours:
            colours = {VOID_COLOUR: labels.ignore_index} | colours
        return cls(labels, ids, colours, where)

    def target(self, mask: Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"], path: Path) -> Int64[Tensor, "h w"]:
        """Return a mask as class ids; what is void becomes ``labels.ignore_index``.

        Args:
            mask: Ids or colours, as they stand in the file.
            path: The file, for messages.

        Raises:
            DataError: A pixel's id or colour is not in the table; the message names the file, the ids or colours,
                and the remedy.
        """
        target = self._by_colour(mask, path) if mask.ndim == 3 else self._by_id(mask, path)
        return torch.from_numpy(target)

    @cached_property
    def _lookup(self) -> Int64[np.ndarray, "ids"]:
        """Class id, or ``labels.ignore_index``, of every id 0–65535 in a mask; negative where it is none."""
        lookup = np.full(_IDS, _UNKNOWN, np.int64)
        for raw, number in self.ids.items():
            if 0 <= raw < _IDS:
                lookup[raw] = number
        return lookup

    def from_ids(self, mask: Integer[np.ndarray, "*pixels"]) -> Int64[np.ndarray, "*pixels"]:
        """Return the class ids, or ``labels.ignore_index``, of ids in a mask; negative where an id is none."""
        if not mask.size or (mask.min() >= 0 and mask.max() < _IDS):
            return np.asarray(self._lookup[mask])
        outside = (mask < 0) | (mask >= _IDS)
        target = np.where(outside, _UNKNOWN, self._lookup[np.where(outside, 0, mask)])
        for raw, number in self.ids.items():
            if not 0 <= raw < _IDS:
                target[mask == raw] = number
        return target

    def _by_id(self, mask: Integer[np.ndarray, "h w"], path: Path) -> Int64[np.ndarray, "h w"]:
        target = self.from_ids(mask)
        wrong = target == _UNKNOWN
        if wrong.any():
            raise DataError(str(self.stray_ids(mask[wrong], path)))
        return target

    def stray_ids(self, pixels: Integer[np.ndarray, "n"], path: Path) -> Problem:
        """Return the problem of ids, at least one, that are no class."""
        unknown = np.unique(pixels).tolist()
        seen = f"holds id {_listed(unknown)}, which is none of the {self.labels.num_classes} classes"
        remedy = (
            f"add it to {self.where}, or in a dataset.yaml set label_map: {{{unknown[0]}: void}} "
            f"or ignore_index: {unknown[0]}"
        )
        return Problem("stray_ids", (path,), seen, remedy)

    def _by_colour(self, mask: UInt8[np.ndarray, "h w 3"], path: Path) -> Int64[np.ndarray, "h w"]:
        if not self.colours:
            raise DataError(str(self.no_colours(path)))
        target = self.from_colours(mask)
        wrong = target == _UNKNOWN
        if wrong.any():
            raise DataError(str(self.stray_colours(mask[wrong], path)))
        return target

    def no_colours(self, path: Path) -> Problem:
        """Return the problem of a mask of colours where the classes have none."""
        seen = "is an RGB mask, and the classes have no colours"
        remedy = f"write {self.where} with the colour of each class {_example(self.where)}"
        return Problem("rgb_mask_without_table", (path,), seen, remedy, blocks=True)

    def stray_colours(self, pixels: UInt8[np.ndarray, "n 3"], path: Path) -> Problem:
        """Return the problem of colours, at least one, that are no class."""
        colours, counts = np.unique(pixels, axis=0, return_counts=True)
        most = counts.argmax()
        more = f" (and {len(colours) - 1} more such colours)" if len(colours) > 1 else ""
        seen = f"has the colour {tuple(colours[most].tolist())} on {counts[most]} pixels{more}, which is no class"
        remedy = f"add its class to {self.where}, or a class named void with this colour to ignore it"
        return Problem("stray_ids", (path,), seen, remedy)

    def from_colours(self, mask: UInt8[np.ndarray, "h w 3"]) -> Int64[np.ndarray, "h w"]:
        """Return the class ids, or ``labels.ignore_index``, of colours; negative where a colour is none."""
        keys, numbers = _packed(np.array(list(self.colours))), np.array(list(self.colours.values()))
        order = keys.argsort()
        keys, numbers = keys[order], numbers[order]
        pixels = _packed(mask)
        nearest = np.searchsorted(keys, pixels).clip(max=len(keys) - 1)
        return np.where(keys[nearest] == pixels, numbers[nearest], _UNKNOWN)


def _example(where: Path) -> str:
    if where.suffix in (".yaml", ".yml"):
        return "(classes: {sky: [128, 192, 255], ...})"
    return "(one line each: sky 128 192 255)"


def _packed(colours: Integer[np.ndarray, "*pixels 3"]) -> Int64[np.ndarray, "*pixels"]:
    wide = colours.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _check_unique(entries: Sequence[ClassEntry], where: Path) -> None:
    for kind, values in (
        ("id", [entry.id for entry in entries]),
        ("colour", [entry.colour for entry in entries if entry.colour is not None]),
    ):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise DataError(f"{where}: {kind} {twice[0]} stands for more than one class; give each class its own")


def _label_set(classes: Sequence[ClassEntry], where: Path, void_id: int | None) -> LabelSet:
    default = voc_palette(len(classes))
    palette = [default[index] if entry.colour is None else entry.colour for index, entry in enumerate(classes)]
    try:
        return LabelSet.of([entry.name for entry in classes], palette, _ignore_index(void_id, len(classes)))
    except UsageError as error:
        raise DataError(f"{where}: {error}") from error


def _ignore_index(void_id: int | None, count: int) -> int:
    if void_id is not None and count <= void_id and (void_id <= 255 or void_id == _IDS - 1):
        return void_id
    return 255 if count <= 255 else _IDS - 1


def _target_of(raw: int, to: int | str, entries: Sequence[ClassEntry], numbers: Mapping[str, int], where: Path) -> int:
    name = next((entry.name for entry in entries if entry.id == to), to)
    if not isinstance(name, str) or name not in numbers:
        raise DataError(f"{where}: label_map sends {raw} to {to!r}, which is no class; give a class name, id or void")
    return numbers[name]


def infer_entries(masks: Sequence[Mask], where: Path, void: frozenset[int], *, strict: bool = True) -> list[ClassEntry]:
    """Return classes learned from the masks: ids 0 … largest but for the void ones, or every colour that occurs.

    An id that lies beyond a gap in the numbers and stands in hardly any mask is taken for a mistake, not for a class.
    Ids are coloured by the first palette found, if it has a colour for each. Colours are numbered in the order of their
    packed values; VOC's void colour is no class.

    Args:
        masks: Every mask; all are read.
        where: The file in which a class table could be written, for messages.
        void: Ids that are no classes.
        strict: Whether to raise; else masks that cannot be read are passed over, and where the others tell no
            classes there is one, with id 0.

    Raises:
        DataError: A mask cannot be read, or the masks hold fewer than two classes, or too many colours to be classes.
    """
    try:
        ids, packed, read = _contents(masks, where, strict)
        if colours := [_unpacked(number) for number in sorted(packed)]:
            named = [("#{:02x}{:02x}{:02x}".format(*colour), colour) for colour in colours if colour != VOID_COLOUR]
            return [ClassEntry(number, name, colour) for number, (name, colour) in enumerate(named)]
        classes = _without_strays({number: count for number, count in ids.items() if number not in void}, read)
        if len(classes) < 2 or min(classes) < 0 or max(classes) >= _IDS or _sparse(classes):
            ignored = f" (void: {_listed(void & ids.keys())})" if void & ids.keys() else ""
            raise DataError(
                f"{masks[0].path.parent}: the masks hold only the ids {_listed(ids)}{ignored}, which tell no classes; "
                f"list the ids in a dataset.yaml, such as classes: {{0: background, 255: object}}"
            )
    except DataError:
        if strict:
            raise
        return [ClassEntry(0, "class 0")]
    numbers = [number for number in range(max(classes) + 1) if number not in void]
    palette = dict(enumerate(_first_palette(masks)))
    drawn = [palette[number] for number in numbers if number in palette]
    if len(set(drawn)) < len(drawn):  # Filled up, such as with black.
        palette = {}
    return [ClassEntry(number, f"class {number}", palette.get(number)) for number in numbers]


def _sparse(ids: Sequence[int]) -> bool:
    """Return whether ids of more than 8 bits leave out most numbers, as 0 and 65535 do, which number no classes."""
    return max(ids) > 255 and 2 * len(ids) <= max(ids)


def _contents(masks: Sequence[Mask], where: Path, strict: bool) -> tuple[Counter[int], set[int], int]:
    """Return in how many masks each id stands, all packed colours, and how many masks could be read."""
    ids, packed, read = Counter[int](), set[int](), 0
    for mask in masks:
        try:
            pixels = mask.read()
        except DataError:
            if strict:
                raise
            continue
        read += 1
        if pixels.ndim == 2:
            ids.update(int(number) for number in np.unique(pixels))
        else:
            packed.update(int(number) for number in np.unique(_packed(pixels)))
        if len(packed) > _MOST_COLOURS:
            raise DataError(
                f"{mask.path}: with it the masks hold more than {_MOST_COLOURS} colours, too many to be classes; "
                f"write {where} with the colour of each class {_example(where)}, and save masks without smoothing"
            )
    return ids, packed, read


def _without_strays(ids: Mapping[int, int], masks: int) -> list[int]:
    """Return the ids in ascending order, up to the first after a gap from which on all are rare."""
    ordered = sorted(ids)
    for place in range(1, len(ordered)):
        beyond = ordered[place:]
        if beyond[0] > ordered[place - 1] + 1 and all(ids[number] <= _RARE * masks for number in beyond):
            return ordered[:place]
    return ordered


def _first_palette(masks: Sequence[Mask]) -> Sequence[Colour]:
    for mask in masks:
        with contextlib.suppress(DataError):
            if isinstance(mask, MaskFile) and (palette := mask_palette(mask.path)):
                return palette
    return ()


def _unpacked(number: int) -> Colour:
    return number >> 16, number >> 8 & 255, number & 255


def _listed(ids: Iterable[int]) -> str:
    ordered = sorted(ids)
    return ", ".join(map(str, ordered[:8])) + (", …" if len(ordered) > 8 else "")


def largest_table(tables: Mapping[Path, Sequence[ClassEntry]]) -> Path:
    """Return which of several files has the class table that holds all the others': splits may leave classes out.

    Raises:
        DataError: None has; the message names two files.
    """
    where = max(tables, key=lambda path: len(tables[path]))
    names = {entry.id: repr(entry.name) for entry in tables[where]}
    for path, entries in tables.items():
        for entry in entries:
            if entry not in tables[where]:
                seen = f"calls id {entry.id} {entry.name!r}, which is {names.get(entry.id, 'no class')} in {where}"
                raise DataError(f"{path}: {seen}; export both with the same classes and ids")
    return where


def read_classes(path: Path) -> list[ClassEntry]:
    """Read ``classes.txt``: a class per line, ``name`` or ``name red green blue``; ``#`` starts a comment.

    Raises:
        DataError: The file cannot be read as text, or holds no class.
    """
    entries: list[ClassEntry] = []
    for line in read_text(path).splitlines():
        if words := line.partition("#")[0].split():
            entries.append(_entry(len(entries), words))
    if not entries:
        raise DataError(f"{path}: holds no class; write one class per line (name, or name red green blue)")
    return entries


def _entry(index: int, words: list[str]) -> ClassEntry:
    if len(words) > 3 and all(word.isdecimal() for word in words[-3:]):
        red, green, blue = (int(word) for word in words[-3:])
        return ClassEntry(index, " ".join(words[:-3]), (red, green, blue))
    return ClassEntry(index, " ".join(words))
