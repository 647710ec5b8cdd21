"""Plain folders: images beside masks, in the layouts people use."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import DataError
from ...files.images import MASK_SUFFIXES
from ...files.masks import ClassFiles
from ...files.pictures import PICTURE_SUFFIXES, picture
from ..classes import ClassEntry, read_classes
from ..description import Description
from ..pairing import Pairs, Stem, described_stems, files_in, plain_stem, split_anew, split_folders, split_lists
from ..problems import Problem
from ..source import SPLIT_WORDS, SPLITS, Contents, Record
from .annotation import BACKGROUND, with_background

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "photos", "rgb")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "ann_dir", "gt", "semantic", "segmentation")
MASK_ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_seg", "_L", "_P")
LAYOUT = "give a folder with images/ and masks/ (or train/, val/, test/ with these inside), or a dataset.yaml"


def recognise(root: Path) -> bool:
    """Return whether ``root``, or a split's folder in it, holds a folder of images and one of masks."""
    return bool(places(root))


def read(root: Path, description: Description) -> Contents:
    """Pair images and masks; splits from lists, from folders called after them, or none.

    Raises:
        DataError: A folder or list that is needed does not exist, or a class folder's class does not.
    """
    problems: list[Problem] = []
    found = places(root, description)
    if not found:
        images, masks = _names(description)
        have = any((root / name).is_dir() for name in images)
        raise DataError(f"{root / (masks if have else images)[0]}: no such folder; {LAYOUT}")
    table = root / "classes.txt"
    entries = description.entries() or (read_classes(table) if table.is_file() else None)
    classes = None
    if folders := _class_folders(found.values()):
        entries = entries or with_background(folders)
        classes = _Classes.of(folders, entries, "dataset.yaml" if description.classes else str(table))
    lists = dict(description.splits or {split: path.name for split, path in split_lists(root).items()})
    if "" in found and lists:
        splits = _listed(root, found[""], lists, classes, problems)
        return Contents(splits, table, entries, problems=tuple(problems))
    splits = {split: _every(*pair, classes, problems) for split, pair in found.items()}
    contents = Contents(splits, table, entries, problems=tuple(problems))
    return split_anew(contents, root, description.splits) if description.splits else contents


def places(root: Path, description: Description | None = None) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and of masks by split: the one split ``""`` where the folders tell none."""
    folders = _image_and_mask_folders(root, description)
    if folders is None:
        nested = {split: _image_and_mask_folders(place, description) for split, place in split_folders(root).items()}
        return {split: found for split, found in nested.items() if found}
    images, masks = map(split_folders, folders)
    inside = {split: (images[split], masks[split]) for split in SPLITS if split in images and split in masks}
    described = description is not None and description.splits is not None
    listed = files_in(folders[0], PICTURE_SUFFIXES) if described else split_lists(root)
    return inside if inside and not listed else {"": folders}


def _listed(
    root: Path,
    folders: tuple[Path, Path],
    lists: Mapping[str, str | list[str]],
    classes: "_Classes | None",
    problems: list[Problem],
) -> dict[str, tuple[Record, ...]]:
    """Return the samples that each split's list names."""
    wanted = {split: described_stems(root, split, stems) for split, stems in lists.items()}
    if classes:
        stacked = _stacked(*folders, classes)
        for names, where in wanted.values():
            for stem in sorted(set(names) - stacked.keys()):
                seen = f"names {stem!r}, but no class folder of {folders[1]} holds a mask of an image of that stem"
                remedy = "add its masks, or correct or remove the line (stems have no folder and no extension)"
                problems.append(Problem("missing_mask", (Path(where), folders[0] / stem), seen, remedy))
        return {
            split: tuple(stacked[stem] for stem in dict.fromkeys(names) if stem in stacked)
            for split, (names, _) in wanted.items()
        }
    pairs = _pairs(*folders)
    splits = {split: pairs.listed(names, where) for split, (names, where) in wanted.items()}
    problems.extend(pairs.problems)
    return splits


def _every(images: Path, masks: Path, classes: "_Classes | None", problems: list[Problem]) -> tuple[Record, ...]:
    """Return all samples of two folders."""
    if classes:
        stacked = _stacked(images, masks, classes)
        for image in files_in(images, PICTURE_SUFFIXES):
            if plain_stem(image) not in stacked:
                seen = f"has no mask of the same stem in any class folder of {masks}"
                problems.append(Problem("missing_mask", (image,), seen, "add its masks, or remove this file"))
        return tuple(stacked.values())
    pairs = _pairs(images, masks)
    records = pairs.every()
    problems.extend(pairs.problems)
    return records


def _pairs(images: Path, masks: Path) -> Pairs:
    pairs = Pairs.of(images, masks, stems=(plain_stem, _mask_stem(images, masks)))
    for folder, files in zip(pairs.folders, (pairs.images, pairs.masks), strict=True):
        if not files:
            raise DataError(f"{folder}: holds no image files ({', '.join(PICTURE_SUFFIXES)}); {LAYOUT}")
    return pairs


def _mask_stem(images: Path, masks: Path) -> Stem:
    """Return how to get from a mask's name to its image's: whatever of the usual endings gives the most pairs."""
    stems = {plain_stem(file) for file in files_in(images, PICTURE_SUFFIXES)}
    names = [plain_stem(file) for file in files_in(masks, MASK_SUFFIXES)]

    def pairs(ending: str) -> int:
        return sum(name.endswith(ending) and name.removesuffix(ending) in stems for name in names)

    best = max(("", *MASK_ENDINGS), key=pairs)
    return lambda path: plain_stem(path).removesuffix(best)


def _class_folders(places: Collection[tuple[Path, Path]]) -> dict[str, Path]:
    """Return a folder of every class by name, where mask folders hold a folder for each class and no masks themselves.

    The classes are those of all splits: one may lack some.
    """
    folders = {name: folder for place in places for name, folder in _folders_in(*place).items()}
    alone = len(folders) < 2 or any(files_in(masks, MASK_SUFFIXES) for _, masks in places)
    return {} if alone else dict(sorted(folders.items()))


def _folders_in(images: Path, masks: Path) -> dict[str, Path]:
    """Return the folders in a folder of masks by name; hidden ones, and splits of which there are images, are left out.

    A class may be called ``train``.
    """
    folders = {path.name: path for path in masks.iterdir() if path.is_dir() and path.name[0] != "."}
    splits = {name for name in folders if name.lower() in SPLIT_WORDS and (images / name).is_dir()}
    return {name: path for name, path in folders.items() if name not in splits}


class _Classes(NamedTuple):
    """The ids of class folders by name, in the order in which they are drawn, and the id where none has a mask."""

    ids: dict[str, int]
    background: int

    @classmethod
    def of(cls, folders: Mapping[str, Path], entries: Sequence[ClassEntry], where: str) -> "_Classes":
        """Match class folders and classes by name.

        Raises:
            DataError: A folder is called like no class, or no class is the background.
        """
        ids = {entry.name: entry.id for entry in sorted(entries, key=lambda entry: entry.id)}
        listed = ", ".join(ids)
        for name in folders:
            if name not in ids:
                raise DataError(
                    f"{folders[name]}: is a class folder, but {where} has no class {name!r} (only {listed}); "
                    f"add it there, or rename the folder"
                )
        named = [name for name in ids if name.lower() == BACKGROUND] or [name for name in ids if name not in folders]
        if len(named) != 1:
            raise DataError(
                f"{where}: has no class {BACKGROUND!r} for what no class folder's mask covers (only {listed}); add it"
            )
        return cls({name: number for name, number in ids.items() if name in folders}, ids[named[0]])


def _stacked(images: Path, masks: Path, classes: _Classes) -> dict[str, Record]:
    """Return the images that have a mask in some class folder, by stem."""
    folders = _folders_in(images, masks)
    files = [
        (number, {plain_stem(file): file for file in files_in(folders[name], MASK_SUFFIXES)})
        for name, number in classes.ids.items()
        if name in folders
    ]
    records = {}
    for image in files_in(images, PICTURE_SUFFIXES):
        stem = plain_stem(image)
        if found := tuple((number, of_class[stem]) for number, of_class in files if stem in of_class):
            records[stem] = Record(stem, picture(image), ClassFiles(found, classes.background))
    return records


def _image_and_mask_folders(place: Path, description: Description | None) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks in a place, or None."""
    images, masks = _names(description or Description())
    image = next((place / name for name in images if (place / name).is_dir()), None)
    mask = next((place / name for name in masks if (place / name).is_dir()), None)
    return (image, mask) if image and mask else None


def _names(description: Description) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (
        (description.images,) if description.images else IMAGE_FOLDERS,
        (description.masks,) if description.masks else MASK_FOLDERS,
    )
