"""What a feature's pixels see of the input: sampling grid, receptive field and size, through chains and branches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ..errors import GeometryError
from .coords import CoordMap
from .layers import LayerSpec


@dataclass(frozen=True, slots=True)
class Field:
    """One axis of a feature, in input pixels.

    Attributes:
        map: Pixel index to the input coordinate of the pixel's centre.
        first: Input coordinate of the first pixel that feature pixel 0 can see (negative inside padding).
        last: Input coordinate of the last one, inclusive.
        everything: True where a gate computed from the whole image (squeeze-and-excitation) is mixed in: the grid
            stands, but every pixel sees everything.
        layers: One path from the input to the feature, without layers that keep the size: it gives the size.
    """

    map: CoordMap = CoordMap()
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)
    everything: bool = False
    layers: tuple[LayerSpec, ...] = ()

    @property
    def stride(self) -> Fraction:
        """Input pixels between neighbouring feature pixels."""
        return self.map.scale

    @property
    def offset(self) -> Fraction:
        """Input coordinate of the centre of feature pixel 0."""
        return self.map.offset

    @property
    def receptive_field(self) -> Fraction | None:
        """Number of input pixels that one feature pixel sees (None: all of them).

        Source: Long, Shelhamer & Darrell 2015, section 3 (404 for VGG16's fc6, 355 for AlexNet's).
        """
        return None if self.everything else self.last - self.first + 1

    def through(self, layer: LayerSpec) -> "Field":
        """Return the field of the feature that ``layer`` makes of this one."""
        to_first, to_last = layer.window
        return Field(
            layer.map.then(self.map),
            self.first + self.map.scale * to_first.offset,
            self.last + self.map.scale * to_last.offset,
            self.everything,
            self.layers if layer.keeps_size else (*self.layers, layer),
        )

    def after(self, start: "Field") -> "Field":
        """Return this field with its input replaced by the feature ``start``."""
        return Field(
            self.map.then(start.map),
            start.first + start.stride * self.first,
            start.last + start.stride * self.last,
            self.everything or start.everything,
            start.layers + self.layers,
        )

    def size(self, input_size: int) -> int:
        """Return how many pixels the feature has for ``input_size`` input pixels.

        Raises:
            GeometryError: The input is too small for one of the layers.
        """
        return chain_size(self.layers, input_size)

    def seeing_everything(self) -> "Field":
        """Return this field with a gate from the whole image mixed in."""
        return replace(self, everything=True)


def chain(layers: Iterable[LayerSpec], start: Field | None = None) -> Field:
    """Return the field after ``layers`` in turn, from the input or from ``start``.

    >>> vgg = [LayerSpec(3, padding=(1, 1)), LayerSpec(2, 2)]
    >>> chain(vgg).receptive_field
    Fraction(4, 1)
    """
    field = start or Field()
    for layer in layers:
        field = field.through(layer)
    return field


def chain_size(layers: Iterable[LayerSpec], size: int) -> int:
    """Return the size after ``layers`` in turn.

    Raises:
        GeometryError: Nothing is left after one of them.
    """
    for layer in layers:
        size = layer.output_size(size)
    return size


def join(branches: Sequence[Field]) -> Field:
    """Return the field of branches that are added or concatenated: one grid, the union of what they see.

    Raises:
        GeometryError: The branches sample the input on different grids; the message shows both.
    """
    reference = branches[0]
    for other in branches[1:]:
        if other.map != reference.map:
            raise GeometryError(f"branches do not align: {reference.map} against {other.map} (input coordinates)")
    return replace(
        reference,
        first=min(branch.first for branch in branches),
        last=max(branch.last for branch in branches),
        everything=any(branch.everything for branch in branches),
    )
