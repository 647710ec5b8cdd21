"""Label Studio's JSON export: brushes and polygons of every task."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ...errors import DataError
from ...files.masks import Drawing
from ...files.pictures import ImageFile
from ...files.shapes import Brush, Shape, polygon
from ..description import Description
from ..problems import Problem
from ..source import Contents, Record
from .annotation import Images, begins_with, drawn_in, read_json, with_background

KINDS = {"brushlabels", "polygonlabels"}


def recognise(root: Path) -> bool:
    """Return whether ``root`` is such a file, or holds one."""
    return any(begins_with(path, '"annotations"', '"result"') for path in _files(root))


def read(root: Path, description: Description) -> Contents:
    """Draw every task's first annotation that was not cancelled, in its order; classes by name, after a background.

    Raises:
        DataError: The file is not as Label Studio writes it.
    """
    found = [path for path in _files(root) if begins_with(path, '"annotations"', '"result"')]
    if len(found) != 1:
        raise DataError(f"{root}: holds {len(found)} exports of Label Studio; name the file to read")
    path = found[0]
    tasks = read_json(path)
    try:
        regions = [(task, list(_regions(path, task))) for task in tasks]
        entries = with_background(sorted({name for _, rows in regions for name, _ in rows}))
        ids = {entry.name: entry.id for entry in entries}
        images, problems, records = Images([path.parent, path.parent / "images"]), [], []
        for task, rows in regions:
            name = _image_name(task)
            image = images.find(name) or images.find(name.partition("-")[2] or name)
            if image is None:
                seen = f"names the image {name!r}, which is nowhere in {path.parent}"
                problems.append(Problem("missing_image", (path,), seen, "add the image beside the export"))
                continue
            shapes = tuple((ids[label], shape) for label, shape in rows)
            records.append(Record(image.stem, ImageFile(image), Drawing(path, image, shapes, 0)))
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path}: is not as Label Studio writes it ({type(error).__name__}: {error}); export it as JSON again"
        ) from None
    return Contents({"": tuple(records)}, path, entries, problems=tuple(problems))


def _files(root: Path) -> list[Path]:
    if root.suffix.lower() == ".json":
        return [root] if root.is_file() else []
    return sorted(root.glob("*.json"))


def _regions(path: Path, task: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    done = [one for one in task["annotations"] if not one.get("was_cancelled")]
    for region in done[0]["result"] if done else []:
        if region.get("type") in KINDS:
            value = region["value"]
            with drawn_in(path, f"region {region.get('id')}"):
                drawn = str(value[region["type"]][0]), _shape(value)
            yield drawn


def _shape(value: Mapping[str, Any]) -> Shape:
    if "rle" in value:
        return Brush(tuple(bytes(list(value["rle"]))))
    return polygon([(x / 100, y / 100) for x, y in value["points"]], relative=True)


def _image_name(task: Mapping[str, Any]) -> str:
    """Return the image's name: an upload is called ``8 letters-name``; local files stand in the query, after ``d=``."""
    data = task["data"]
    address = urlsplit(str(data.get("image") or next((value for value in data.values() if isinstance(value, str)), "")))
    local = parse_qs(address.query).get("d")
    path = local[0] if local else unquote(address.path)
    return Path(path).name
