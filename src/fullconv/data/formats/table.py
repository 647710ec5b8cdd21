"""A table of files: a CSV with the columns ``image``, ``mask`` and, if wanted, ``split``."""

import csv
from pathlib import Path

from ...errors import DataError
from ...files.masks import MaskFile
from ...files.pictures import picture
from ...files.text import read_text
from ..description import Description
from ..problems import Problem
from ..source import Contents, Record


def recognise(root: Path) -> bool:
    """Return whether ``root`` is such a table, or holds exactly one."""
    return len(_tables(root)) == 1


def read(root: Path, description: Description) -> Contents:
    """Read the table; paths are relative to its folder.

    Raises:
        DataError: There is no such table, or a row has no mask.
    """
    tables = _tables(root)
    if len(tables) != 1:
        raise DataError(f"{root}: holds {len(tables)} tables with columns image and mask; name the one to read")
    table = tables[0]
    splits: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    for row in csv.DictReader(read_text(table).splitlines(), skipinitialspace=True):
        image, mask = table.parent / (row["image"] or ""), table.parent / (row["mask"] or "")
        split = (row.get("split") or "").strip()
        for kind, path in (("image", image), ("mask", mask)):
            if not path.is_file():
                remedy = "add the file, or correct or remove its row"
                problems.append(Problem(f"missing_{kind}", (path, table), f"stands in {table} but is no file", remedy))
        if image.is_file() and mask.is_file():
            splits.setdefault(split, []).append(Record(image.stem, picture(image), MaskFile(mask)))
    return Contents(
        {split: tuple(records) for split, records in splits.items()},
        table.parent / "classes.txt",
        problems=tuple(problems),
    )


def _tables(root: Path) -> list[Path]:
    files = [root] if root.suffix.lower() == ".csv" else sorted(root.glob("*.csv"))
    return [file for file in files if file.is_file() and {"image", "mask"} <= set(_columns(file))]


def _columns(file: Path) -> list[str]:
    lines = read_text(file).splitlines()
    return [name.strip() for name in next(csv.reader(lines[:1]), [])]
