"""PASCAL VOC: ``JPEGImages``, ``SegmentationClass``, and lists in ``ImageSets/Segmentation`` or beside them."""

from pathlib import Path

from ..classes import ClassEntry
from ..description import Description
from ..labels import voc_palette
from ..pairing import Pairs, described_stems, read_stems, split_lists
from ..source import Contents, Record

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LISTS = ("ImageSets/Segmentation", ".")


def recognise(root: Path) -> bool:
    """Return whether ``root`` holds VOC's two folders."""
    return (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()


def read(root: Path, description: Description) -> Contents:
    """Read the lists; ``trainval`` only where it is not made of two others."""
    pairs = Pairs.of(root / "JPEGImages", root / "SegmentationClass")
    splits = listed_splits(root, pairs, description)
    return Contents(splits, root / "dataset.yaml", class_entries(), problems=tuple(pairs.problems))


def class_entries() -> list[ClassEntry]:
    """Return VOC's background and twenty classes in its colours."""
    return [ClassEntry(number, name, voc_palette(21)[number]) for number, name in enumerate(NAMES)]


def listed_splits(root: Path, pairs: Pairs, description: Description) -> dict[str, tuple[Record, ...]]:
    """Return the samples of every list that is found, or all of them in no split."""
    if description.splits:
        return {
            split: pairs.listed(*described_stems(root, split, stems)) for split, stems in description.splits.items()
        }
    folder = next((root / name for name in LISTS if any((root / name).glob("*.txt"))), None)
    found = split_lists(folder) if folder else {}
    if not found:
        return {"": pairs.every()}
    return {name: pairs.listed(read_stems(path), path) for name, path in found.items()}
