"""What files say of splits and classes: the same in all of them, or refused; and what stray files do not say."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from fullconv.data import open_dataset
from fullconv.data.formats.annotation import split_named
from fullconv.errors import DataError

H, W = 4, 6
SQUARE = [[0, 0, 3, 0, 3, 4, 0, 4]]


def write_coco(root, name, categories, stem):
    (root / "images").mkdir(exist_ok=True)
    Image.new("RGB", (W, H)).save(root / "images" / f"{stem}.png")
    tree = {
        "images": [{"id": 1, "file_name": f"{stem}.png", "height": H, "width": W}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": min(categories), "segmentation": SQUARE}],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(tree))


def write_table(root, rows, **texts):
    for stem in "ab":
        Image.new("RGB", (W, H)).save(root / f"{stem}.png")
        Image.fromarray(np.arange(H * W, dtype=np.uint8).reshape(H, W) % 2).save(root / f"{stem}_ids.png")
    (root / "list.csv").write_text("\n".join(rows))
    for name, text in texts.items():
        (root / name.replace("_", ".")).write_text(text)
    return root


def split_stems(source):
    return {split: [record.stem for record in records] for split, records in source.splits.items()}


def refused_text(root):
    with pytest.raises(DataError) as caught:
        open_dataset(root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("val", "seen"),
    [({1: "dog", 2: "cat"}, "calls id 1 'dog', which is 'cat'"), ({1: "cat", 9: "dog"}, "9 'dog', which is no class")],
)
def test_coco_files_that_number_their_categories_differently(tmp_path, val, seen):
    write_coco(tmp_path, "annotations/instances_train.json", {1: "cat", 2: "dog"}, "a")
    write_coco(tmp_path, "annotations/instances_val.json", val, "b")
    text = refused_text(tmp_path)
    assert text.startswith(str(tmp_path / "annotations" / "instances_val.json"))
    assert seen in text and "instances_train.json; export both with the same classes" in text


@pytest.mark.parametrize("other", ["test", "val"])
def test_a_coco_file_may_leave_categories_out(tmp_path, other):
    """Also the first of them by name."""
    write_coco(tmp_path, "annotations/instances_train.json", {1: "cat", 2: "dog"}, "a")
    write_coco(tmp_path, f"annotations/instances_{other}.json", {2: "dog"}, "b")
    source = open_dataset(tmp_path)
    assert source.labels.names == ("background", "cat", "dog")
    assert source.dataset(other)[0].target.unique().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("classes", "seen"),
    [
        ("[cat, dog]", r"class 'cat' is given id 0, but in the data it is 1; write .*: classes: {1: cat, \.\.\.}"),
        ("[background, dog, cat]", r"class 'dog' is given id 1, but in the data it is 2; write"),
        ("{1: dog}", "class 'dog' is given id 1, but in the data it is 2; write"),
    ],
)
def test_names_of_the_data_under_other_ids(tmp_path, classes, seen):
    write_coco(tmp_path, "instances_train.json", {1: "cat", 2: "dog"}, "a")
    (tmp_path / "dataset.yaml").write_text(f"classes: {classes}")
    with pytest.raises(DataError, match=rf"dataset\.yaml: {seen}"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("[ground, cat, hound]", ("ground", "cat", "hound")),
        ("{2: dog, 1: feline, 0: void}", ("feline", "dog")),
        ("{0: background, 1: cat, 2: void}", ("background", "cat")),
        ("[background, dog, cat]\nlabel_map: {1: cat, 2: 1}", ("background", "dog", "cat")),
    ],
)
def test_classes_of_the_data_may_be_renamed(tmp_path, classes, names):
    write_coco(tmp_path, "instances_train.json", {1: "cat", 2: "dog"}, "a")
    (tmp_path / "dataset.yaml").write_text(f"classes: {classes}")
    assert open_dataset(tmp_path).labels.names == names


@pytest.mark.parametrize(
    "description",
    [
        "classes: [a, b]\nignore_index: 1",
        "ignore_index: 1",
        "tasks: {t: {masks: masks, classes: [a, b], ignore_index: 1}}",
    ],
)
def test_a_class_is_not_ignored_as_well(tmp_path, description):
    write_folders(tmp_path)
    (tmp_path / "classes.txt").write_text("x\nb\n")
    (tmp_path / "dataset.yaml").write_text(f"masks: masks\n{description}")
    assert refused_text(tmp_path) == (
        f"{tmp_path / 'dataset.yaml'}: ignore_index 1 is also the id of class 'b'; call that class void "
        f"(classes: {{1: void, ...}} in {tmp_path / 'dataset.yaml'}), or set ignore_index: null"
    )
    (tmp_path / "classes.txt").write_text("x\nvoid\n")
    (tmp_path / "dataset.yaml").write_text("ignore_index: 1")
    assert open_dataset(tmp_path).labels.names == ("x",)


@pytest.mark.parametrize("classes", ["{1: background, 2: cat}", "[background, cat]"])
def test_masks_in_files_may_have_other_ids_than_their_table(tmp_path, classes):
    """Such as one too high."""
    write_roboflow(tmp_path, train="0, background\n1, cat" if classes[0] == "{" else "1, background\n2, cat")
    (tmp_path / "dataset.yaml").write_text(f"classes: {classes}")
    assert open_dataset(tmp_path).dataset("train")[0].target.unique().tolist() == [classes[0] == "["]


def test_a_class_255_is_described_as_no_void(tmp_path):
    write_coco(tmp_path, "instances_train.json", {1: "cat", 255: "dog"}, "a")
    first = open_dataset(tmp_path)
    first.description.write(tmp_path / "dataset.yaml", tmp_path)
    second = open_dataset(tmp_path)
    assert second.description.ignore_index is None and second.labels == first.labels


def test_a_class_255_of_a_task_is_described_as_no_void(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "my.yaml").write_text("masks: masks\ntasks: {t: {masks: masks, classes: {0: a, 1: b, 255: c}}}")
    first = open_dataset(tmp_path / "my.yaml")
    first.description.write(tmp_path / "dataset.yaml", tmp_path)
    assert open_dataset(tmp_path).tasks["t"].labels == first.tasks["t"].labels


def write_roboflow(root, **tables):
    for split, table in tables.items():
        (root / split).mkdir()
        Image.new("RGB", (W, H)).save(root / split / "a.jpg")
        Image.fromarray(np.ones((H, W), np.uint8)).save(root / split / "a_mask.png")
        (root / split / "_classes.csv").write_text(f"Pixel Value, Class\n{table}")


def test_roboflow_tables_that_differ(tmp_path):
    write_roboflow(tmp_path, train="0, background\n1, cat\n2, dog", valid="0, background\n1, dog\n2, cat")
    text = refused_text(tmp_path)
    assert text.startswith(f"{tmp_path / 'valid' / '_classes.csv'}: calls id 1 'dog', which is 'cat' in ")
    assert str(tmp_path / "train" / "_classes.csv") in text


@pytest.mark.parametrize(("whole", "part"), [("train", "valid"), ("valid", "train")])
def test_a_roboflow_table_may_leave_classes_out(tmp_path, whole, part):
    write_roboflow(tmp_path, **{whole: "0, background\n1, cat\n2, dog", part: "1, cat"})
    assert open_dataset(tmp_path).labels.names == ("background", "cat", "dog")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("instancesVal", "val"),
        ("valid _annotations.coco", "val"),
        ("TEST", "test"),
        ("validation-3", "val"),
        ("latest", ""),
        ("evaluation", ""),
        ("constraints", ""),
        ("instances_default", ""),
    ],
)
def test_splits_are_whole_words(name, split):
    assert split_named(name) == split


def test_a_coco_file_that_only_looks_like_a_split(tmp_path):
    write_coco(tmp_path, "latest.json", {1: "cat"}, "a")
    assert split_stems(open_dataset(tmp_path)) == {"train": ["a"]}


@pytest.mark.parametrize("unnamed", ["annotations/instances_all.json", "annotations/zoo.json"])
@pytest.mark.parametrize("other", ["annotations/instances_train.json", "annotations/zootest.json"])
def test_a_coco_file_without_a_split_beside_others(tmp_path, unnamed, other):
    write_coco(tmp_path, other, {1: "cat"}, "a")
    write_coco(tmp_path, unnamed, {1: "cat"}, "b")
    text = refused_text(tmp_path)
    assert text.startswith(f"{tmp_path / unnamed}: its name tells no split, and it is one of 2 such files; rename")
    assert split_stems(open_dataset(tmp_path / unnamed)) == {"train": ["b"]}


def test_a_row_without_a_split_beside_others(tmp_path):
    root = write_table(tmp_path, ["image,mask,split", "a.png,a_ids.png,train", "b.png,b_ids.png,"])
    text = refused_text(root)
    assert text.startswith(f"{root / 'list.csv'}: the row of {root / 'b.png'} names no split, but others do; write")


def test_a_table_with_classes(tmp_path):
    root = write_table(tmp_path, ["image,mask", "a.png,a_ids.png", "b.png,b_ids.png"], classes_txt="sky\ntree\nroad")
    assert open_dataset(root).labels.names == ("sky", "tree", "road")
    (root / "dataset.yaml").write_text("classes: [one, two]")
    assert open_dataset(root).labels.names == ("one", "two")


def test_a_table_with_spaces(tmp_path):
    root = write_table(tmp_path, ["image , mask, split ", "a.png , a_ids.png, train ", "b.png , b_ids.png, val"])
    assert split_stems(open_dataset(root)) == {"train": ["a"], "val": ["b"]}


def write_folders(root):
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    Image.new("RGB", (W, H)).save(root / "images" / "a.png")
    Image.fromarray(np.arange(H * W, dtype=np.uint8).reshape(H, W) % 2).save(root / "masks" / "a.png")
    return root


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.csv", "grüße,wetter\n".encode("latin-1")),
        ("notes.csv", b""),
        ("settings.json", b'{"images": "images", "threshold": 3}'),
        ("settings.json", b'{"categories": ["cat"]}'),
    ],
)
def test_a_stray_file_beside_folders(tmp_path, name, content):
    (write_folders(tmp_path) / name).write_bytes(content)
    assert open_dataset(tmp_path).format == "folder"


def test_a_coco_file_whose_annotations_begin_late_is_recognised(tmp_path):
    write_coco(tmp_path, "instances_train.json", {1: "cat"}, "a")
    tree = json.loads((tmp_path / "instances_train.json").read_text())
    tree["images"] = [row | {"coco_url": "x" * 70000} for row in tree["images"]]
    (tmp_path / "instances_train.json").write_text(json.dumps(tree))
    assert open_dataset(tmp_path).format == "coco"


def write_voc(root):
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (root / folder).mkdir(parents=True)
        picture = Image.new("RGB", (W, H)) if suffix == "jpg" else Image.fromarray(np.full((H, W), 77, np.uint8))
        picture.save(root / folder / f"a.{suffix}")


def test_classes_that_the_format_fixes_are_changed_in_a_description(tmp_path):
    write_voc(tmp_path / "set")
    (tmp_path / "my.yaml").write_text("path: set")
    for data, where in (("set", "set/dataset.yaml"), ("my.yaml", "my.yaml")):
        message = rf"a.png: holds id 77, which is none of the 21 classes; add it to {tmp_path / where},"
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / data).dataset("train")[0]


@pytest.mark.parametrize("names", [None, [], {}, {"cat": 0}, "cat", 3])
def test_ultralytics_names_that_name_nothing(tmp_path, names):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (W, H)).save(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"train": "images", "names": names}))
    text = refused_text(tmp_path)
    assert text == f"{tmp_path / 'data.yaml'}: names is {names!r}; write a list of class names, or a mapping id: name"


def test_lists_of_voc_by_other_words(tmp_path):
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        for stem in "abc":
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / f"{stem}.{suffix}")
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, stems in {"Train": "a", "Validation": "b", "Test": "c"}.items():
        (tmp_path / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(stems)
    source = open_dataset(tmp_path)
    assert {split: [record.stem for record in part] for split, part in source.splits.items()} == {
        "train": ["a"],
        "val": ["b"],
        "test": ["c"],
    }
    assert source.records("Validation") == source.records("val")


def write_nested(root, stems=("a", "b"), place="{split}/{kind}"):
    """A folder for each split: ``a`` in train, ``b`` in val."""
    for split, stem in zip(("train", "val"), stems, strict=True):
        for kind in ("images", "masks"):
            folder = root / place.format(split=split, kind=kind)
            folder.mkdir(parents=True)
            pixels = Image.new("RGB", (W, H)) if kind == "images" else Image.fromarray(np.eye(H, W, dtype=np.uint8))
            pixels.save(folder / f"{stem}.png")


def write_inside(root, stems=("a", "b")):
    write_nested(root, stems, "{kind}/{split}")


def write_two_coco_files(root, stems=("a", "b")):
    for split, stem in zip(("train", "val"), stems, strict=True):
        write_coco(root, f"instances_{split}.json", {1: "cat"}, stem)


@pytest.mark.parametrize("write", [write_nested, write_inside, write_two_coco_files])
def test_splits_of_a_description_come_before_those_of_the_format(tmp_path, write):
    write(tmp_path)
    assert split_stems(open_dataset(tmp_path)) == {"train": ["a"], "val": ["b"]}
    (tmp_path / "mine.txt").write_text("b\n")
    (tmp_path / "dataset.yaml").write_text("splits: {train: mine.txt, val: [a]}")
    assert split_stems(open_dataset(tmp_path)) == {"train": ["b"], "val": ["a"]}


def test_splits_of_a_description_of_one_file(tmp_path):
    """The lists lie beside it."""
    write_table(tmp_path, ["image,mask", "a.png,a_ids.png", "b.png,b_ids.png"], val_txt="b", train_txt="a")
    (tmp_path / "my.yaml").write_text("path: list.csv\nsplits: {train: train.txt, val: val.txt}")
    assert split_stems(open_dataset(tmp_path / "my.yaml")) == {"train": ["a"], "val": ["b"]}


@pytest.mark.parametrize("write", [write_nested, write_inside, write_two_coco_files])
def test_what_is_on_no_list_needs_no_partner(tmp_path, write):
    write(tmp_path)
    image = min(tmp_path.rglob("a.png"))
    image.rename(image.with_name("c.png"))
    (tmp_path / "dataset.yaml").write_text("splits: {train: [b]}")
    assert split_stems(open_dataset(tmp_path)) == {"train": ["b"]}
    (tmp_path / "dataset.yaml").write_text("splits: {train: [a]}")
    assert "names 'a', but" in refused_text(tmp_path)


def test_what_is_on_no_list_may_stand_twice(tmp_path):
    write_nested(tmp_path)
    Image.new("RGB", (W, H)).save(tmp_path / "train" / "images" / "a.jpg")
    (tmp_path / "dataset.yaml").write_text("splits: {train: [b]}")
    assert split_stems(open_dataset(tmp_path)) == {"train": ["b"]}
    (tmp_path / "dataset.yaml").write_text("splits: {train: [a]}")
    assert "2 files have the stem 'a'" in refused_text(tmp_path)


def write_yolo_twice(root):
    (root / "images").mkdir()
    Image.new("RGB", (W, H)).save(root / "images" / "a.png")
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images", "val": "images", "names": ["cat"]}))


def write_rows_twice(root):
    write_table(root, ["image,mask", "a.png,a_ids.png", "a.png,a_ids.png"])


@pytest.mark.parametrize("write", [write_yolo_twice, write_rows_twice])
def test_a_sample_that_stands_twice_is_one(tmp_path, write):
    write(tmp_path)
    (tmp_path / "dataset.yaml").write_text("splits: {train: [a]}")
    assert split_stems(open_dataset(tmp_path)) == {"train": ["a"]}


@pytest.mark.parametrize("write", [write_nested, write_inside, write_two_coco_files])
@pytest.mark.parametrize(
    ("stems", "seen"),
    [("a, c", "'c', but .* holds no image with a mask of that stem .*'a', 'b'"), ("a, a", "'a' twice; remove one")],
)
def test_splits_of_a_description_that_make_no_sense(tmp_path, write, stems, seen):
    write(tmp_path)
    (tmp_path / "dataset.yaml").write_text(f"splits: {{train: [{stems}]}}")
    with pytest.raises(DataError, match=f"split 'train': names {seen}"):
        open_dataset(tmp_path)


def test_a_stem_of_two_splits_tells_no_sample(tmp_path):
    write_nested(tmp_path, "aa")
    (tmp_path / "dataset.yaml").write_text("splits: {train: [a]}")
    text = refused_text(tmp_path)
    assert text.startswith(f"split 'train': names 'a', but 2 images have that stem ({tmp_path / 'train'}")
