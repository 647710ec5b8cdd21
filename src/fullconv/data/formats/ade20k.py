"""ADE20K (scene parsing): ``images/training``, ``annotations/training``, ids from 1, 0 being void."""

from pathlib import Path

from ...files.text import read_text
from ..classes import VOID, ClassEntry
from ..description import Description
from ..pairing import Pairs
from ..problems import Problem
from ..source import Contents

SPLITS = {"train": "training", "val": "validation"}
CLASSES = 150


def recognise(root: Path) -> bool:
    """Return whether the folders are called as in the scene parsing benchmark."""
    return all((root / kind / "training").is_dir() for kind in ("images", "annotations"))


def read(root: Path, description: Description) -> Contents:
    """Pair the files of both splits; names come from ``objectInfo150.txt`` where it is."""
    splits, problems = {}, list[Problem]()
    for split, folder in SPLITS.items():
        if (root / "images" / folder).is_dir():
            pairs = Pairs.of(root / "images" / folder, root / "annotations" / folder)
            splits[split] = pairs.every()
            problems += pairs.problems
    table = root / "objectInfo150.txt"
    names = _names(table) if table.is_file() else [f"class {number}" for number in range(1, CLASSES + 1)]
    entries = [ClassEntry(0, VOID), *(ClassEntry(number, name) for number, name in enumerate(names, start=1))]
    where = table if table.is_file() else root / "dataset.yaml"
    return Contents(splits, where, entries, problems=tuple(problems))


def _names(table: Path) -> list[str]:
    """Return the first name of each row's last column; where two rows have the same, their numbers tell them apart."""
    names = [line.split("\t")[-1].split(",")[0].strip() for line in read_text(table).splitlines()[1:] if line.strip()]
    return [name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names, start=1)]
