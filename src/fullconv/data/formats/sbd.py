"""SBD, the Semantic Boundaries Dataset: ``img/``, ``cls/*.mat``, ``train.txt`` and ``val.txt``."""

from pathlib import Path

from ..description import Description
from ..pairing import Pairs
from ..source import Contents
from .voc import class_entries, listed_splits


def recognise(root: Path) -> bool:
    """Return whether ``root``, or ``dataset/`` in it, holds images and class maps in MATLAB files."""
    place = _place(root)
    return (place / "img").is_dir() and any((place / "cls").glob("*.mat"))


def read(root: Path, description: Description) -> Contents:
    """Read SBD with VOC's classes; the masks are ``GTcls.Segmentation`` of each ``.mat`` file."""
    place = _place(root)
    pairs = Pairs.of(place / "img", place / "cls")
    splits = listed_splits(place, pairs, description)
    return Contents(splits, root / "dataset.yaml", class_entries(), problems=tuple(pairs.problems))


def _place(root: Path) -> Path:
    return root / "dataset" if (root / "dataset" / "cls").is_dir() else root
