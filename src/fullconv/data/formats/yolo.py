"""Ultralytics: a YAML with ``train``, ``val`` and ``names``; polygons in ``labels/``, or masks in ``masks_dir``."""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...errors import DataError, in_one_line
from ...files.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from ...files.masks import Drawing, MaskFile
from ...files.pictures import ImageFile
from ...files.shapes import polygon
from ...files.text import parse_yaml, read_text
from ..classes import ClassEntry
from ..description import Description
from ..pairing import files_in
from ..problems import Problem
from ..source import SPLITS, Contents, Record
from .annotation import BACKGROUND

YAMLS = ("data.yaml", "data.yml")
KEYS = ("names", "train")


def recognise(root: Path) -> bool:
    """Return whether ``root`` is such a YAML, or holds one called ``data.yaml``."""
    path = _yaml(root)
    if path is None:
        return False
    try:
        return _tree(path).keys() >= {*KEYS}
    except DataError:  # It is one all the same, which ``read`` will say more of.
        return all(re.search(rf"^{key}\s*:", read_text(path), re.MULTILINE) for key in KEYS)


def read(root: Path, description: Description) -> Contents:
    """Read the images each split names, and for each its mask, or its polygons, the larger drawn first.

    With polygons, a class ``background`` after all others is what nothing covers.

    Raises:
        DataError: The YAML is not as Ultralytics describes it, or an image list does not exist.
    """
    path = _yaml(root)
    if path is None:
        raise DataError(f"{root}: holds no data.yaml; name the YAML that lists train, val and names")
    tree = _tree(path)
    entries = _entries(path, tree.get("names"))
    masks = tree.get("masks_dir")
    if masks is not None and not isinstance(masks, str):
        raise DataError(f"{path}: masks_dir is {masks!r}; write a folder")
    if not masks:
        entries.append(ClassEntry(max(entry.id for entry in entries) + 1, BACKGROUND))
    problems: list[Problem] = []
    images = {split: _images(path, tree, tree[split]) for split in SPLITS if tree.get(split)}
    every = dict.fromkeys(chain.from_iterable(images.values()))  # Splits may share some.
    records = {image: _record(image, masks, entries[-1].id, problems) for image in every}
    splits = {split: tuple(filter(None, map(records.get, part))) for split, part in images.items()}
    return Contents(splits, path, entries, problems=tuple(problems))


def _yaml(root: Path) -> Path | None:
    if root.suffix.lower() in (".yaml", ".yml"):
        return root if root.is_file() else None
    return next((root / name for name in YAMLS if (root / name).is_file()), None)


def _entries(path: Path, names: Any) -> list[ClassEntry]:
    table = dict(enumerate(names)) if isinstance(names, list) else names
    try:
        entries = [ClassEntry(int(number), str(name)) for number, name in table.items()]
    except (AttributeError, TypeError, ValueError):
        entries = []
    if not entries:
        raise DataError(f"{path}: names is {names!r}; write a list of class names, or a mapping id: name")
    if truths := [name for name in table.values() if isinstance(name, bool)]:
        raise DataError(f"{path}: a class is called {truths[0]}; put yes and no, which YAML takes for these, in quotes")
    return entries


def _tree(path: Path) -> Mapping[str, Any]:
    try:
        tree = parse_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {in_one_line(error)}; correct that line") from error
    return tree if isinstance(tree, dict) else {}


def _images(path: Path, tree: Mapping[str, Any], split: Any) -> list[Path]:
    """A split is a folder, a text file of image paths, or a list of such."""
    if not isinstance(split, str) and not (isinstance(split, list) and all(isinstance(name, str) for name in split)):
        raise DataError(f"{path}: a split is {split!r}; write a folder, a text file of images, or a list of these")
    bases = [path.parent / str(tree.get("path") or "."), path.parent]
    images: list[Path] = []
    for name in [split] if isinstance(split, str) else split:
        # Roboflow writes ../train/images beside the YAML's own folder.
        tries = [base / part for base in bases for part in (name, name.removeprefix("../"))]
        found = next((place for place in tries if place.exists()), None)
        if found is None:
            raise DataError(f"{path}: names {name}, but there is no {tries[0]}; correct path, or the split")
        if found.is_dir():
            images += files_in(found, IMAGE_SUFFIXES, deep=True)
        else:
            images += [found.parent / line.strip() for line in read_text(found).splitlines() if line.strip()]
    return images


def _record(image: Path, masks: str | None, background: int, problems: list[Problem]) -> Record | None:
    if masks:
        like = _sibling(image, masks)
        file = next((mask for suffix in MASK_SUFFIXES if (mask := like.with_suffix(suffix)).is_file()), None)
        if file is None:
            seen = f"has no mask of the same stem in {like.parent}"
            problems.append(Problem("missing_mask", (image,), seen, "add the mask, or remove the image"))
            return None
        return Record(image.stem, ImageFile(image), MaskFile(file))
    # An image without objects has no label file.
    labels = _sibling(image, "labels").with_suffix(".txt")
    shapes = _polygons(labels) if labels.is_file() else ()
    return Record(
        image.stem, ImageFile(image), Drawing(labels if labels.is_file() else image, image, shapes, background)
    )


def _sibling(image: Path, folder: str) -> Path:
    """Return the path with its last folder ``images`` replaced."""
    parts = list(image.parts)
    places = [index for index, part in enumerate(parts) if part == "images"]
    if not places:
        return image.parent.parent / folder / image.name
    parts[places[-1]] = folder
    return Path(*parts)


def _polygons(path: Path) -> tuple[tuple[int, Any], ...]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:]]
            corners = list(zip(values[::2], values[1::2], strict=True))
            rows.append((int(words[0]), polygon(corners, relative=True)))
        except (ValueError, DataError):
            raise DataError(
                f"{path}: line {number} is no polygon ({line.strip()[:40]!r}); write a class id and at least three "
                f"x y, each from 0 to 1 (boxes alone are not segmentations)"
            ) from None
    return tuple(sorted(rows, key=lambda row: -_area(row[1].rings[0])))


def _area(ring: Any) -> float:
    x, y = ring.T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2
