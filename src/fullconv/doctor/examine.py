"""One sample under the lens: what is wrong with its two files, and the numbers the whole set is judged by."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer, Shaped
from PIL import Image

from ..data.classes import ClassTable
from ..data.problems import Problem
from ..data.source import Record, size_problem
from ..errors import DataError
from ..files.images import LOSSY_MASK, mask_palette, opened, rgb_pixels
from ..files.masks import MaskFile
from ..files.pictures import ImageFile

TINY = 32
"""Images whose shorter side is below this many pixels are too small to learn from."""

THUMBNAIL = 16
RAMPS = 0.2
"""Share of a mask's edges that run over an id in between from which on it was smoothed.

Of 3,715 masks of Stanford Background, SIFT Flow, VOC and NYUDv2 none has more than 0.08; smoothed, all whose ids
are not neighbours have at least 0.35.
"""

_LEAST_EDGES = 100
_COUNTED = 65536
_SUFFIXES = {
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}


@dataclass
class Examination:
    """What one sample showed.

    Attributes:
        record: The sample.
        problems: What is wrong with it.
        size: Height and width of the image in pixels, upright; None where it cannot be read.
        mode: Pillow's name for the image's channels and depth, such as RGB, L, I;16; or how many bands it is read as.
        highest: The highest value of an image of 16 bits a channel, which is read as 8; None for others.
        digest: Of the image file's bytes, or of its pixels where it is part of a file.
        thumbnail: The image at 16×16, mean 0 and length 1, for finding near-duplicates.
        mean: Of each channel, 0–255.
        square: Mean of their squares.
        target: Class ids, with void as the number of classes; None where the mask cannot be used.
        by_colour: Whether the mask spells the classes by colours, not by ids.
    """

    record: Record
    problems: list[Problem] = field(default_factory=list)
    size: tuple[int, int] | None = None
    mode: str = ""
    highest: int | None = None
    digest: bytes = b""
    thumbnail: Float[np.ndarray, "768"] | None = None
    mean: Float[np.ndarray, "c"] | None = None
    square: Float[np.ndarray, "c"] | None = None
    target: Integer[np.ndarray, "h w"] | None = None
    by_colour: bool = False


def examine(record: Record, table: ClassTable, *, thorough: bool = True, warn: bool = True) -> Examination:
    """Read both files of a sample and return what they show; never raises for what is in them.

    Args:
        record: The sample.
        table: The classes and how masks spell them.
        thorough: Decode the image as well; else its header is enough, and of it ``size`` is known and how many bands.
        warn: Also look for what is only a warning and takes time.
    """
    found = Examination(record)
    with _collecting(found, record.image.path):
        if thorough:
            _examine_image(found)
        else:
            found.size = record.image.size()
            found.mode = f"{record.image.channels()} bands"
    with _collecting(found, record.mask.path):
        _examine_mask(found, table, warn)
    return found


@contextmanager
def _collecting(found: Examination, path: Path) -> Iterator[None]:
    """Turn an error into a problem of the file."""
    try:
        yield
    except DataError as error:
        seen, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
        kind = "empty_file" if path.is_file() and path.stat().st_size == 0 else "unreadable"
        found.problems.append(Problem(kind, (path,), seen, remedy or "correct the file"))


def _examine_image(found: Examination) -> None:
    path = found.record.image.path
    pixels = _file_pixels(found, path) if isinstance(found.record.image, ImageFile) else _other_pixels(found)
    found.size = (pixels.shape[0], pixels.shape[1])
    if min(found.size) < TINY:
        seen = f"is only {found.size[0]}×{found.size[1]} pixels"
        remedy = f"remove it, or use a larger version (at least {TINY} on the shorter side)"
        found.problems.append(Problem("tiny_image", (path,), seen, remedy))
    found.thumbnail = _thumbnail(pixels)
    sparse = pixels[::4, ::4].reshape(-1, pixels.shape[2]).astype(np.float32)
    found.mean, found.square = sparse.mean(axis=0, dtype=np.float64), (sparse**2).mean(axis=0, dtype=np.float64)


def _file_pixels(found: Examination, path: Path) -> Integer[np.ndarray, "h w 3"]:
    """Return red, green, blue of an image file, and report what its header tells."""
    with opened(path, colours=True) as image:
        found.digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        _check_extension(found, image, path)
        found.mode = image.mode
        if image.mode.startswith("I"):
            found.highest = int(np.array(image).max())
        return rgb_pixels(image)


def _other_pixels(found: Examination) -> Shaped[np.ndarray, "h w c"]:
    """Return the channels, 0–255, of an image that is no file of its own or more than colours."""
    pixels = found.record.image.read().numpy().transpose(1, 2, 0)
    found.mode = f"{pixels.shape[2]} bands"
    found.digest = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()
    return pixels


def _check_extension(found: Examination, image: Image.Image, path: Path) -> None:
    fitting = _SUFFIXES.get(image.format or "", ())
    if fitting and path.suffix.lower() not in fitting:
        seen = f"is called {path.suffix} but holds {image.format} data"
        found.problems.append(Problem("wrong_extension", (path,), seen, f"rename it to {path.stem}{fitting[0]}"))


def _thumbnail(pixels: Shaped[np.ndarray, "h w c"]) -> Float[np.ndarray, "768"]:
    colours = pixels if pixels.shape[2] == 3 else pixels[..., [0, 1, 2] if pixels.shape[2] > 3 else [0, 0, 0]]
    # Exact weights, not box means of whole pixels: those differ too much between two sizes of one picture.
    picture = Image.fromarray(np.ascontiguousarray(colours, np.uint8))
    small = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    values = np.asarray(small, np.float32).ravel()
    values = values - values.mean()
    return np.asarray(values / max(1.0, float(np.linalg.norm(values))))


def _examine_mask(found: Examination, table: ClassTable, warn: bool) -> None:
    record = found.record
    if isinstance(record.mask, MaskFile) and not _examine_mask_file(found, record.mask.path):
        return
    mask = record.mask.read()
    if found.size and found.size != mask.shape[:2]:
        found.problems.append(size_problem(record, found.size, (mask.shape[0], mask.shape[1])))
    found.by_colour = mask.ndim == 3
    if not found.by_colour:
        _examine_ids(found, mask, table, warn)
    else:
        _examine_colours(found, mask, table)


def _examine_mask_file(found: Examination, path: Path) -> bool:
    """Report what an image file's kind tells of a mask; return whether its pixels can be trusted."""
    if path.suffix.lower() in (".npy", ".mat"):
        return True
    with opened(path, mask=True) as image:
        if image.format in ("JPEG", "MPO"):
            found.problems.append(Problem("lossy_mask", (path,), *LOSSY_MASK))
            return False
        _check_extension(found, image, path)
        if image.mode in ("LA", "PA", "RGBA"):
            low, high = image.getchannel("A").getextrema()
            kind = "alpha_mask" if low == high else "transparent_mask"
            seen = "has an alpha channel" + (
                "" if low == high else ", which is not the same everywhere and is not read"
            )
            remedy = "save it without" if low == high else "move what alpha says into the ids, and save it without"
            found.problems.append(Problem(kind, (path,), seen, remedy))
    return True


def _examine_ids(found: Examination, mask: Integer[np.ndarray, "h w"], table: ClassTable, warn: bool) -> None:
    path, classes = found.record.mask.path, table.labels.num_classes
    present = _ids_in(mask)
    unknown = present[table.from_ids(present) < 0]
    other = _palette_problem(found.record, present, table)
    if problem := other or _ids_problem(mask, present, unknown, table, path, warn):
        found.problems.append(problem)
        if unknown.size and problem.severity == "error":
            return
    target = table.from_ids(mask)
    found.target = np.where(target < classes, target, classes)


def _ids_in(mask: Integer[np.ndarray, "h w"]) -> Int64[np.ndarray, "p"]:
    """Return the ids that occur, the lowest first."""
    if mask.min() >= 0 and mask.max() < _COUNTED:
        return np.flatnonzero(np.bincount(mask.ravel()))
    return np.unique(mask).astype(np.int64)


def _palette_problem(record: Record, present: Int64[np.ndarray, "p"], table: ClassTable) -> Problem | None:
    """Report a palette image whose colours are all of classes, but not those of its indices.

    Programs that make files small number colours anew. Palettes that are only for display hold other colours.
    """
    palette = mask_palette(record.mask.path) if isinstance(record.mask, MaskFile) and table.colours else None
    if palette is None or present[-1] >= len(palette):
        return None
    void = table.labels.ignore_index
    # A class, or void, that no id stands for (label_map sends its own elsewhere) can only be met by colour.
    told = {*table.ids.values()}
    pairs = [(table.colours.get(palette[index]), table.ids.get(index, void)) for index in present.tolist()]
    if any(by_colour is None for by_colour, _ in pairs):
        return None
    if all(by_colour == by_index or by_colour not in told for by_colour, by_index in pairs):
        return None
    seen = "is a palette image whose indices are other classes than their colours"
    return Problem("palette_order", (record.mask.path,), seen, "save it as RGB, or as 8-bit grey of class ids")


def _ids_problem(
    mask: Integer[np.ndarray, "h w"],
    present: Int64[np.ndarray, "p"],
    unknown: Int64[np.ndarray, "u"],
    table: ClassTable,
    path: Path,
    warn: bool,
) -> Problem | None:
    ids = [number for number, to in table.ids.items() if to != table.labels.ignore_index]
    if present.tolist() == [0, 255] and 255 not in ids:
        seen = "holds only 0 and 255, where 255 is void: there is nothing to tell apart"
        remedy = "set classes: {0: background, 255: object} and ignore_index: null in a dataset.yaml"
        return Problem("binary_255_mask", (path,), seen, remedy)
    # Of ids that are all known, it is only a warning.
    if (warn or unknown.size) and _ramp_share(mask) > RAMPS:
        seen = "has edges that run through ids in between: it was resized or drawn with smoothing"
        remedy = "export it again, resized with nearest neighbour and drawn without anti-aliasing"
        return Problem("antialiased_mask", (path,), seen, remedy, blocks=bool(unknown.size))
    if not unknown.size:
        return None
    if unknown.tolist() == [max(ids) + 1] and min(ids) not in present:
        names = table.labels.names
        seen = f"holds id {unknown[0]} but never {min(ids)}: ids seem to be one too high for the {len(names)} classes"
        remedy = f"number classes from {min(ids)}, or give their ids: classes: {{{min(ids) + 1}: {names[0]}, …}}"
        return Problem("off_by_one_ids", (path,), seen, remedy)
    return table.stray_ids(unknown, path)


def _ramp_share(mask: Integer[np.ndarray, "h w"]) -> float:
    """Return the share of edges, along rows and columns, that go over an id in between.

    Edges between neighbouring ids have none in between and do not count.
    """
    ramps = jumps = 0
    for lines in (mask, mask.T):
        step = np.diff(lines.astype(np.int32), axis=1)
        way = np.sign(step)
        jumps += int(np.count_nonzero(np.abs(step) > 1))
        ramps += int(np.count_nonzero((way[:, 1:] == way[:, :-1]) & (way[:, 1:] != 0)))
    return ramps / (jumps + ramps) if jumps + ramps >= _LEAST_EDGES else 0.0


def _examine_colours(found: Examination, mask: Integer[np.ndarray, "h w 3"], table: ClassTable) -> None:
    path, classes = found.record.mask.path, table.labels.num_classes
    if not table.colours:
        found.problems.append(table.no_colours(path))
        return
    target = table.from_colours(mask)
    unknown = target < 0
    if unknown.any():
        found.problems.append(_colours_problem(mask, unknown, table, path))
        return
    found.target = np.where(target < classes, target, classes)


def _colours_problem(
    mask: Integer[np.ndarray, "h w 3"], unknown: Bool[np.ndarray, "h w"], table: ClassTable, path: Path
) -> Problem:
    if _between_share(mask, unknown) <= 0.5:
        return table.stray_colours(mask[unknown], path)
    colours, counts = np.unique(mask[unknown], axis=0, return_counts=True)
    most = tuple(colours[counts.argmax()].tolist())
    seen = f"has {len(colours)} colours that lie between its neighbours', such as {most}: its edges were smoothed"
    remedy = "export it again, resized with nearest neighbour and drawn without anti-aliasing"
    return Problem("antialiased_mask", (path,), seen, remedy, blocks=True)


def _between_share(mask: Integer[np.ndarray, "h w 3"], unknown: Bool[np.ndarray, "h w"]) -> float:
    """Return the share of unknown pixels that differ from both neighbours in a row or column."""
    thin = np.zeros_like(unknown)
    for axis in (0, 1):
        same = (np.diff(mask, axis=axis) == 0).all(axis=2)
        pad: Any = [(0, 0), (0, 0)]
        pad[axis] = (1, 1)
        padded = np.pad(same, pad)
        before, after = (padded[:-1], padded[1:]) if axis == 0 else (padded[:, :-1], padded[:, 1:])
        thin |= ~before & ~after
    return float((thin & unknown).sum() / unknown.sum())


def unlabelled(target: Integer[np.ndarray, "h w"], table: ClassTable) -> bool:
    """Return whether a mask teaches nothing: all void, or all background."""
    names = table.labels.names
    low, high = int(target.min()), int(target.max())
    return low == len(names) or (low == high and names[low].lower() in ("background", "_background_"))
