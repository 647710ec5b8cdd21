"""LabelMe: a JSON beside every image, with its shapes."""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...files.masks import Drawing
from ...files.pictures import ImageFile
from ...files.shapes import Pixels, Shape, box, circle, polygon
from ...files.text import read_text
from ..classes import VOID, ClassEntry
from ..description import Description
from ..pairing import split_folders, visible
from ..problems import Problem
from ..source import Contents, Record
from .annotation import BACKGROUND, Images, begins_with, read_json, stated_size, with_background

LABELS = "labels.txt"
_SPELLINGS = {"_background_": BACKGROUND, "__ignore__": VOID}


def recognise(root: Path) -> bool:
    """Return whether ``root``, or a split's folder, holds a JSON of LabelMe."""
    return any(begins_with(path, '"shapes"') for place in _places(root).values() for path in _files(place)[:3])


def read(root: Path, description: Description) -> Contents:
    """Draw every image's shapes in the order they stand; classes from ``labels.txt``, else all labels by name.

    Polygons, rectangles, circles and masks are drawn; points and lines have no area and are left out.

    Raises:
        DataError: A file is not as LabelMe writes it.
    """
    trees = {split: {path: _tree(path) for path in _files(place)} for split, place in _places(root).items()}
    entries = _entries(root, [tree for part in trees.values() for tree in part.values()])
    ids = {entry.name: entry.id for entry in entries}
    problems: list[Problem] = []
    splits = {split: tuple(_records(part, root, ids, problems)) for split, part in trees.items()}
    return Contents(splits, root / LABELS, entries, problems=tuple(problems))


def _places(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        return {}
    nested = {split: place for split, place in split_folders(root).items() if _files(place)}
    return nested or {"": root}


def _files(place: Path) -> list[Path]:
    return visible(place.glob("*.json")) or visible(place.glob("*/*.json"))


def _tree(path: Path) -> Mapping[str, Any]:
    tree = read_json(path)
    if not isinstance(tree, dict) or not _are_shapes(tree.get("shapes")):
        raise DataError(f"{path}: is no annotation of LabelMe (it has no shapes); remove it, or save it again")
    tree.pop("imageData", None)  # The image once more, as text.
    return tree


def _are_shapes(shapes: Any) -> bool:
    return isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes)


def _name(shape: Mapping[str, Any]) -> str:
    label = str(shape.get("label", ""))
    return _SPELLINGS.get(label, label)


def _entries(root: Path, trees: Iterable[Mapping[str, Any]]) -> list[ClassEntry]:
    if (root / LABELS).is_file():
        lines = [line.strip() for line in read_text(root / LABELS).splitlines() if line.strip()]
        return with_background(_SPELLINGS.get(line, line) for line in lines)
    return with_background(sorted({_name(shape) for tree in trees for shape in tree["shapes"]}))


def _records(
    trees: Mapping[Path, Mapping[str, Any]], root: Path, ids: Mapping[str, int], problems: list[Problem]
) -> list[Record]:
    records, folders = [], dict[Path, Images]()
    for path, tree in trees.items():
        images = folders.setdefault(path.parent, Images([path.parent, root]))
        image = images.find(str(tree.get("imagePath") or path.stem))
        if image is None:
            seen = f"names the image {tree.get('imagePath')!r}, which is nowhere in {root}"
            problems.append(Problem("missing_image", (path,), seen, "add the image, or remove this file"))
            continue
        shapes = [(_id(shape, ids, path), drawn) for shape in tree["shapes"] if (drawn := _shape(shape, path))]
        size = stated_size(tree, "imageHeight", "imageWidth", path)
        records.append(Record(path.stem, ImageFile(image), Drawing(path, image, tuple(shapes), 0, size)))
    return records


def _id(shape: Mapping[str, Any], ids: Mapping[str, int], path: Path) -> int:
    if _name(shape) not in ids:
        raise DataError(f"{path}: the label {_name(shape)!r} is not in {LABELS}; add it there")
    return ids[_name(shape)]


def _shape(shape: Mapping[str, Any], path: Path) -> Shape | None:
    kind = shape.get("shape_type") or "polygon"
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if kind == "polygon":
            return polygon(points)
        if kind == "rectangle":
            return box(*points[0], *points[1])
        if kind == "circle":
            return circle(*points[0], float(np.hypot(points[1][0] - points[0][0], points[1][1] - points[0][1])))
        if kind == "mask":
            (left, top), content = points[0], base64.b64decode(shape["mask"])
            return Pixels(content, top=round(top), left=round(left))
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, DataError) as error:
        raise DataError(f"{path}: the {kind} {_name(shape)!r} cannot be read ({error}); draw it again") from None
    return None
