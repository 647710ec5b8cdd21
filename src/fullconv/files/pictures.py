"""The image of one sample, unread: a picture in colours, bands of a raster, or several of these stacked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from ..errors import DataError
from .arrays import Window
from .images import IMAGE_SUFFIXES, image_size, read_image
from .raster import raster_kind, read_raster

PICTURE_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
"""Extensions, in lower case, of the files that a :class:`Picture` can be read from."""

Pixels = UInt8[Tensor, "c h w"] | Float[Tensor, "c h w"]
"""Channels × height × width, 0–255: red, green, blue in 8 bits, or any bands as floats."""


@runtime_checkable
class Picture(Protocol):
    """The image of one sample, unread."""

    @property
    def path(self) -> Path:
        """The file that messages name."""
        ...

    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels, from the file's header where it tells.

        Raises:
            DataError: The file cannot be read.
        """
        ...

    def channels(self) -> int:
        """Return how many channels it has.

        Raises:
            DataError: The file cannot be read.
        """
        ...

    def read(self, window: Window | None = None) -> Pixels:
        """Return its pixels, or those of a window.

        Raises:
            DataError: The file cannot be read.
        """
        ...


@dataclass(frozen=True)
class ImageFile:
    """Any image file, as red, green, blue."""

    path: Path

    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels, upright."""
        return image_size(self.path)

    def channels(self) -> int:
        """Return 3."""
        return 3

    def read(self, window: Window | None = None) -> Pixels:
        """Return red, green, blue; the file is decoded whole."""
        pixels = read_image(self.path)
        if window is None:
            return pixels
        return pixels[:, window.top : window.top + window.height, window.left : window.left + window.width].clone()


@dataclass(frozen=True)
class Bands:
    """Bands of a raster file, scaled to 0–255.

    Attributes:
        path: The file.
        numbers: Which bands, from 1; None for all.
        value_range: The values that become 0 and 255 (those beyond are cut off); None for 0 and the largest of the
            file's integer type of at most 16 bits.
    """

    path: Path
    numbers: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None

    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return raster_kind(self.path).size

    def indices(self) -> tuple[int, ...]:
        """Return which bands are read, from 1."""
        return self.numbers or tuple(range(1, raster_kind(self.path).bands + 1))

    def channels(self) -> int:
        """Return the number of bands that are read."""
        return len(self.indices())

    def read(self, window: Window | None = None) -> Pixels:
        """Return the bands as floats; of GeoTIFF and ``.npy`` files only the window is read.

        Without a range, "no data" that is a number below 0 becomes 0.
        """
        raw = read_raster(self.path, window, self.numbers)
        if self.value_range is None and raw.dtype.kind == "i":
            nodata = raster_kind(self.path).nodata
            raw = raw if nodata is None or nodata >= 0 else np.where(raw == nodata, raw.dtype.type(0), raw)
        return scaled(raw, self.value_range, self.path)


@dataclass(frozen=True)
class Stack:
    """Several images of one size as the channels of one, such as colours and depth.

    Attributes:
        parts: The images, first channels first.
    """

    parts: tuple[Picture, ...]

    @property
    def path(self) -> Path:
        """The first image's file."""
        return self.parts[0].path

    def size(self) -> tuple[int, int]:
        """Return the first image's (height, width) in pixels."""
        return self.parts[0].size()

    def channels(self) -> int:
        """Return the number of channels of all parts."""
        return sum(part.channels() for part in self.parts)

    def read(self, window: Window | None = None) -> Pixels:
        """Return all channels as floats."""
        layers = [part.read(window).float() for part in self.parts]
        for part, layer in zip(self.parts, layers, strict=True):
            if layer.shape[1:] != layers[0].shape[1:]:
                seen, wanted = tuple(layer.shape[1:]), tuple(layers[0].shape[1:])
                raise DataError(f"{part.path}: is {seen} pixels, {self.path} is {wanted}; make them equal")
        return torch.cat(layers)


def picture(path: Path) -> Picture:
    """Return the image in a file: bands of an ``.npy`` array, else colours."""
    return Bands(path) if path.suffix.lower() == ".npy" else ImageFile(path)


def as_colours(pixels: Pixels) -> UInt8[Tensor, "3 h w"]:
    """Return what a person sees of an image: its first three channels as red, green, blue, or its first as grey."""
    colours = pixels[:3] if pixels.shape[0] >= 3 else pixels[:1].expand(3, -1, -1)
    return colours if colours.dtype == torch.uint8 else colours.round().clamp(0, 255).to(torch.uint8)


def scaled(
    raw: Shaped[np.ndarray, "h w c"], value_range: tuple[float, float] | None, path: Path
) -> Float[Tensor, "c h w"]:
    """Return values h×w×c of any type as channels 0–255; what is no number becomes 0.

    Raises:
        DataError: They are floats or of more than 16 bits, or some are below 0, and no range is given; the message
            names ``path``.
    """
    if value_range is None:
        if raw.dtype.kind == "f":
            raise DataError(f"{path}: has floating-point values; say which become 0 and 255: range: [0, 1]")
        if raw.dtype.kind == "i" and raw.size and raw.min() < 0:
            raise DataError(f"{path}: has values below 0; say which become 0 and 255: range: [-1000, 1000]")
        if raw.dtype.itemsize > 2:  # Its largest is so large that all would be black.
            raise DataError(f"{path}: has values of type {raw.dtype}; say which become 0 and 255: range: [0, 255]")
        value_range = (0.0, 1.0 if raw.dtype.kind == "b" else float(np.iinfo(raw.dtype).max))
    low, high = value_range
    values = torch.from_numpy(np.nan_to_num(raw.transpose(2, 0, 1).astype(np.float32), nan=low))
    return ((values - low) * (255 / (high - low))).clamp_(0, 255).contiguous()
