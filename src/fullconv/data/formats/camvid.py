"""CamVid in SegNet's layout: ``train/`` and ``trainannot/``, and so for ``val`` and ``test``."""

from pathlib import Path

from ..classes import VOID, ClassEntry
from ..description import Description
from ..pairing import Pairs
from ..problems import Problem
from ..source import SPLITS, Contents

COLOURS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


def recognise(root: Path) -> bool:
    """Return whether a split's images and annotations lie beside each other."""
    return any((root / split).is_dir() and (root / f"{split}annot").is_dir() for split in SPLITS)


def read(root: Path, description: Description) -> Contents:
    """Pair the files of every split; id 11 is void."""
    splits, problems = {}, list[Problem]()
    for split in SPLITS:
        if (root / split).is_dir() and (root / f"{split}annot").is_dir():
            pairs = Pairs.of(root / split, root / f"{split}annot")
            splits[split] = pairs.every()
            problems += pairs.problems
    entries = [ClassEntry(number, name, colour) for number, (name, colour) in enumerate(COLOURS.items())]
    entries.append(ClassEntry(len(entries), VOID))
    return Contents(splits, root / "dataset.yaml", entries, problems=tuple(problems))
