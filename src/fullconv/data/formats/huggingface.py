"""A folder of a Hugging Face data set: Parquet files with a column of images and one of masks."""

import json
import re
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files.parquet import CellImage, CellMask, open_table
from ..classes import ClassEntry
from ..description import Description
from ..pairing import visible
from ..source import SPLIT_WORDS, Contents, Record
from .annotation import read_json

IMAGE_COLUMNS = ("image", "pixel_values", "img", "jpg")
MASK_COLUMNS = ("mask", "label", "labels", "annotation", "segmentation", "semantic_segmentation", "seg", "png")


def recognise(root: Path) -> bool:
    """Return whether ``root`` or its folder ``data`` holds Parquet files."""
    return bool(_tables(root))


def read(root: Path, description: Description) -> Contents:
    """List every row of every table; the split is the first word of the file's name.

    Raises:
        DataError: A table cannot be read, or has no columns of images and masks.
    """
    splits: dict[str, list[Record]] = {}
    for table in _tables(root):
        word = re.split(r"[-_.]", table.name)[0].lower()
        split = "" if word == "trainval" else SPLIT_WORDS.get(word, "")
        splits.setdefault(split, []).extend(_rows(table))
    if len(splits) > 1 and "" in splits:
        raise DataError(
            f"{root}: some Parquet files name a split and some do not; rename them, such as train-0.parquet"
        )
    names = root / "id2label.json"
    return Contents(
        {split: tuple(records) for split, records in splits.items()},
        names,
        _entries(names) if names.is_file() else None,
    )


def _rows(table: Path) -> list[Record]:
    file = open_table(table)
    columns = file.schema_arrow.names
    image = next((name for name in IMAGE_COLUMNS if name in columns), None)
    mask = next((name for name in MASK_COLUMNS if name in columns), None)
    if image is None or mask is None:
        raise DataError(
            f"{table}: has the columns {', '.join(columns)}; one must be called {' or '.join(IMAGE_COLUMNS)} and one "
            f"{' or '.join(MASK_COLUMNS)}"
        )
    return [
        Record(f"{table.stem}-{group}-{row}", CellImage(table, image, group, row), CellMask(table, mask, group, row))
        for group in range(file.metadata.num_row_groups)
        for row in range(file.metadata.row_group(group).num_rows)
    ]


def _entries(path: Path) -> list[ClassEntry]:
    tree: Any = read_json(path)
    try:
        return [ClassEntry(int(number), str(name)) for number, name in tree.items()]
    except (AttributeError, ValueError):
        raise DataError(f"{path}: {json.dumps(tree)[:60]} is not a mapping id → name; correct it") from None


def _tables(root: Path) -> list[Path]:
    if root.suffix.lower() == ".parquet":
        return [root] if root.is_file() else []
    return visible(path for place in (root, root / "data") for path in place.glob("*.parquet"))
