"""CVAT's "Segmentation mask 1.1": ``SegmentationClass/`` and ``labelmap.txt``, in VOC's layout."""

from pathlib import Path

from ...errors import DataError
from ...files.text import read_text
from ..classes import ClassEntry
from ..description import Description
from ..pairing import Pairs
from ..source import Contents
from .voc import listed_splits

IMAGE_FOLDERS = ("JPEGImages", "images", ".")


def recognise(root: Path) -> bool:
    """Return whether there are masks and a label map."""
    return (root / "SegmentationClass").is_dir() and (root / "labelmap.txt").is_file()


def read(root: Path, description: Description) -> Contents:
    """Read masks in the label map's colours; the images lie in ``JPEGImages/``, ``images/``, or beside it."""
    images = next(root / name for name in IMAGE_FOLDERS if (root / name).is_dir())
    pairs = Pairs.of(images, root / "SegmentationClass")
    table = root / "labelmap.txt"
    entries = description.entries() or _entries(table)  # By colour: the ids of the label map stand in no mask.
    # CVAT's default.txt, of images in no subset, is no split: where it is the only list, all are taken.
    return Contents(listed_splits(root, pairs, description), table, entries, problems=tuple(pairs.problems))


def _entries(table: Path) -> list[ClassEntry]:
    entries: list[ClassEntry] = []
    for line in read_text(table).splitlines():
        if line.strip() and not line.startswith("#"):
            name, colour, *_ = [*line.split(":"), "", ""]
            numbers = [int(word) for word in colour.split(",") if word.strip().isdecimal()]
            if len(numbers) != 3:
                raise DataError(f"{table}: the line {line!r} has no colour; write name:red,green,blue::")
            entries.append(ClassEntry(len(entries), name.strip(), (numbers[0], numbers[1], numbers[2])))
    return entries
