"""Windows of arrays, and masks that are stored as arrays: NumPy's ``.npy`` and SBD's ``.mat``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Integer, UInt8

from ..errors import DataError
from .text import refuse_no_file

_MOST_VALUES = 1 << 28


class Window(NamedTuple):
    """A rectangle of an image, in pixels; what lies outside the image is not part of it."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the part of an array h×w×… that lies inside, as a view."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


def read_npy(path: Path, window: Window | None = None) -> Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """Read ids h×w, colours h×w×3, or one class a layer: one-hot, h×w×k or k×h×w; of 0 and 1 where it could be colours.

    Of ids only the window is read; else all of it, as what kind it is shows in the whole.

    Raises:
        DataError: The file is not such an array; arrays of Python objects are refused unread.
    """
    array = load_npy(path)
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: holds no array, or several; save a single h×w array")
    _check_kind(array, path)
    if window and array.ndim == 2:
        array, window = window.cut(array), None
    if array.ndim == 3 and array.size > _MOST_VALUES:
        raise DataError(f"{path}: is too large to be a mask; save tiles, or an h×w array of ids")
    mask = _as_ids(np.array(array), path)
    return np.ascontiguousarray(window.cut(mask)) if window else mask


def load_npy(path: Path) -> Any:
    """Return what an ``.npy`` file holds, unread as yet if that is an array.

    Raises:
        DataError: It cannot be read, or holds Python objects.
    """
    refuse_no_file(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise DataError(f"{path}: is not a readable .npy array ({error}); save it with numpy.save") from None


def _check_kind(array: npt.NDArray[Any], path: Path) -> None:
    if array.dtype.kind not in "biu" or array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(
            f"{path}: is a {'×'.join(map(str, array.shape))} array of {array.dtype}; save class ids as whole numbers, "
            f"height × width"
        )


def _as_ids(array: npt.NDArray[Any], path: Path) -> Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    if array.ndim == 2:
        return array.astype(np.int64)
    colours = array.shape[2] == 3 and array.dtype == np.uint8
    if not colours or array.max() <= 1:
        for axis in (2, 0):
            if array.shape[axis] > 1 and bool((array.astype(bool).sum(axis=axis) == 1).all()):
                return np.asarray(array.argmax(axis=axis), np.int32)
    if colours:
        return array
    raise DataError(
        f"{path}: is a {'×'.join(map(str, array.shape))} array, but neither colours nor layers with exactly one class "
        f"a pixel; save class ids, height × width"
    )


def read_sbd(path: Path) -> Integer[np.ndarray, "h w"]:
    """Read ``GTcls.Segmentation`` of an SBD file.

    Raises:
        DataError: It is not such a file, or scipy, which reads it, is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"{path}: .mat masks need scipy; pip install 'fullconv[mat]'") from error
    refuse_no_file(path)
    try:
        segmentation = loadmat(path, squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation
    except Exception as error:
        raise DataError(
            f"{path}: holds no GTcls.Segmentation ({type(error).__name__}: {error}); use SBD's cls/*.mat files"
        ) from None
    ids = np.asarray(segmentation)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise DataError(f"{path}: GTcls.Segmentation is no array of class ids; use SBD's cls/*.mat files")
    return ids.astype(np.int32)


ARRAY_READERS: dict[str, Callable[[Path], Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]]] = {
    ".npy": read_npy,
    ".mat": read_sbd,
}
"""How to read a mask by its extension, where it is not an image."""
