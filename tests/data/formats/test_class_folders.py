"""A folder of masks for each class: numbered once over all splits, and matched with a class table by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import open_dataset
from fullconv.errors import DataError
from reference.three_images import TRUTHS, write_image, write_mask

SIZE = (4, 6)
WHOLE = {"train": ("bird", "cat", "dog"), "val": ("bird", "dog")}


def write(root: Path, place: str, classes: tuple[str, ...], *, image: str = "png") -> Path:
    """Write one sample whose class folders mark a column each, bird the first, cat the second and dog the third."""
    images, masks = root / place.format("images"), root / place.format("masks")
    images.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*SIZE, 3), np.uint8)
    if image == "npy":
        np.save(images / "a.npy", pixels)
    else:
        Image.fromarray(pixels).save(images / f"a.{image}")
    for name in classes:
        mask = np.zeros(SIZE, np.uint8)
        mask[:, ("bird", "cat", "dog").index(name)] = 255
        (masks / name).mkdir(parents=True)
        Image.fromarray(mask).save(masks / name / "a.png")
    return root


def columns(source, split: str) -> list[str]:
    """Return the names of the classes in the first row of a split's only sample."""
    return [source.labels.names[number] for number in source.dataset(split)[0].target[0].tolist()][:4]


@pytest.mark.parametrize("place", ["{split}/{{}}", "{{}}/{split}"])
@pytest.mark.parametrize("val", [("bird", "dog"), ("dog",)])
def test_a_split_that_lacks_classes_has_the_same_numbers(tmp_path, place, val):
    write(tmp_path, place.format(split="train"), WHOLE["train"])
    write(tmp_path, place.format(split="val"), val)
    source = open_dataset(tmp_path)
    assert source.labels.names == ("background", "bird", "cat", "dog")
    assert columns(source, "train") == ["bird", "cat", "dog", "background"]
    assert columns(source, "val") == ["bird" if "bird" in val else "background", "background", "dog", "background"]


@pytest.mark.parametrize("table", ["classes.txt", "dataset.yaml"])
@pytest.mark.parametrize("names", [["background", "dog", "cat", "bird"], ["other", "dog", "cat", "bird"]])
def test_a_class_table_is_matched_by_name(tmp_path, table, names):
    write(tmp_path, "train/{}", WHOLE["train"])
    text = "\n".join(names) if table == "classes.txt" else f"classes: {names}"
    (tmp_path / table).write_text(text)
    source = open_dataset(tmp_path)
    assert source.labels.names == tuple(names)
    assert columns(source, "train") == ["bird", "cat", "dog", names[0]]


def test_what_is_written_of_class_folders_is_read_as_the_same(tmp_path):
    write(tmp_path / "set", "train/{}", WHOLE["train"])
    first = open_dataset(tmp_path / "set")
    first.description.write(tmp_path / "dataset.yaml", first.root)
    second = open_dataset(tmp_path / "dataset.yaml")
    assert second.labels == first.labels and columns(second, "train") == columns(first, "train")


def test_a_class_table_that_does_not_fit_the_folders(tmp_path):
    write(tmp_path, "train/{}", WHOLE["train"])
    (tmp_path / "classes.txt").write_text("background\ndogs\ncat\nbird")
    message = (
        r"dog: is a class folder, but .*classes.txt has no class 'dog' \(only background, dogs, cat, bird\); add it"
    )
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\ncat\nbird")
    with pytest.raises(
        DataError, match=r"classes.txt: has no class 'background' for what .* covers \(only dog, .*add it"
    ):
        open_dataset(tmp_path)


def test_a_hidden_folder_is_no_class(tmp_path):
    write(tmp_path, "train/{}", WHOLE["train"])
    (tmp_path / "train" / "masks" / ".ipynb_checkpoints").mkdir()
    assert open_dataset(tmp_path).labels.names == ("background", "bird", "cat", "dog")


def test_arrays_have_class_folders_too(tmp_path):
    write(tmp_path, "train/{}", WHOLE["train"], image="npy")
    assert columns(open_dataset(tmp_path), "train") == ["bird", "cat", "dog", "background"]


def test_arrays_are_paired_with_the_usual_endings(tmp_path):
    for folder, ending in (("images", ""), ("masks", "_mask")):
        (tmp_path / folder).mkdir()
        for stem in "ab":
            pixels = np.zeros((*SIZE, 3) if folder == "images" else SIZE, np.uint8)
            pixels[0] = 1
            np.save(tmp_path / folder / f"{stem}{ending}.npy", pixels)
    source = open_dataset(tmp_path)
    assert sorted(record.stem for part in source.splits.values() for record in part) == ["a", "b"]


@pytest.mark.parametrize("name", ["train", "Test"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    """Where there are no images of such a split."""
    write(tmp_path, "{}", WHOLE["train"])
    (tmp_path / "masks" / "cat").rename(tmp_path / "masks" / name)
    source = open_dataset(tmp_path)
    assert source.labels.names == ("background", *sorted(["bird", name, "dog"]))
    assert columns(source, next(iter(source.splits))) == ["bird", name, "dog", "background"]


def test_a_mask_folder_for_every_class(tmp_path):
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "images" / f"{stem}.jpg")
        for number, name in enumerate(["high", "low"]):
            write_mask(tmp_path / "masks" / name / f"{stem}.png", (ids == 2 - number).astype(np.uint8) * 255)
    source = open_dataset(tmp_path)
    assert source.labels.names == ("background", "high", "low")
    expected = np.array([0, 2, 1])
    for record in (record for part in source.splits.values() for record in part):
        assert np.array_equal(source.read_sample(record).target.numpy(), expected[TRUTHS[record.stem]])


def test_lists_choose_among_class_folders_too(tmp_path):
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "images" / f"{stem}.png")
        for number, name in enumerate(["low", "tall"], start=1):
            write_mask(tmp_path / "masks" / name / f"{stem}.png", (ids == number).astype(np.uint8) * 255)
    (tmp_path / "train.txt").write_text("c\na\n")
    (tmp_path / "test.txt").write_text("b\nd\n")
    with pytest.raises(DataError, match=r"test\.txt: names 'd', but no class folder of .*masks holds"):
        open_dataset(tmp_path)
    splits = open_dataset(tmp_path, strict=False).splits
    assert {name: [record.stem for record in part] for name, part in splits.items()} == {
        "train": ["c", "a"],
        "test": ["b"],
    }
