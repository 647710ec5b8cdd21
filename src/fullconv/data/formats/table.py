"""A table of files: a CSV with the columns ``image``, ``mask`` and, if wanted, ``split``."""

import csv
from pathlib import Path

from ...errors import DataError
from ...files.masks import MaskFile
from ...files.pictures import picture
from ...files.text import read_rows
from ..classes import read_classes
from ..description import Description
from ..problems import Problem
from ..source import SPLIT_WORDS, Contents, Record


def recognise(root: Path) -> bool:
    """Return whether ``root`` is such a table, or holds exactly one."""
    return len(_tables(root)) == 1


def read(root: Path, description: Description) -> Contents:
    """Read the table; paths are relative to its folder.

    Raises:
        DataError: There is no such table, it cannot be read, or only some rows name a split.
    """
    tables = _tables(root)
    if len(tables) != 1:
        raise DataError(f"{root}: holds {len(tables)} tables with columns image and mask; name the one to read")
    table = tables[0]
    splits: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    columns, *rows = read_rows(table)
    for cells in rows:
        row = dict(zip(columns, cells, strict=False))
        image, mask, split = (row.get(key, "") for key in ("image", "mask", "split"))
        split = SPLIT_WORDS.get(split.lower(), split)
        if record := _record(table, image, mask, problems):
            splits.setdefault(split, []).append(record)
    if len(splits) > 1 and "" in splits:
        some = splits[""][0].image.path
        raise DataError(f"{table}: the row of {some} names no split, but others do; write train, val or test there")
    classes = table.parent / "classes.txt"
    entries = read_classes(classes) if description.classes is None and classes.is_file() else None
    return Contents({split: tuple(part) for split, part in splits.items()}, classes, entries, problems=tuple(problems))


def _record(table: Path, image: str, mask: str, problems: list[Problem]) -> Record | None:
    files = {"image": table.parent / image, "mask": table.parent / mask}
    missing = {kind: path for kind, path in files.items() if not path.is_file()}
    for kind, path in missing.items():
        remedy = "add the file, or correct or remove its row"
        problems.append(Problem(f"missing_{kind}", (path, table), f"stands in {table} but is no file", remedy))
    return None if missing else Record(files["image"].stem, picture(files["image"]), MaskFile(files["mask"]))


def _tables(root: Path) -> list[Path]:
    files = [root] if root.suffix.lower() == ".csv" else sorted(root.glob("*.csv"))
    return [file for file in files if file.is_file() and {"image", "mask"} <= set(_columns(file))]


def _columns(file: Path) -> list[str]:
    """Return the names in a CSV's first line, of which only as much is read as a header could have, in any encoding."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        header = lines.readline(1 << 16).splitlines()
    return [name.strip() for name in next(csv.reader(header), [])]
