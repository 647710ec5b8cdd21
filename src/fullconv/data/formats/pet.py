"""Oxford-IIIT Pet: ``images/`` and ``annotations/trimaps/``: 1 pet, 2 background, 3 not classified."""

from pathlib import Path

from ...files.text import read_text
from ..classes import VOID, ClassEntry
from ..description import Description
from ..pairing import Pairs, composed
from ..source import Contents

LISTS = {"train": "trainval.txt", "test": "test.txt"}


def recognise(root: Path) -> bool:
    """Return whether there are trimaps beside the images."""
    return (root / "images").is_dir() and (root / "annotations" / "trimaps").is_dir()


def read(root: Path, description: Description) -> Contents:
    """Read the trimaps of the pets that ``trainval.txt`` and ``test.txt`` list: a name and three numbers a line."""
    pairs = Pairs.of(root / "images", root / "annotations" / "trimaps")
    lists = {split: root / "annotations" / name for split, name in LISTS.items()}
    splits = {
        split: pairs.listed([composed(line.split()[0]) for line in lines(path)], path)
        for split, path in lists.items()
        if path.is_file()
    }
    entries = [ClassEntry(1, "pet"), ClassEntry(2, "background"), ClassEntry(3, VOID)]
    return Contents(splits or {"": pairs.every()}, root / "dataset.yaml", entries, problems=tuple(pairs.problems))


def lines(path: Path) -> list[str]:
    """Return the lines of a list that are neither empty nor a comment."""
    return [line for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
