"""Where a sample's truth stands: in a mask file, in a file for each class, or as shapes in an annotation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt8

from ..errors import DataError
from .arrays import Window, read_npy
from .images import image_size, read_mask
from .raster import read_raster
from .shapes import Shape

RawMask = Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]
"""Ids as they stand in the file, or red, green, blue."""

NO_NUMBER = -1
"""The id that stands for a value that is no number or far too large for an id, as "no data" is in masks of floats."""

EXACT = 2.0**53
"""From this size on, floats of 64 bits leave out whole numbers, and such values are no ids."""


@runtime_checkable
class Mask(Protocol):
    """The truth of one sample, unread."""

    @property
    def path(self) -> Path:
        """The file that messages name."""
        ...

    def read(self, window: Window | None = None) -> RawMask:
        """Return it, or a window of it, as ids or colours.

        Raises:
            DataError: It cannot be read; the message names the file.
        """
        ...


@dataclass(frozen=True)
class MaskFile:
    """A mask in an image file, or an ``.npy`` array."""

    path: Path

    def read(self, window: Window | None = None) -> RawMask:
        """Return the file's ids or colours; it is decoded whole, but of an ``.npy`` array of ids only the window."""
        if self.path.suffix.lower() == ".npy":
            return read_npy(self.path, window)
        return _cut(read_mask(self.path), window)


@dataclass(frozen=True)
class RasterMask:
    """A mask in a GeoTIFF, of which a window can be read alone: one band of ids, or red, green, blue."""

    path: Path

    def read(self, window: Window | None = None) -> RawMask:
        """Return the ids or colours."""
        raw = read_raster(self.path, window, mask=True)
        if raw.shape[2] == 3 and raw.dtype == np.uint8:
            return raw
        if raw.shape[2] != 1:
            raise DataError(f"{self.path}: has {raw.shape[2]} bands; save a mask as one band of class ids")
        if raw.dtype.kind != "f":
            return raw[..., 0].astype(np.int64)
        values = np.where(np.abs(raw[..., 0]) < EXACT, raw[..., 0], NO_NUMBER)  # NaN is not below.
        ids = values.astype(np.int64)
        if not np.array_equal(ids, values):
            raise DataError(f"{self.path}: holds numbers that are not whole; save class ids")
        return ids


@dataclass(frozen=True)
class ClassFiles:
    """A binary mask file for every class: what is not 0 is the class; where two overlap, the later one counts.

    Attributes:
        files: Id and file of every class there is.
        background: Id where there is none.
    """

    files: tuple[tuple[int, Path], ...]
    background: int

    @property
    def path(self) -> Path:
        """The first class's file."""
        return self.files[0][1]

    def read(self, window: Window | None = None) -> RawMask:
        """Return the ids; the files are decoded whole."""
        ids: Integer[np.ndarray, "h w"] | None = None
        for number, path in self.files:
            part = read_mask(path)
            inside = part.any(axis=2) if part.ndim == 3 else part != 0
            if ids is None:
                ids = np.full(inside.shape, self.background, np.int32)
            if inside.shape != ids.shape:
                raise DataError(f"{path}: is {inside.shape[0]}×{inside.shape[1]}, {self.path} is not; make them equal")
            ids[inside] = number
        if ids is None:
            raise DataError("a sample has no mask file of any class")
        return _cut(ids, window)


@dataclass(frozen=True, eq=False)
class Drawing:
    """Shapes that are drawn one over the other.

    Attributes:
        path: The annotation file.
        image: The image, whose size the drawing has where the annotation states none.
        shapes: Id and shape of every object, in the order in which they are drawn.
        background: Id where nothing is drawn.
        size: (height, width) in pixels for which the annotation says it was made. Another size than the image's is a
            mask of another size.
    """

    path: Path
    image: Path
    shapes: tuple[tuple[int, Shape], ...]
    background: int
    size: tuple[int, int] | None = None

    def read(self, window: Window | None = None) -> RawMask:
        """Return the ids; all is drawn, also for a window."""
        size = self.size or image_size(self.image)
        try:
            ids = np.full(size, self.background, np.int32)
            for number, shape in self.shapes:
                ids[shape.mask(size)] = number
        except (DataError, TypeError, ValueError, ArithmeticError, IndexError) as error:
            raise DataError(f"{self.path}: {error}; correct the annotation of {self.image.name}") from None
        return _cut(ids, window)


def _cut(
    mask: RawMask, window: Window | None
) -> Integer[np.ndarray, "part_h part_w"] | UInt8[np.ndarray, "part_h part_w 3"]:
    return mask if window is None else np.ascontiguousarray(window.cut(mask))
