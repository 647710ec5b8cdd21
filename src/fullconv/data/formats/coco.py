"""COCO: a JSON with ``images``, ``annotations`` and ``categories``; polygons and run lengths."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files.masks import Drawing
from ...files.pictures import ImageFile
from ...files.shapes import CocoRuns, Shape, polygon
from ..classes import ClassEntry, largest_table
from ..description import Description
from ..pairing import visible
from ..problems import Problem
from ..source import Contents, Record
from .annotation import BACKGROUND, Images, begins_with, drawn_in, holds, read_json, split_named, stated_size

_KEYS = ('"images"', '"annotations"', '"categories"')
_HASHED = 1 << 31


def recognise(root: Path) -> bool:
    """Return whether ``root`` is such a file, or holds one, in ``annotations/`` or in a folder for each split."""
    return any(
        (begins_with(path, '"images"') or begins_with(path, '"categories"')) and holds(path, *_KEYS)
        for path in _files(root)
    )


def read(root: Path, description: Description) -> Contents:
    """Draw the objects of every image, larger ones first; what no object covers is background.

    A split is what ``train``, ``val`` or ``test`` stands as a word in the file's name or its folder's.

    Raises:
        DataError: No file holds segmentations, one is not as COCO describes it, or of several one calls a category
            otherwise, or does not tell what split it is.
    """
    splits: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    trees = {path: tree for path in _files(root) if (tree := _segmentations(path))}
    if not trees:
        raise DataError(f"{root}: no JSON file here holds COCO segmentations; name the file, such as instances.json")
    _check_names([*trees])
    tables: dict[Path, list[ClassEntry]] = {}
    for path, tree in trees.items():
        with _understood(path):
            tables[path] = [ClassEntry(int(row["id"]), str(row["name"])) for row in tree["categories"]]
    where = largest_table(tables)
    numbers = _numbers(tables[where])
    _check_described(description, numbers, where)
    entries = _with_background([ClassEntry(numbers.get(entry.id, entry.id), entry.name) for entry in tables[where]])
    for path, tree in trees.items():
        with _understood(path):
            records = _records(path, tree, root, numbers, problems, entries[0].id)
            splits.setdefault(_split(path), []).extend(records)
    return Contents(
        {name: tuple(records) for name, records in splits.items()}, where, entries, problems=tuple(problems)
    )


def _files(root: Path) -> list[Path]:
    if root.suffix.lower() == ".json":
        return [root] if root.is_file() else []
    return visible([*root.glob("*.json"), *root.glob("annotations/*.json"), *root.glob("*/_annotations.coco.json")])


def _segmentations(path: Path) -> dict[str, Any] | None:
    """Return what a file holds if those are COCO's segmentations."""
    tree = read_json(path)
    if not isinstance(tree, dict) or any(key.strip('"') not in tree for key in _KEYS):
        return None
    with _understood(path):
        drawn = any(isinstance(one, dict) and one.get("segmentation") for one in tree["annotations"])
    return tree if drawn else None


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Read what a file holds in the block.

    Raises:
        DataError: It is not as COCO describes it.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise DataError(
            f"{path}: is not as COCO describes it ({type(error).__name__}: {error}); export it again"
        ) from None


def _split(path: Path) -> str:
    return split_named(f"{path.parent.name if path.stem.startswith('_') else ''} {path.stem}")


def _check_names(paths: Sequence[Path]) -> None:
    """Refuse several files of which one does not tell what split it is: it would be divided at random, or not used."""
    unnamed = [path for path in paths if not _split(path)]
    if unnamed and len(paths) > 1:
        raise DataError(
            f"{unnamed[0]}: its name tells no split, and it is one of {len(paths)} such files; rename it, such as "
            f"instances_train.json, or name the one file to read"
        )


def _numbers(classes: Sequence[ClassEntry]) -> dict[int, int]:
    """Return by id what categories are drawn as, their place from 1, where some ids are hashes and no numbers."""
    ids = sorted(entry.id for entry in classes)
    hashed = any(abs(number) >= _HASHED for number in ids)
    return {number: place for place, number in enumerate(ids, start=1)} if hashed else {}


def _check_described(description: Description, numbers: Mapping[int, int], where: Path) -> None:
    """Refuse a description that speaks of categories by ids that they do not have in the masks."""
    named = [*description.label_map, *description.label_map.values(), description.ignore_index]
    named += [entry.id for entry in description.entries() or ()]
    for number in named:
        if isinstance(number, int) and numbers.get(number, number) != number:
            raise DataError(
                f"{where}: ids of categories are hashes here, and are numbered by their place; write "
                f"{numbers[number]} for {number} in the dataset.yaml"
            )


def _with_background(classes: Sequence[ClassEntry]) -> list[ClassEntry]:
    ids = [entry.id for entry in classes]
    background = 0 if 0 not in ids else max(ids) + 1
    return [ClassEntry(background, BACKGROUND), *classes]


def _records(
    path: Path,
    tree: Mapping[str, Any],
    root: Path,
    numbers: Mapping[int, int],
    problems: list[Problem],
    background: int,
) -> list[Record]:
    base = root if root.is_dir() else path.parent
    images = Images([base / _split_folder(path), base / "images", path.parent, base, *_beside(path)])
    drawn: dict[Any, list[Mapping[str, Any]]] = {}
    for one in tree["annotations"]:
        if one.get("segmentation"):
            drawn.setdefault(one["image_id"], []).append(one)
    records = []
    for row in tree["images"]:
        file = images.find(row["file_name"])
        if file is None:
            seen = f"names {row['file_name']}, which is nowhere in {base}"
            problems.append(Problem("missing_image", (path, base / row["file_name"]), seen, "add the image"))
            continue
        objects = sorted(drawn.get(row["id"], []), key=lambda one: -float(one.get("area") or 0))
        shapes = tuple(shape for one in objects for shape in _shapes(path, one, numbers))
        size = stated_size(row, "height", "width", path)
        records.append(Record(file.stem, ImageFile(file), Drawing(path, file, shapes, background, size)))
    return records


def _split_folder(path: Path) -> str:
    """instances_train2017.json goes with train2017/."""
    return path.stem.rpartition("_")[2]


def _beside(path: Path) -> list[Path]:
    return [path.parent.parent] if path.parent.name == "annotations" else []


def _shapes(path: Path, annotation: Mapping[str, Any], numbers: Mapping[int, int]) -> list[tuple[int, Shape]]:
    segmentation = annotation["segmentation"]
    with drawn_in(path, f"annotation {annotation.get('id')}"):
        number = int(annotation["category_id"])
        if numbers and number not in numbers:
            raise DataError(f"its category {number} is none of the file's")
        number = numbers.get(number, number)
        if isinstance(segmentation, dict):
            counts = segmentation["counts"]
            return [(number, CocoRuns(counts if isinstance(counts, str) else tuple(map(index, counts))))]
        return [(number, polygon(list(zip(ring[::2], ring[1::2], strict=True)))) for ring in segmentation]
