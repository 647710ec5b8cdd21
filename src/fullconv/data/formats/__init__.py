"""Data sets as they are found: every layout is read where it lies, nothing is converted."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ...errors import DataError, UsageError
from ...files.masks import Drawing
from ..channels import with_channels
from ..classes import VOID, ClassEntry, ClassTable, infer_entries
from ..description import Description, read_description
from ..pairing import split_anew
from ..problems import Problem, refuse
from ..source import SPLIT_WORDS, Contents, DataSource, Record, made_splits
from . import (
    ade20k,
    camvid,
    cityscapes,
    coco,
    cvat,
    folder,
    geotiff,
    huggingface,
    labelme,
    labelstudio,
    pet,
    roboflow,
    sbd,
    table,
    voc,
    yolo,
)


class Format(NamedTuple):
    """One layout: how it is recognised, how it is read, and whether this follows the ``splits`` of a description."""

    recognise: Callable[[Path], bool]
    read: Callable[[Path, Description], Contents]
    follows_splits: bool = False


FORMATS = {
    "cityscapes": Format(cityscapes.recognise, cityscapes.read),
    "cvat": Format(cvat.recognise, cvat.read, follows_splits=True),
    "voc": Format(voc.recognise, voc.read, follows_splits=True),
    "sbd": Format(sbd.recognise, sbd.read, follows_splits=True),
    "camvid": Format(camvid.recognise, camvid.read),
    "ade20k": Format(ade20k.recognise, ade20k.read),
    "pet": Format(pet.recognise, pet.read),
    "yolo": Format(yolo.recognise, yolo.read),
    "coco": Format(coco.recognise, coco.read),
    "labelstudio": Format(labelstudio.recognise, labelstudio.read),
    "labelme": Format(labelme.recognise, labelme.read),
    "roboflow": Format(roboflow.recognise, roboflow.read),
    "csv": Format(table.recognise, table.read),
    "huggingface": Format(huggingface.recognise, huggingface.read),
    "geotiff": Format(geotiff.recognise, geotiff.read, follows_splits=True),
    "folder": Format(folder.recognise, folder.read, follows_splits=True),
}
"""Every layout by name, the most particular first."""

_DESCRIPTIONS = ("dataset.yaml", "dataset.yml")


def open_dataset(path: str | Path, format: str | None = None, *, strict: bool = True) -> DataSource:
    """Open a data set; of the pixels nothing is read, unless the classes must be learned from the masks.

    Args:
        path: A folder in one of the ``FORMATS``; a ``dataset.yaml`` (see
            :class:`~fullconv.data.description.Description`) or a folder that holds one; an Ultralytics YAML; a CSV
            of images and masks; or a COCO or Label Studio JSON.
        format: A name of ``FORMATS``; by default recognised by looking.
        strict: Raise the first error found in the files' names and places, instead of keeping it among
            ``problems``.

    Raises:
        DataError: The data set cannot be used as it is; the message names the file and what to do.
        UsageError: There is no such format.
    """
    try:
        return _opened(Path(path), format, strict)
    except PermissionError as error:
        raise DataError(
            f"{error.filename}: may not be read (permission denied); change its permissions, or choose another folder"
        ) from error


def _opened(path: Path, format: str | None, strict: bool) -> DataSource:
    if not path.exists():
        raise DataError(f"{path}: no such {'file' if path.suffix else 'folder'}; {folder.LAYOUT}")
    if path.is_dir():
        for name in _DESCRIPTIONS:
            if (path / name).is_file():
                return _opened(path / name, format, strict)
    if path.suffix.lower() in (".yaml", ".yml") and not yolo.recognise(path):
        description = read_description(path)
        root = path.parent / description.path
        if not root.exists():
            raise DataError(f"{root}: no such folder, but {path} names it as path; {folder.LAYOUT}")
        return _open(root, description, path, format or description.format, strict)
    return _open(path, Description(), None, format, strict)


def _open(root: Path, description: Description, where: Path | None, format: str | None, strict: bool) -> DataSource:
    name = format or _recognised(root, description)
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, 1)
        seen = f"format {name!r} is unknown; " + (
            f"did you mean {near[0]!r}?" if near else f"choose of {', '.join(FORMATS)}"
        )
        raise DataError(f"{where}: {seen}") if name == description.format else UsageError(seen)
    layout = FORMATS[name]
    contents = _described(layout.read(root, description), description, where)
    if description.splits and not layout.follows_splits:
        contents = split_anew(contents, root, description.splits)
    contents = with_channels(contents, description, root)
    if strict:
        refuse(contents.problems)
    splits = _splits(root, contents, strict)
    entries = _entries(contents, splits, strict)
    table = ClassTable.of(entries, contents.where, contents.ignore_index, contents.label_map)
    complete = description.completed(name, entries, contents.ignore_index, contents.label_map)
    problems = (*contents.problems, *_learned(contents, table, splits))
    source = DataSource(root, name, splits, table, problems, complete)
    return _with_tasks(source, description, where, strict) if description.tasks else source


def _with_tasks(source: DataSource, description: Description, where: Path | None, strict: bool) -> DataSource:
    """Return a source with the further tasks that are described."""
    further, problems = dict[str, DataSource](), list[Problem]()
    layout = "geotiff" if source.format == "geotiff" else "folder"
    for task in description.tasks:
        other = _open(source.root, description.of_task(task), where, layout, strict)
        if other.labels.ignore_index != source.labels.ignore_index:
            raise DataError(
                f"{where}: task {task!r} ignores id {other.labels.ignore_index}, the data set's own masks "
                f"{source.labels.ignore_index}; set the same ignore_index for both"
            )
        problems += other.problems
        for record in dict.fromkeys(record for records in source.splits.values() for record in records):
            if other.of_same_image(record) is None:
                seen, remedy = f"has no mask of the task {task!r}", "add it, or take the image off the lists"
                problems.append(Problem("missing_mask", (record.image.path,), seen, remedy))
        further[task] = source.split_alike(other)
    if strict:
        refuse(problems)
    return replace(source, further=further, problems=(*source.problems, *problems))


def _recognised(root: Path, description: Description) -> str:
    if description.images or description.masks:
        return "folder"
    return next((name for name, layout in FORMATS.items() if layout.recognise(root)), "folder")


def _described(contents: Contents, description: Description, where: Path | None) -> Contents:
    """Return what was found, changed by what a ``dataset.yaml`` says.

    Raises:
        DataError: It gives a class of drawn masks another id than they are drawn with, or ignores a class's id.
    """
    given = description.model_fields_set
    ours = contents.entries is None or description.classes or contents.where.name in _DESCRIPTIONS
    described = description.entries() or []
    if any(isinstance(record.mask, Drawing) for records in contents.splits.values() for record in records):
        _check_ids(described, contents.entries or [], description.label_map, where)
    ids = {entry.id for entry in described}
    others = {raw: to for raw, to in contents.label_map.items() if raw not in ids}
    changed = replace(
        contents,
        where=where if where and ours else contents.where,
        entries=described or contents.entries,
        ignore_index=description.ignore_index if "ignore_index" in given else contents.ignore_index,
        label_map=description.label_map if "label_map" in given else others,
    )
    for entry in changed.entries or []:
        if "ignore_index" in given and entry.id == changed.ignore_index and entry.name != VOID:
            raise DataError(
                f"{where}: ignore_index {entry.id} is also the id of class {entry.name!r}; call that class void "
                f"(classes: {{{entry.id}: void, ...}} in {where}), or set ignore_index: null"
            )
    return changed


def _check_ids(
    described: Sequence[ClassEntry],
    found: Sequence[ClassEntry],
    label_map: Mapping[int, int | str],
    where: Path | None,
) -> None:
    """Refuse classes by other ids than they are drawn with: by a list they are numbered from 0, whatever those are.

    One whose own id is mapped to it may have another. In masks that are files, ids may be others than a table says.
    """
    ids = {entry.name: entry.id for entry in found if entry.name != VOID}
    for entry in described:
        own = ids.get(entry.name, entry.id)
        if own != entry.id and label_map.get(own) not in (entry.name, entry.id):
            raise DataError(
                f"{where}: class {entry.name!r} is given id {entry.id}, but in the data it is {own}; write each class "
                f"with its id in the data: classes: {{{own}: {entry.name}, ...}}"
            )


def _splits(root: Path, contents: Contents, strict: bool) -> dict[str, tuple[Record, ...]]:
    splits = _well_named(contents.splits)
    if not strict:
        splits = {name: records for name, records in splits.items() if records}
        if not splits:
            refuse(contents.problems)
    if set(splits) == {""}:
        splits = made_splits(splits[""])
    for name, records in splits.items():
        if not records:
            raise DataError(f"{root}: split {name!r} is empty; list at least one stem, or remove the split")
    if not splits:
        raise DataError(f"{root}: holds no image with a mask; {folder.LAYOUT}")
    return splits


def _well_named(splits: dict[str, tuple[Record, ...]]) -> dict[str, tuple[Record, ...]]:
    """Return splits called ``train``, ``val`` and ``test`` where a list or a table says ``valid`` or the like.

    Where there is one of that name already, others keep theirs.
    """
    named: dict[str, tuple[Record, ...]] = {}
    for name, records in splits.items():
        word = SPLIT_WORDS.get(name.lower(), name)
        named[name if word in splits or word in named else word] = records
    return named


def _learned(contents: Contents, table: ClassTable, splits: dict[str, tuple[Record, ...]]) -> list[Problem]:
    """Warn where colours had to be taken for classes."""
    if contents.entries is not None or not all(name.startswith("#") for name in table.labels.names):
        return []
    masks = tuple(record.mask.path for records in splits.values() for record in records)
    seen = f"is an RGB mask, and there is no class table: its colours were taken for {table.labels.num_classes} classes"
    remedy = f"write {table.where} with the name and colour of each class"
    return [Problem("rgb_mask_without_table", masks, seen, remedy)]


def _entries(contents: Contents, splits: dict[str, tuple[Record, ...]], strict: bool) -> list[ClassEntry]:
    if contents.entries is not None:
        return contents.entries
    ignored = () if contents.ignore_index is None else (contents.ignore_index,)
    masks = {record.mask.path: record.mask for records in splits.values() for record in records}
    void = frozenset((*ignored, *(contents.label_map.keys() - contents.label_map.values())))
    return infer_entries(list(masks.values()), contents.where, void, strict=strict)
