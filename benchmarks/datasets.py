"""Write a ``dataset.yaml`` for the data sets that docs/results.md speaks of, but for ``short.yaml``.

    python benchmarks/datasets.py ../shared/data runs/data

* ``stanford.yaml``: Stanford Background, its last 143 images by sorted name being ``test``.
* ``fold0.yaml`` … ``fold4.yaml``: both its tasks; ``test`` is each fifth image by sorted name, from the first, ….
* ``last0.yaml`` … ``last4.yaml``: the same, but for ``test``: 143 images by sorted name, from the last ones backwards.
* ``stanford-dev.yaml``: the training images of ``stanford.yaml`` alone, each fourth of them held out as ``dev``.
* ``sift.yaml``: SIFT Flow as the paper divides it. ``sift-dev.yaml``: of its training images each eighth is ``dev``.
* ``nyud.yaml``: NYUDv2, colour alone, ``train.txt`` and ``val.txt`` to train.
* ``animals.yaml``: of PASCAL VOC 2012 and SBD, five animals and what stands beside them: not its benchmark.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

SKY = ["sky", "tree", "road", "grass", "water", "building", "mountain", "foreground"]
SURFACES = {"geometric": {"masks": "surfaces", "classes": ["sky", "horizontal", "vertical"]}}
VOC = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
FOLDS, TEST = 5, 143


def stems(folder: Path) -> list[str]:
    """Return the names of a folder's images, sorted, without their endings."""
    return sorted(path.stem for path in folder.iterdir())


def held_out(names: list[str], out: list[str], called: str) -> dict[str, list[str]]:
    """Return splits: ``out``, and all other names to train."""
    return {"train": sorted(set(names) - set(out)), called: out}


def stanford(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the descriptions of Stanford Background."""
    names, masks = stems(folder / "images"), {"masks": "semantic", "classes": SKY}
    early, late = names[:-TEST], names[-TEST:]
    tests = {f"fold{fold}": names[fold::FOLDS] for fold in range(FOLDS)}
    tests |= {f"last{fold}": names[::-1][fold * TEST : (fold + 1) * TEST][::-1] for fold in range(FOLDS)}
    folds = {
        name: {**masks, "splits": held_out(names, test, "test"), "tasks": SURFACES} for name, test in tests.items()
    }
    return {
        "stanford": {**masks, "splits": {"train": early, "test": late}},
        "stanford-dev": {**masks, "splits": held_out(early, early[::4], "dev"), "tasks": SURFACES},
        **folds,
    }


def sift(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the descriptions of SIFT Flow."""
    lines = (folder / "classes.txt").read_text().split("Geometric")[0].splitlines()
    classes = {int(number): name for number, name in (line.split() for line in lines if line[:2].isdigit())}
    masks = {"masks": "semantic", "classes": classes, "label_map": {0: "void"}}
    names = (folder / "trainval.txt").read_text().split()
    return {
        "sift": {**masks, "splits": {"train": "trainval.txt", "test": "test.txt"}},
        "sift-dev": {**masks, "splits": held_out(sorted(names), sorted(names)[::8], "dev")},
    }


def nyud(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the description of NYUDv2."""
    train = [name for split in ("train", "val") for name in (folder / f"{split}.txt").read_text().split()]
    classes = [f"class {number}" for number in range(1, 41)]
    masks = {"images": "rgb", "masks": "label40", "classes": classes}
    return {"nyud": {**masks, "splits": {"train": train, "test": "test.txt"}}}


def animals(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the description of the animals of PASCAL VOC."""
    masks = {"images": "JPEGImages", "masks": "SegmentationClass", "classes": VOC}
    return {"animals": {**masks, "splits": {"train": "train.txt", "test": "val.txt"}}}


def main() -> None:
    """Write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds stanford_bg, siftflow, nyudv2 and voc_animals")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = {"stanford_bg": stanford, "siftflow": sift, "nyudv2": nyud, "voc_animals": animals}
    for folder, describe in sets.items():
        path = (options.data / folder).resolve()
        for name, keys in describe(path).items():
            text = yaml.safe_dump({"path": str(path), **keys}, sort_keys=False)
            (options.out / f"{name}.yaml").write_text(text)


if __name__ == "__main__":
    main()
