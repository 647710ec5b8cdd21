"""Cityscapes: ``leftImg8bit/SPLIT/CITY`` and ``gtFine/SPLIT/CITY``, as ``_labelTrainIds`` or ``_labelIds``."""

from pathlib import Path

from ...files.images import IMAGE_SUFFIXES
from ...files.masks import MaskFile
from ...files.pictures import ImageFile
from ..classes import VOID, ClassEntry
from ..description import Description
from ..pairing import files_in
from ..problems import Problem
from ..source import Contents, Record

# Train id: id in _labelIds, name, colour. Source: cityscapesscripts.helpers.labels.
CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
LAST_ID = 33
SPLITS = ("train", "val")
TRUTHS = ("gtFine", "gtCoarse")


def recognise(root: Path) -> bool:
    """Return whether images and a truth lie in folders called as Cityscapes calls them."""
    return (root / "leftImg8bit").is_dir() and any((root / truth).is_dir() for truth in TRUTHS)


def read(root: Path, description: Description) -> Contents:
    """Read the train and val splits; the test split's labels are not public.

    ``_labelTrainIds`` files are used where there are any, else ``_labelIds`` with the 19 evaluated classes, all
    others being void.
    """
    truth = next(name for name in TRUTHS if (root / name).is_dir())
    ending = "labelTrainIds" if any((root / truth).rglob("*_labelTrainIds.png")) else "labelIds"
    splits, problems = {}, list[Problem]()
    for split in SPLITS:
        if (root / "leftImg8bit" / split).is_dir():
            splits[split] = _split(root, truth, split, ending, problems)
    trained = ending == "labelTrainIds"
    entries = [ClassEntry(index if trained else row[0], row[1], row[2]) for index, row in enumerate(CLASSES)]
    evaluated = {row[0] for row in CLASSES}
    others: dict[int, int | str] = {number: VOID for number in range(LAST_ID + 1) if number not in evaluated}
    return Contents(
        splits, root / "dataset.yaml", entries, label_map={} if trained else others, problems=tuple(problems)
    )


def _split(root: Path, truth: str, split: str, ending: str, problems: list[Problem]) -> tuple[Record, ...]:
    records = []
    for image in files_in(root / "leftImg8bit" / split, IMAGE_SUFFIXES, deep=True):
        stem = image.stem.removesuffix("_leftImg8bit")
        mask = root / truth / split / image.parent.name / f"{stem}_{truth}_{ending}.png"
        if mask.is_file():
            records.append(Record(stem, ImageFile(image), MaskFile(mask)))
        else:
            problems.append(Problem("missing_mask", (image,), f"has no mask {mask}", "add it, or remove the image"))
    return tuple(records)
