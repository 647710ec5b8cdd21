"""Real data sets, through a dataset.yaml elsewhere; skipped where they are not at hand."""

import os
from pathlib import Path

import pytest
import yaml

from fullconv.data.formats import open_dataset
from fullconv.data.source import DataSource
from fullconv.doctor import refuse_bad

SHARED = Path(os.environ.get("FULLCONV_SHARED", Path(__file__).parents[3] / "shared")) / "data"


def opened(folder: Path, name: str, **keys: object) -> DataSource:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not there; set FULLCONV_SHARED to the folder that holds data/{name}")
    (folder / "dataset.yaml").write_text(
        yaml.safe_dump({"path": str((SHARED / name).resolve()), **keys}, sort_keys=False)
    )
    return open_dataset(folder)


def check_some(source: DataSource, split: str, count: int = 40) -> None:
    source.splits["some"] = source.records(split)[:count]
    refuse_bad(source, ["some"])
    sample = source.dataset("some")[0]
    assert sample.image.shape[1:] == sample.target.shape
    assert int(sample.target[sample.target != sample.ignore_index].max()) < source.labels.num_classes


def test_stanford_background(tmp_path: Path) -> None:
    names = ["sky", "tree", "road", "grass", "water", "building", "mountain", "foreground"]
    source = opened(tmp_path, "stanford_bg", masks="semantic", classes=names)
    assert {split: len(records) for split, records in source.splits.items()}.keys() == {"train", "val", "test"}
    assert sum(map(len, source.splits.values())) == 715
    assert 540 < len(source.splits["train"]) < 605
    check_some(source, "train")


def sift_classes() -> dict[int, str]:
    lines = (SHARED / "siftflow" / "classes.txt").read_text().split("Geometric")[0].splitlines()
    pairs = [line.split() for line in lines if line[:2].isdigit()]
    return {int(number): name for number, name in pairs}


def test_sift_flow(tmp_path: Path) -> None:
    splits = {"train": "trainval.txt", "test": "test.txt"}
    classes = sift_classes() if (SHARED / "siftflow").is_dir() else {}
    source = opened(tmp_path, "siftflow", masks="semantic", splits=splits, classes=classes, label_map={0: "void"})
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 2486, "test": 200}
    assert source.labels.num_classes == 33 and source.labels.ignore_index == 255
    assert source.labels.names[0] == "awning" and source.labels.names[32] == "window"
    check_some(source, "test")


def test_voc_palette_masks(tmp_path: Path) -> None:
    classes = [f"class {index}" for index in range(21)]
    source = opened(tmp_path, "voc_animals", images="JPEGImages", masks="SegmentationClass", classes=classes)
    assert (len(source.splits["train"]), len(source.splits["val"])) == (600, 445)
    check_some(source, "val")


def test_nyud(tmp_path: Path) -> None:
    classes = [f"class {index}" for index in range(40)]
    source = opened(tmp_path, "nyudv2", images="rgb", masks="label40", classes=classes)
    assert [len(source.splits[split]) for split in ("train", "val", "test")] == [381, 414, 654]
    check_some(source, "test", 20)


def test_nyud_with_depth(tmp_path: Path) -> None:
    classes = [f"class {index}" for index in range(40)]
    source = opened(tmp_path, "nyudv2", images="rgb", masks="label40", classes=classes, stack={"depth": [0, 255]})
    sample = source.dataset("train")[0]
    assert sample.image.shape == (4, 240, 320) and sample.image[3].unique().numel() > 50


def test_voc_by_looking() -> None:
    root = SHARED / "voc_animals"
    if not root.is_dir():
        pytest.skip("voc_animals is not there; set FULLCONV_SHARED to the folder that holds data/voc_animals")
    source = open_dataset(root)
    assert source.format == "voc" and source.labels.num_classes == 21 and source.labels.names[12] == "dog"
    assert (len(source.splits["train"]), len(source.splits["val"])) == (600, 445)
