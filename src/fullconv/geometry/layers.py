"""One axis of a windowed layer: where its outputs sit, what they see, and how many there are."""

from dataclasses import dataclass
from fractions import Fraction

from ..errors import GeometryError
from .coords import CoordMap


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One axis of a convolution, pooling, transposed convolution, padding or crop.

    Padding is ``(before, after)`` in input pixels; negative numbers crop. For a transposed layer it is the number of
    *output* pixels dropped at each end, as in PyTorch and Caffe. A pure padding is a layer with kernel 1 and stride 1;
    ``multiple`` pads it further at the end, to the next multiple of that many pixels.

    Raises:
        GeometryError: Kernel, stride or dilation is below 1.
    """

    kernel: int = 1
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    ceil: bool = False
    transposed: bool = False
    multiple: int = 1

    def __post_init__(self) -> None:
        if min(self.kernel, self.stride, self.dilation) < 1:
            raise GeometryError(f"kernel, stride and dilation must be at least 1, got {self}")

    @property
    def span(self) -> int:
        """Distance in pixels between the first and the last tap of the dilated kernel."""
        return self.dilation * (self.kernel - 1)

    @property
    def keeps_size(self) -> bool:
        """Whether the output always has as many pixels as the input."""
        return self.stride == self.multiple == 1 and sum(self.padding) == self.span and not self.transposed

    @property
    def map(self) -> CoordMap:
        """Map from this layer's output index to its input's coordinates.

        >>> LayerSpec(kernel=2, stride=2).map
        CoordMap(scale=Fraction(2, 1), offset=Fraction(1, 2))
        """
        reach = Fraction(self.span, 2) - self.padding[0]
        if self.transposed:
            return CoordMap(Fraction(1, self.stride), -reach / self.stride)
        return CoordMap(Fraction(self.stride), reach)

    @property
    def window(self) -> tuple[CoordMap, CoordMap]:
        """Maps from an output index to the first and the last input coordinate that can reach it.

        For a transposed layer these are bounds: which inputs reach an output depends on its phase within the stride.
        """
        first, last = -self.padding[0], self.span - self.padding[0]
        if self.transposed:
            scale = Fraction(1, self.stride)
            return CoordMap(scale, -last * scale), CoordMap(scale, -first * scale)
        return CoordMap(Fraction(self.stride), Fraction(first)), CoordMap(Fraction(self.stride), Fraction(last))

    def output_size(self, size: int) -> int:
        """Return the number of output pixels for ``size`` input pixels, as PyTorch counts them.

        Raises:
            GeometryError: The window does not fit into the padded input.
        """
        padded = size + sum(self.padding) if not self.transposed else size
        if self.transposed:
            out = (size - 1) * self.stride + self.span + 1 - sum(self.padding)
        else:
            steps, rest = divmod(padded - self.span - 1, self.stride)
            out = steps + 1
            if self.ceil and rest and out * self.stride < size + self.padding[0]:
                out += 1  # the last window may hang over the end, but must start inside the padded input
        if out < 1:
            raise GeometryError(f"{size} pixels are too few for {self}: nothing would be left")
        return -(-out // self.multiple) * self.multiple
