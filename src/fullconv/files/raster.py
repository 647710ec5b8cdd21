"""Files of any number of bands and any depth, whole or a window of them: GeoTIFF, ``.npy``, and what Pillow reads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from ..errors import DataError, in_one_line
from .arrays import Window, load_npy
from .images import image_size, opened, refuse_bomb, upright

TIFF_SUFFIXES = (".tif", ".tiff")

_PICTURES = ((1, "uint8"), (3, "uint8"), (4, "uint8"))
_COLOURS = ("P", "CMYK", "YCbCr", "LAB", "HSV")


class RasterKind(NamedTuple):
    """What a file's header tells: number of bands, (height, width), type of the values, and the one for no data."""

    bands: int
    size: tuple[int, int]
    dtype: np.dtype[Any]
    nodata: float | None = None


def raster_kind(path: Path) -> RasterKind:
    """Return what a file's header tells.

    Raises:
        DataError: The file cannot be read, or is a TIFF that only rasterio reads, which is not installed.
    """
    if path.suffix.lower() == ".npy":
        array = _mapped(path)
        return RasterKind(array.shape[2], (array.shape[0], array.shape[1]), array.dtype)
    if path.suffix.lower() in TIFF_SUFFIXES and _rasterio() is not None:
        with _geotiff(path) as file:
            return RasterKind(file.count, (file.height, file.width), np.dtype(file.dtypes[0]), file.nodata)
    with opened(path) as image:
        bands = 3 if image.mode in _COLOURS else len(image.getbands())
        dtype = "u2" if image.mode.startswith("I") else {"1": "?", "F": "f4"}.get(image.mode, "u1")
    return RasterKind(bands, image_size(path), np.dtype(dtype))


def read_raster(
    path: Path, window: Window | None = None, bands: Sequence[int] | None = None, *, mask: bool = False
) -> Shaped[np.ndarray, "h w c"]:
    """Read bands as they stand in the file; of GeoTIFF and ``.npy`` files only the window is read.

    Args:
        path: The file.
        window: By default all of it.
        bands: Their numbers, from 1; by default all.
        mask: It is a GeoTIFF of a mask, which may unfold further than an image, as for ``opened``.

    Raises:
        DataError: The file cannot be read, or has no such band.
    """
    kind = raster_kind(path)
    numbers = list(bands or range(1, kind.bands + 1))
    if not all(1 <= number <= kind.bands for number in numbers):
        raise DataError(f"{path}: has {kind.bands} bands, and bands are {numbers}; correct bands in the dataset.yaml")
    if path.suffix.lower() in TIFF_SUFFIXES and _rasterio() is not None:
        with _geotiff(path) as file:
            window = window or Window(0, 0, *kind.size)
            unfolded = window.height * window.width * len(numbers) * kind.dtype.itemsize
            refuse_bomb(unfolded, path.stat().st_size, mask=mask)
            place = ((window.top, window.top + window.height), (window.left, window.left + window.width))
            return np.ascontiguousarray(file.read(numbers, window=place).transpose(1, 2, 0))
    array = _mapped(path) if path.suffix.lower() == ".npy" else _decoded(path)
    array = window.cut(array) if window else array
    return np.ascontiguousarray(array[..., [number - 1 for number in numbers]])


def _mapped(path: Path) -> Shaped[np.ndarray, "h w c"]:
    array = load_npy(path)
    if (
        not isinstance(array, np.ndarray)
        or array.ndim not in (2, 3)
        or array.dtype.kind not in "biuf"
        or not array.size
    ):
        raise DataError(f"{path}: holds no array of numbers height × width × bands; save one with numpy.save")
    return array if array.ndim == 3 else array[..., None]


def _decoded(path: Path) -> Shaped[np.ndarray, "h w c"]:
    with opened(path) as image:
        if getattr(image, "n_frames", 1) > 1 and image.format == "TIFF":
            raise DataError("has several pages; pip install 'fullconv[geo]' to read such a TIFF")
        turned = upright(image)
        pixels = np.array(turned.convert("RGB") if turned.mode in _COLOURS else turned)
    if pixels.dtype == np.int32 and pixels.min() >= 0:  # Pillow's for all that has more than 8 bits.
        pixels = pixels.clip(max=65535).astype(np.uint16)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def has_rasterio() -> bool:
    """Return whether rasterio, which the extra ``geo`` installs, is there."""
    return _rasterio() is not None


def is_georeferenced(path: Path) -> bool:
    """Return whether a TIFF has coordinates, or bands that make no picture in 8-bit colours; False if unreadable."""
    try:
        with _geotiff(path) as file:
            return bool(file.crs) or not file.transform.is_identity or (file.count, file.dtypes[0]) not in _PICTURES
    except DataError:
        return False


def _rasterio() -> Any:
    try:
        import rasterio
    except ImportError:
        return None
    return rasterio


@contextmanager
def _geotiff(path: Path) -> Iterator[Any]:
    import warnings

    rasterio = _rasterio()
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path, or take it off the list that names it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as file:
                yield file
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:
        empty = path.stat().st_size == 0
        reason = "is empty (0 bytes)" if empty else f"cannot be read ({in_one_line(error)})"
        raise DataError(f"{path}: {reason}; replace the file, or remove it from the data set") from None
