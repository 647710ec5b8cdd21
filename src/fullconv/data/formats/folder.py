"""Plain folders: images beside masks, in the layouts people use."""

from pathlib import Path

from ...errors import DataError
from ...files.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from ...files.masks import ClassFiles
from ...files.pictures import ImageFile
from ..classes import ClassEntry, read_classes
from ..description import Description
from ..pairing import Pairs, Stem, files_in, plain_stem, read_stems
from ..problems import Problem
from ..source import SPLITS, Contents, Record

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "photos", "rgb")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "ann_dir", "gt", "semantic", "segmentation")
MASK_ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_seg", "_L", "_P")
LAYOUT = "give a folder with images/ and masks/ (or train/, val/, test/ with these inside), or a dataset.yaml"


def recognise(root: Path) -> bool:
    """Return whether ``root``, or a split's folder in it, holds a folder of images and one of masks."""
    return any(image_and_mask_folders(place) is not None for place in (root, *(root / split for split in SPLITS)))


def read(root: Path, description: Description) -> Contents:
    """Pair images and masks; splits from lists, from folders called after them, or none.

    Raises:
        DataError: A folder or list that is needed does not exist.
    """
    problems: list[Problem] = []
    splits = _splits(root, description, problems)
    table = root / "classes.txt"
    entries = read_classes(table) if description.classes is None and table.is_file() else None
    return Contents(splits, table, entries or _classes_of_subfolders(root, description), problems=tuple(problems))


def _splits(root: Path, description: Description, problems: list[Problem]) -> dict[str, tuple[Record, ...]]:
    lists: dict[str, str | list[str]] = dict(description.splits or {})
    folders = image_and_mask_folders(root, description)
    if folders is None:
        nested = {split: found for split in SPLITS if (found := image_and_mask_folders(root / split, description))}
        if not nested:
            images, masks = _names(description)
            have = any((root / name).is_dir() for name in images)
            raise DataError(f"{root / (masks if have else images)[0]}: no such folder; {LAYOUT}")
        return {split: _every(*found, problems) for split, found in nested.items()}
    lists = lists or _lists_in(root)
    inside = [split for split in SPLITS if all((folder / split).is_dir() for folder in folders)]
    if not lists and inside:
        return {split: _every(folders[0] / split, folders[1] / split, problems) for split in inside}
    if not lists:
        return {"": _every(*folders, problems)}
    return _listed(root, folders, lists, problems)


def _lists_in(root: Path) -> dict[str, str | list[str]]:
    """Return the lists that lie in a folder; ``trainval`` is the training split where there is no ``train``."""
    names = {split: f"{split}.txt" for split in SPLITS}
    if not (root / "train.txt").is_file():
        names["train"] = "trainval.txt"
    return {split: name for split, name in names.items() if (root / name).is_file()}


def _listed(
    root: Path, folders: tuple[Path, Path], lists: dict[str, str | list[str]], problems: list[Problem]
) -> dict[str, tuple[Record, ...]]:
    """Return the samples that each split's list names."""
    wanted = {
        split: (read_stems(root / stems), root / stems) if isinstance(stems, str) else (stems, f"split {split!r}")
        for split, stems in lists.items()
    }
    if classes := _class_folders(folders[1]):
        stacked = _stacked(folders[0], classes)
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


def _every(images: Path, masks: Path, problems: list[Problem]) -> tuple[Record, ...]:
    """Return all samples of two folders."""
    if classes := _class_folders(masks):
        stacked = _stacked(images, classes)
        for image in files_in(images, IMAGE_SUFFIXES):
            if image.stem not in stacked:
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
            raise DataError(f"{folder}: holds no image files ({', '.join(IMAGE_SUFFIXES)}); {LAYOUT}")
    return pairs


def _mask_stem(images: Path, masks: Path) -> Stem:
    """Return how to get from a mask's name to its image's: whatever of the usual endings gives the most pairs."""
    stems = {file.stem for file in files_in(images, IMAGE_SUFFIXES)}
    names = [file.stem for file in files_in(masks, MASK_SUFFIXES)]

    def pairs(ending: str) -> int:
        return sum(name.endswith(ending) and name.removesuffix(ending) in stems for name in names)

    best = max(("", *MASK_ENDINGS), key=pairs)
    return lambda path: path.stem.removesuffix(best)


def _class_folders(masks: Path) -> list[Path]:
    """Return the folders of a mask folder that holds one for each class, and no masks itself."""
    folders = sorted(path for path in masks.iterdir() if path.is_dir() and path.name not in SPLITS)
    return folders if len(folders) > 1 and not files_in(masks, MASK_SUFFIXES) else []


def _stacked(images: Path, classes: list[Path]) -> dict[str, Record]:
    """Return the images that have a mask in some class folder, by stem."""
    files = {folder: {file.stem: file for file in files_in(folder, MASK_SUFFIXES)} for folder in classes}
    records = {}
    for image in files_in(images, IMAGE_SUFFIXES):
        found = tuple(
            (number, files[folder][image.stem])
            for number, folder in enumerate(classes, start=1)
            if image.stem in files[folder]
        )
        if found:
            records[image.stem] = Record(image.stem, ImageFile(image), ClassFiles(found, background=0))
    return records


def _classes_of_subfolders(root: Path, description: Description) -> list[ClassEntry] | None:
    for place in (root, *(root / split for split in SPLITS)):
        folders = image_and_mask_folders(place, description)
        if folders and (classes := _class_folders(folders[1])):
            names = ["background", *(folder.name for folder in classes)]
            return [ClassEntry(number, name) for number, name in enumerate(names)]
    return None


def image_and_mask_folders(place: Path, description: Description | None = None) -> tuple[Path, Path] | None:
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
