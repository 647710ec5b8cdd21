"""What the files of others may hold: numbers and shapes that are none, quotes that are not closed, and pipes."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import open_dataset
from fullconv.errors import DataError
from fullconv.files.text import read_rows

H, W = 4, 6
TRIANGLE = [0, 0, 3, 0, 3, 4]


def write_image(root):
    Image.new("RGB", (W, H)).save(root / "a.png")


def refused(root, message):
    """All of it is read, as whatever cannot be told at once is told then."""
    with pytest.raises(DataError, match=message):
        source = open_dataset(root)
        for part in source.splits.values():
            for record in part:
                record.image.read()
                record.mask.read()


def write_coco(root, image=None, annotation=None, category=1):
    write_image(root)
    row = {"id": 1, "file_name": "a.png", "height": H, "width": W}
    drawn = {"id": 7, "image_id": 1, "category_id": category, "segmentation": [TRIANGLE]}
    tree = {
        "images": [row | (image or {})],
        "annotations": [drawn | (annotation or {})],
        "categories": [{"id": category, "name": "cat"}, {"id": category + 1, "name": "dog"}],
    }
    (root / "x.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("image", "annotation", "message"),
    [
        ({}, {"segmentation": [[1, 2]]}, "annotation 7: a polygon has 1 corners.*; correct or remove it"),
        ({}, {"segmentation": [TRIANGLE[:4]]}, "annotation 7: a polygon has 2 corners.*; correct or remove it"),
        ({}, {"segmentation": [TRIANGLE[:5]]}, r"annotation 7: cannot be read \(ValueError"),
        ({}, {"segmentation": [[0, 0, 1e20, 0, 3, 4]]}, "annotation 7: .*finite numbers"),
        ({}, {"segmentation": [[0, 0, 10**400, 0, 3, 4]]}, "annotation 7: .*no numbers"),
        ({}, {"segmentation": [7]}, r"annotation 7: cannot be read \(TypeError"),
        ({}, {"segmentation": {"counts": None}}, r"annotation 7: cannot be read \(TypeError"),
        ({}, {"segmentation": {"counts": [1.5, 22.5]}}, r"annotation 7: cannot be read \(TypeError"),
        ({}, {"segmentation": {"counts": ["a", "b"]}}, r"annotation 7: cannot be read \(TypeError"),
        ({}, {"segmentation": {"counts": [None]}}, r"annotation 7: cannot be read \(TypeError"),
        ({}, {"segmentation": {"counts": "o" * 200_000}}, "correct the annotation of a.png"),
        ({}, {"segmentation": {"counts": [10**4000] * 2}}, "correct the annotation of a.png"),
        ({"file_name": "a" * 300}, {}, "names a{300}, which is nowhere"),
        ({}, {"category_id": float("inf")}, "annotation 7: cannot be read"),
        ({}, {"area": 10**400}, "is not as COCO describes it"),
        ({"height": float("inf")}, {}, "has height inf and width 6; write the image's size"),
        ({"height": 10**400}, {}, "pixels is too large to draw on"),
        ({"height": "high"}, {}, "write the image's size"),
        ({"height": 60000, "width": 60000}, {}, "an image of 60000×60000 pixels is too large to draw on; cut it"),
    ],
)
def test_coco(tmp_path, image, annotation, message):
    write_coco(tmp_path, image, annotation)
    refused(tmp_path, f"x.json: .*{message}")


def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path, monkeypatch):
    """Elsewhere there may be another image of the same name."""
    write_coco(tmp_path)
    is_file = Path.is_file

    def closed(path):
        if path.name == "a.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", closed)
    refused(tmp_path, "a.png: may not be read")


def test_coco_categories_that_are_hashes(tmp_path):
    write_coco(tmp_path, category=3_000_000_000)
    source = open_dataset(tmp_path)
    sample = next(iter(source.splits.values()))[0]
    assert source.labels.names == ("background", "cat", "dog")
    assert np.unique(source.read_target(sample)).tolist() == [0, 1]
    write_coco(tmp_path, annotation={"category_id": 2}, category=3_000_000_000)
    refused(tmp_path, "x.json: annotation 7: its category 2 is none of the file's; correct or remove it")
    write_coco(tmp_path, category=3_000_000_000)
    for text in ("label_map: {3000000000: void}", "ignore_index: 3000000000", "classes: {3000000000: cat}"):
        (tmp_path / "dataset.yaml").write_text(text)
        refused(tmp_path, "x.json: ids of categories are hashes here, .*; write 1 for 3000000000 in the dataset.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": [None]}, "is no annotation of LabelMe"),
        ({"imageWidth": float("inf")}, "write the image's size"),
        ({"points": [[0, 0], [10**400, 1], [2, 2]]}, "the polygon 'cat' cannot be read"),
        ({"shape_type": "mask", "mask": "AAAA", "points": [[0, 0]]}, "a mask in it: is not an image"),
        ({"shape_type": "mask", "mask": "AAAA", "points": [[float("inf"), 0]]}, "the mask 'cat' cannot be read"),
        ({"shape_type": "mask", "mask": 5, "points": [[0, 0]]}, "the mask 'cat' cannot be read"),
    ],
)
def test_labelme(tmp_path, change, message):
    write_image(tmp_path)
    shape = {"label": "cat", "shape_type": "polygon", "points": [[0, 0], [3, 0], [3, 4]]} | change
    tree = {"imagePath": "a.png", "imageHeight": H, "imageWidth": W, "shapes": [shape]} | change
    (tmp_path / "a.json").write_text(json.dumps(tree))
    refused(tmp_path, f"a.json: .*{message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"points": [[1, 2]]}, "region r: a polygon has 1 corners.*; correct or remove it"),
        ({"points": [[1, 2], [10**400, 3], [1, 1]]}, r"region r: cannot be read \(OverflowError"),
        ({"points": None}, r"region r: cannot be read \(TypeError"),
        ({"rle": [300, 1, 2]}, r"region r: cannot be read \(ValueError"),
        ({"rle": [1.5, "a"]}, r"region r: cannot be read \(TypeError"),
        ({"rle": None}, r"region r: cannot be read \(TypeError"),
    ],
)
def test_label_studio(tmp_path, value, message):
    write_image(tmp_path)
    region = {"id": "r", "type": "polygonlabels", "value": {"polygonlabels": ["cat"]} | value}
    tree = [{"data": {"image": "a.png"}, "annotations": [{"result": [region]}]}]
    (tmp_path / "export.json").write_text(json.dumps(tree))
    refused(tmp_path, f"export.json: {message}")
    (tmp_path / "export.json").write_text(json.dumps([tree[0] | {"data": {}}]))
    refused(tmp_path, "export.json: ")


@pytest.mark.parametrize("number", ["3000000000", "-3000000000", "9" * 5000])
def test_ultralytics_ids(tmp_path, number):
    write_image(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(f"{number} 0 0 1 0 1 1")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]")
    refused(tmp_path, r"labels.a.txt: ")


@pytest.mark.parametrize("rest", ["a.png,b.png\n" * 3, "a.png,b.png\n" * 20_000, 'a.png,b.png\n"'])
def test_a_quote_in_a_table_that_is_not_closed(tmp_path, rest):
    (tmp_path / "list.csv").write_text(f'image,mask\na.png,b.png\n"{rest}')
    refused(tmp_path, r"list.csv: line 3: .*; correct that line")


def test_a_cell_may_hold_a_lines_end(tmp_path):
    write_image(tmp_path)
    (tmp_path / "list.csv").write_text('image,caption,mask\na.png,"two\nlines, ""quoted""",a.png\na.png,one,a.png\n')
    assert len(read_rows(tmp_path / "list.csv")) == 3
    assert sum(map(len, open_dataset(tmp_path / "list.csv").splits.values())) == 2


def test_a_quote_in_a_table_of_classes_that_is_not_closed(tmp_path):
    (tmp_path / "_classes.csv").write_text('Pixel Value, Class\n0, "background\n1, cat\n')
    refused(tmp_path, r"_classes.csv: line 2: a quote is not closed")


def write_folder(root):
    for folder in ("images", "masks"):
        (root / folder).mkdir()
        for stem in "ab":
            Image.fromarray(np.arange(H * W, dtype=np.uint8).reshape(H, W) % 2).save(root / folder / f"{stem}.png")


@pytest.mark.parametrize("name", ["a.json", "images/x.npy", "masks/x.npy", "masks/x.mat", "classes.txt", "train.txt"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path, name):
    write_folder(tmp_path)
    os.mkfifo(tmp_path / name)
    if "x" in name and "txt" not in name:
        other = tmp_path / {"images": "masks", "masks": "images"}[name.partition("/")[0]]
        shutil.copy(other / "a.png", other / "x.png")
        (tmp_path / "dataset.yaml").write_text("classes: [a, b]")
        refused(tmp_path, rf"{name}: is no regular file")
    else:
        assert open_dataset(tmp_path).labels.num_classes == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [("/dev/zero", "/dev/zero: is no regular file"), (r'"a\0"', "cannot be read as text")],
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such devices here")
def test_a_list_that_is_no_file(tmp_path, name, message):
    write_folder(tmp_path)
    (tmp_path / "dataset.yaml").write_text(f"splits: {{train: {name}}}")
    refused(tmp_path, message)
