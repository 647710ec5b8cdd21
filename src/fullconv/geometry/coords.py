"""Maps from a feature's own pixel index to another pixel grid, one axis at a time, in exact fractions."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class CoordMap:
    """``x ↦ scale · x + offset``: where pixel ``x`` of a feature sits in the grid it was computed from.

    The centre of pixel 0 is coordinate 0, so scale 2 and offset ½ are a 2×2 pooling of stride 2: its pixel 0 sits
    half-way between the input's pixels 0 and 1.

    Source: Long, Shelhamer & Darrell 2015, section 3; Caffe's ``coord_map.py`` (whose maps are the inverse of ours).
    """

    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)

    def __call__(self, x: Fraction | int) -> Fraction:
        """Return the coordinate of pixel ``x``.

        >>> CoordMap(Fraction(2), Fraction(1, 2))(3)
        Fraction(13, 2)
        """
        return self.scale * x + self.offset

    def then(self, outer: "CoordMap") -> "CoordMap":
        """Return the map that applies ``self`` first and ``outer`` to its result."""
        return CoordMap(outer.scale * self.scale, outer(self.offset))

    def inverse(self) -> "CoordMap":
        """Return the map back; ``m.then(m.inverse())`` is the identity."""
        return CoordMap(1 / self.scale, -self.offset / self.scale)

    def __str__(self) -> str:
        sign = "-" if self.offset < 0 else "+"
        return f"{self.scale}·i {sign} {abs(self.offset)}"
