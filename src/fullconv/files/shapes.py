"""Annotated shapes as pixels: polygons, boxes, circles, and run lengths in their several spellings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from ..errors import DataError
from .images import opened

Size = tuple[int, int]
"""Height and width in pixels."""

Number = int | float

_CIRCLE_CORNERS = 64
_FARTHEST = 1e9
_MOST_BITS = 60


@dataclass(frozen=True, eq=False)
class Polygon:
    """The pixels whose centres lie inside rings, by the even-odd rule.

    Attributes:
        rings: Corners (x, y) of each ring, in pixels from the image's top left corner: pixel i spans i to i + 1.
        relative: Corners are in fractions of the image's width and height instead.
    """

    rings: tuple[Float[np.ndarray, "corners 2"], ...]
    relative: bool = False

    def mask(self, size: Size) -> Bool[np.ndarray, "h w"]:
        """Return where the shape is in an image of ``size``."""
        height, width = size
        toggles = np.zeros((height, width + 1), bool)
        unit = np.array([width, height] if self.relative else [1, 1])
        for ring in self.rings:
            _toggle_crossings(toggles, ring * unit)
        return np.logical_xor.accumulate(toggles, axis=1)[:, :width]


def _toggle_crossings(toggles: Bool[np.ndarray, "h w1"], ring: Float[np.ndarray, "corners 2"]) -> None:
    """Flip, in every row, the first pixel whose centre is right of each edge that the row's centre line crosses."""
    height, end = toggles.shape
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        low, high = (y0, y1) if y0 < y1 else (y1, y0)
        rows = np.arange(max(0, math.ceil(low - 0.5)), min(height, math.ceil(high - 0.5)))
        crossing = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(crossing - 0.5), 0, end - 1).astype(np.int64)
        toggles[rows, columns] ^= True


def polygon(*rings: Sequence[Sequence[Number]] | Float[np.ndarray, "corners 2"], relative: bool = False) -> Polygon:
    """Return the polygon with these rings of (x, y) corners, in pixels or in fractions of the image's sides.

    Raises:
        DataError: A ring has fewer than three corners, or a coordinate is no number, or one far outside any image.
    """
    try:
        arrays = tuple(np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise DataError(f"a polygon's corners are no numbers ({error})") from None
    for array in arrays:
        if len(array) < 3 or not (np.abs(array) < _FARTHEST).all():  # NaN is not below.
            raise DataError(f"a polygon has {len(array)} corners; it needs at least 3, all of them finite numbers")
    return Polygon(arrays, relative)


def box(left: Number, top: Number, right: Number, bottom: Number) -> Polygon:
    """Return a rectangle by two opposite corners."""
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)])


def circle(x: Number, y: Number, radius: Number) -> Polygon:
    """Return a disc as a fine polygon."""
    angles = np.arange(_CIRCLE_CORNERS) * (2 * math.pi / _CIRCLE_CORNERS)
    return polygon(np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1))


@dataclass(frozen=True, eq=False)
class Pixels:
    """A shape that is given pixel by pixel in an image file, of which no more than the bytes are kept.

    Attributes:
        content: The bytes; what is not black is inside.
        top: Row of the image at which they start.
        left: Column of the image at which they start.
    """

    content: bytes
    top: int = 0
    left: int = 0

    def mask(self, size: Size) -> Bool[np.ndarray, "h w"]:
        """Return where the shape is in an image of ``size``; what lies outside is cut off.

        Raises:
            DataError: The bytes are no image that can be read.
        """
        with opened(Path("a mask in it"), self.content, mask=True) as image:
            inside = np.array(image.convert("L")) > 0
        whole = np.zeros(size, bool)
        window = whole[max(0, self.top) :, max(0, self.left) :]
        part = inside[max(0, -self.top) :, max(0, -self.left) :][: window.shape[0], : window.shape[1]]
        window[: part.shape[0], : part.shape[1]] = part
        return whole


@dataclass(frozen=True)
class CocoRuns:
    """COCO's run lengths: down the columns, first outside, then inside, and so on.

    Attributes:
        counts: The lengths, or COCO's compressed text of them.

    Source: ``rleFrString`` of pycocotools' maskApi.c.
    """

    counts: str | bytes | tuple[int, ...]

    def mask(self, size: Size) -> Bool[np.ndarray, "h w"]:
        """Return where the shape is in an image of ``size``.

        Raises:
            DataError: The runs do not add up to it.
        """
        runs = self.counts if isinstance(self.counts, tuple) else _uncompressed(self.counts)
        if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
            raise DataError(f"run lengths add up to {sum(runs)} pixels, but the image has {size[0]}×{size[1]}")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T


def _uncompressed(text: str | bytes) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        if shift > _MOST_BITS:
            raise DataError(f"a run length has more than {_MOST_BITS} bits")
        piece = code - 48
        value |= (piece & 0x1F) << shift
        shift += 5
        if piece & 0x20:
            continue
        if piece & 0x10:
            value -= 1 << shift
        # From the fourth on, a run is stored as its difference to the one before the last.
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


@dataclass(frozen=True)
class Brush:
    """Label Studio's brush: bit-packed runs of the values of an RGBA image, whose alpha is the shape.

    Attributes:
        data: Bytes, 0–255.

    Source: ``decode`` of thi.ng's rle-pack, whose format it is.
    """

    data: tuple[int, ...]

    def mask(self, size: Size) -> Bool[np.ndarray, "h w"]:
        """Return where the shape is in an image of ``size``.

        Raises:
            DataError: The data end too early, or are not an image of that size.
        """
        values = _unpacked(np.unpackbits(np.array(self.data, np.uint8)), 4 * size[0] * size[1])
        return values.reshape(*size, 4)[..., 3] > 0


def _unpacked(bits: UInt8[np.ndarray, "bits"], expected: int) -> Integer[np.ndarray, "values"]:
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        if position > bits.size:
            raise DataError("a brush ends in the middle of a run")
        return int("".join(map(str, bits[position - count : position])), 2)

    length, word = take(32), take(5) + 1
    if length != expected:
        raise DataError(f"a brush holds {length} values, but the image needs {expected}")
    widths = [take(4) + 1 for _ in range(4)]
    pieces = [np.zeros(0, np.int64)]
    done = 0
    while done < length:
        repeated, count = take(1), take(widths[take(2)]) + 1
        values = [take(word)] * count if repeated else [take(word) for _ in range(count)]
        pieces.append(np.array(values))
        done += count
    return np.concatenate(pieces)[:length]


Shape = Polygon | Pixels | CocoRuns | Brush
