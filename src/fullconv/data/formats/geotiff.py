"""GeoTIFF pairs in a plain folder layout: any bands, any depth, and windows of rasters too large for memory."""

from dataclasses import replace
from pathlib import Path

from ...files.images import IMAGE_SUFFIXES
from ...files.masks import EXACT, NO_NUMBER, MaskFile, RasterMask
from ...files.pictures import Bands
from ...files.raster import TIFF_SUFFIXES, has_rasterio, is_georeferenced, raster_kind
from ..description import Description
from ..pairing import files_in
from ..source import Contents, Record
from . import folder


def recognise(root: Path) -> bool:
    """Return whether the images are TIFFs with coordinates, or with other bands than Pillow reads; needs rasterio."""
    if not has_rasterio():
        return False
    for images, _ in folder.places(root).values():
        first = next(iter(files_in(images, IMAGE_SUFFIXES)), None)
        return first is not None and first.suffix.lower() in TIFF_SUFFIXES and is_georeferenced(first)
    return False


def read(root: Path, description: Description) -> Contents:
    """Pair them as in a plain folder; a mask's value for "no data" is void.

    Raises:
        DataError: A folder or list that is needed does not exist, or a file cannot be read.
    """
    contents = folder.read(root, description)
    splits = {split: tuple(map(_as_raster, records)) for split, records in contents.splits.items()}
    ignored = contents.ignore_index
    for record in next(iter(splits.values()), ())[:1]:
        if record.mask.path.suffix.lower() in TIFF_SUFFIXES:
            ignored = _void(raster_kind(record.mask.path).nodata, ignored)
    return replace(contents, splits=splits, ignore_index=ignored)


def _void(nodata: float | None, ignored: int | None) -> int | None:
    if nodata is None:
        return ignored
    if not abs(nodata) < EXACT:  # Nor is NaN.
        return NO_NUMBER
    return int(nodata) if float(nodata).is_integer() else ignored


def _as_raster(record: Record) -> Record:
    mask = record.mask
    if isinstance(mask, MaskFile) and mask.path.suffix.lower() in TIFF_SUFFIXES:
        mask = RasterMask(mask.path)
    return replace(record, image=Bands(record.image.path), mask=mask)
