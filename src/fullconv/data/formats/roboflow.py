"""Roboflow's semantic masks: ``train/ valid/ test/``, each with ``x.jpg``, ``x_mask.png`` and ``_classes.csv``."""

from pathlib import Path

from ...errors import DataError
from ...files.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from ...files.masks import MaskFile
from ...files.pictures import ImageFile
from ...files.text import read_rows
from ..classes import ClassEntry, largest_table
from ..description import Description
from ..pairing import files_in
from ..problems import Problem
from ..source import Contents, Record

TABLE, ENDING = "_classes.csv", "_mask"
SPLITS = {"train": "train", "val": "valid", "test": "test"}


def recognise(root: Path) -> bool:
    """Return whether ``root`` or a split in it has a table of classes."""
    return any((place / TABLE).is_file() for place in (root, *(root / folder for folder in SPLITS.values())))


def read(root: Path, description: Description) -> Contents:
    """Read every split that has a table; the one with the most classes names them.

    Raises:
        DataError: A table cannot be read, names no class, or calls one otherwise.
    """
    places = {split: root / folder for split, folder in SPLITS.items() if (root / folder / TABLE).is_file()}
    places = places or {"": root}
    problems: list[Problem] = []
    splits = {split: _pairs(place, problems) for split, place in places.items()}
    tables = {place / TABLE: _entries(place / TABLE) for place in places.values()}
    where = largest_table(tables)
    return Contents(splits, where, tables[where], problems=tuple(problems))


def _pairs(place: Path, problems: list[Problem]) -> tuple[Record, ...]:
    masks = {file.stem: file for file in files_in(place, MASK_SUFFIXES) if file.stem.endswith(ENDING)}
    taken = set(masks.values())
    images = [file for file in files_in(place, IMAGE_SUFFIXES) if file not in taken]
    records = [
        Record(image.stem, ImageFile(image), MaskFile(masks.pop(f"{image.stem}{ENDING}")))
        for image in images
        if f"{image.stem}{ENDING}" in masks
    ]
    paired = {record.stem for record in records}
    for image in images:
        if image.stem not in paired:
            seen = f"has no mask {image.stem}{ENDING}.png beside it"
            problems.append(Problem("missing_mask", (image,), seen, "add the mask, or remove this file"))
    for mask in masks.values():
        seen = f"has no image {mask.stem.removesuffix(ENDING)} beside it"
        problems.append(Problem("missing_image", (mask,), seen, "add the image, or remove this file"))
    return tuple(records)


def _entries(table: Path) -> list[ClassEntry]:
    rows = read_rows(table)
    entries = [ClassEntry(int(row[0]), row[1]) for row in rows if len(row) > 1 and row[0].isdecimal()]
    if not entries:
        raise DataError(f"{table}: names no class; write a pixel value and a name a line, such as 0, background")
    return entries
