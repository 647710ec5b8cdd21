"""Image and mask files as arrays; every error names the file."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError, in_one_line
from .arrays import ARRAY_READERS

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Extensions, in lower case, of the files that count as images."""

MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".mat", ".npy")
"""Extensions, in lower case, of the files that count as masks."""

LOSSY_MASK = ("is a JPEG, whose compression changes class ids", "save masks as PNG")
"""What is wrong with such a mask, and what to do."""

_ORIENTATION = 0x0112
_BOMB_BYTES, _MASK_BYTES, _BOMB_RATIO = 1 << 27, 1 << 29, 250
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_READ_AT_ONCE = 1 << 26
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path, content: bytes | None = None) -> UInt8[Tensor, "3 h w"]:
    """Read any image file as red, green, blue (0–255), turned the way its EXIF orientation says.

    Grey, palette and CMYK are converted, 16-bit grey is scaled to 8 bits, transparency is dropped (a
    transparent pixel keeps its colour), and of several frames the first is read.

    Args:
        path: The file.
        content: Its bytes, where it lies inside another file and ``path`` is only its name for messages.

    Raises:
        DataError: The file is missing, empty, broken, too large, or its pixels are floats; the message names
            it.
    """
    with opened(Path(path), content, whole=True, colours=True) as image:
        return to_rgb(image)


def read_mask(
    path: str | Path, content: bytes | None = None
) -> Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """Read a mask as it stands in the file: raw ids, or red, green, blue where it is a colour image.

    Palette images give their indices, 1-bit images 0 and 1, images of 2 to 16 bits their values; transparency
    is dropped. An ``.npy`` array holds ids h×w, colours h×w×3, or one class a layer (one-hot, h×w×k or k×h×w;
    of 0 and 1 where it could be colours); a ``.mat`` file is one of SBD's.

    Args:
        path: The file.
        content: As for ``read_image``.

    Raises:
        DataError: The file is missing, empty, broken, too large, a JPEG, or its pixels are floats.
    """
    path = Path(path)
    if path.suffix.lower() in ARRAY_READERS and content is None:
        return ARRAY_READERS[path.suffix.lower()](path)
    with opened(path, content, whole=True, mask=True) as image:
        if image.format in ("JPEG", "MPO"):
            raise DataError("; ".join(LOSSY_MASK))
        step = _grey_step(image)
        mask = _raw_mask(upright(image))
        return mask if step == 1 else mask // np.uint8(step)


def _grey_step(image: Image.Image) -> int:
    """Return what Pillow will multiply grey of 2 or 4 bits by, so that it fills 8; before the image is loaded."""
    tiles: Any = getattr(image, "tile", None)
    layout = tiles[0][3] if tiles and image.mode == "L" else ()
    packed = layout[0] if isinstance(layout, tuple) and layout else layout
    return {"L;2": 85, "L;4": 17}.get(packed, 1)


def _raw_mask(mask: Image.Image) -> Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    if mask.mode in ("1", "L", "P"):
        return np.array(mask).astype(np.uint8)
    if mask.mode in ("LA", "PA"):
        return np.array(mask)[..., 0]
    if mask.mode.startswith("I"):
        return np.array(mask).astype(np.int32)
    if mask.mode == "F":
        raise DataError("has floating-point pixels; save masks as 8- or 16-bit PNG of class ids")
    return np.array(mask.convert("RGB"))


def is_turned(path: Path) -> bool:
    """Return whether an image's EXIF orientation turns it on its side, so that height and width change places.

    Raises:
        DataError: As ``image_size``.
    """
    with opened(path) as image:
        return image.format != "TIFF" and _orientation(Image.Image.getexif, image) >= 5


def image_size(path: str | Path, content: bytes | None = None) -> tuple[int, int]:
    """Return (height, width) in pixels as ``read_image`` would give them, from the file's header alone.

    Args:
        path: The file.
        content: As for ``read_image``.

    Raises:
        DataError: The file is missing, empty, too large, or not an image.
    """
    with opened(Path(path), content) as image:
        width, height = image.size
        # Pillow's TIFF sizes are upright already; the base class's method does not decode a PNG to find EXIF.
        turned = image.format != "TIFF" and _orientation(Image.Image.getexif, image) >= 5
        return (width, height) if turned else (height, width)


def mask_palette(path: str | Path) -> tuple[tuple[int, int, int], ...] | None:
    """Return the colours (0–255) of a palette image by index; None where it has no palette.

    Raises:
        DataError: As ``read_mask``.
    """
    if Path(path).suffix.lower() in ARRAY_READERS:
        return None
    with opened(Path(path), mask=True) as image:
        flat = image.getpalette("RGB") if image.mode == "P" else None
        return None if flat is None else tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


def to_rgb(image: Image.Image | npt.NDArray[Any] | Tensor) -> UInt8[Tensor, "3 h w"]:
    """Return a picture in memory as red, green, blue, 0–255.

    Args:
        image: A PIL image (turned the way its EXIF orientation says); an 8-bit array h×w, h×w×1 (grey), h×w×3
            (RGB) or h×w×4 (RGBA, transparency is dropped); or an 8-bit tensor 1×h×w, 3×h×w or 4×h×w.

    Raises:
        DataError: An array of another type or shape, no pixels, or PIL pixels that are floats.
    """
    if isinstance(image, Tensor):
        image = _channels_last(image)
    pixels = _array_rgb(image) if isinstance(image, np.ndarray) else rgb_pixels(image)
    if 0 in pixels.shape:
        raise DataError(f"image has no pixels (height {pixels.shape[0]}, width {pixels.shape[1]}); give at least 1×1")
    # A view: resizing is fastest with the channels side by side.
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _channels_last(image: Tensor) -> npt.NDArray[Any]:
    if image.ndim != 3:
        raise DataError(f"image tensor has shape {tuple(image.shape)}; give 3 × height × width")
    return image.detach().cpu().permute(1, 2, 0).numpy()


def _array_rgb(array: npt.NDArray[Any]) -> UInt8[np.ndarray, "h w 3"]:
    if array.dtype != np.uint8:
        raise DataError(f"image array is {array.dtype}; convert it to uint8 with values 0–255")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise DataError(f"image array has shape {array.shape}; give height × width, with 1, 3 or 4 channels last")
    # A copy, because the tensor must not change with the caller's array.
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3].copy()


def rgb_pixels(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return a PIL image's red, green, blue, turned the way its EXIF orientation says.

    Raises:
        DataError: Its pixels are floats, or some are below 0.
    """
    image = upright(image)
    if image.mode == "F":
        raise DataError(
            "has floating-point pixels, whose range is unknown; say which values become 0 and 255 in a dataset.yaml "
            "(range: [0, 1]), or save it as 8- or 16-bit PNG"
        )
    if image.mode.startswith("I"):
        wide = np.array(image).astype(np.int64)
        if wide.size and wide.min() < 0:
            raise DataError("has values below 0; say which become 0 and 255 in a dataset.yaml: range: [-1000, 1000]")
        wide = wide.clip(max=65535)
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def upright(image: Image.Image) -> Image.Image:
    """Return a PIL image, loaded and turned the way its EXIF orientation says."""
    # Loading first: Pillow turns TIFF files itself while it loads them, and then drops the tag.
    image.load()
    turn = _TURNS.get(_orientation(type(image).getexif, image))
    return image if turn is None else image.transpose(turn)


def _orientation(getexif: Callable[[Any], Image.Exif], image: Image.Image) -> int:
    try:
        value = getexif(image).get(_ORIENTATION, 1)
    except Exception:  # Broken EXIF fails in a dozen ways and is no reason to refuse the pixels.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextlib.contextmanager
def opened(
    path: Path, content: bytes | None = None, *, whole: bool = False, colours: bool = False, mask: bool = False
) -> Iterator[Image.Image]:
    """Open an image file for a block, and name the file in whatever goes wrong in the block.

    Args:
        path: The file.
        content: As for ``read_image``.
        whole: All of it will be needed: read it at once, instead of in many small parts.
        colours: It will be turned into colours, whatever it is now; grey then takes as much memory.
        mask: It is a mask, whose few classes make honest files that unfold a thousandfold: up to 512 MiB are let pass.

    Raises:
        DataError: The file is missing, empty, broken, too large or a program; the message names it.
    """
    if content is None and not path.is_file():
        raise DataError(f"{path}: no such file; check the path, or take it off the list that names it")
    size = 0
    try:
        size = path.stat().st_size if content is None else len(content)
        if whole and content is None and size <= _READ_AT_ONCE:
            content = path.read_bytes()
        # A file, not a path: from a path, Pillow 13 maps plain TIFFs to memory and scrambles those on their side.
        with path.open("rb") if content is None else io.BytesIO(content) as file, Image.open(file) as image:
            if image.format == "EPS":  # Which Pillow has Ghostscript run.
                raise DataError("is PostScript, a program; save it as PNG")
            # Pillow keeps colours in 4 bytes.
            each = 4 if colours else _BYTES.get(image.mode, 4)
            refuse_bomb(image.size[0] * image.size[1] * each, size, mask=mask)
            yield image
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too many pixels to be read safely ({error}); scale or tile it first") from None
    # Pillow's decoders also raise SyntaxError, ValueError, struct.error and others on broken files.
    except Exception as error:
        raise DataError(
            f"{path}: {_complaint(size, error)}; replace the file, or remove it from the data set"
        ) from None


def refuse_bomb(unfolded: int, size: int, *, mask: bool = False) -> None:
    """Refuse to fill the memory with nothing: no camera's bytes unfold that far.

    Args:
        unfolded: Bytes in memory.
        size: Bytes of the file.
        mask: It is a mask, as for ``opened``.

    Raises:
        DataError: The file is a decompression bomb.
    """
    if unfolded > (_MASK_BYTES if mask else _BOMB_BYTES) and unfolded > _BOMB_RATIO * size:
        raise DataError(
            f"unfolds {size} bytes to {unfolded >> 20} MiB, as decompression bombs do; "
            f"if it is meant, save it as tiles, or as GeoTIFF and draw patches"
        )


def _complaint(size: int, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if size == 0:
        return "is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image that Pillow can read"
    return f"cannot be decoded ({in_one_line(error)})"
