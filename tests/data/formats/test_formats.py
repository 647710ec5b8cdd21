"""Every format: a three-image imitation of its real layout, written by other means than ours, and read back."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from pycocotools import mask as coco_mask
from scipy.io import savemat

from fullconv.data import open_dataset
from fullconv.data.formats import FORMATS
from fullconv.doctor.examine import examine
from fullconv.errors import DataError, UsageError
from fullconv.files import Window
from reference.rle_pack import encode
from reference.three_images import (
    STEMS,
    TRUTHS,
    H,
    W,
    coco_tree,
    read_back,
    rectangles,
    write_image,
    write_mask,
    write_ultralytics,
)
from reference.tiff_pack import write_geotiff

MAC = b"\0\5\x16\7Mac OS X \xff"
"""What a Mac leaves beside every file on a foreign disk, in one called ``._`` and its name."""
SPLIT = {"train": ["a", "b"], "val": ["c"]}


def test_voc(tmp_path):
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "JPEGImages" / f"{stem}.jpg")
        write_mask(tmp_path / "SegmentationClass" / f"{stem}.png", ids, palette=True)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, stems in {"train": "a\nb\n", "val": "c\n", "trainval": "a\nb\nc\n"}.items():
        (lists / f"{name}.txt").write_text(stems)
    source = read_back(tmp_path, "voc", ["background", "aeroplane", "bicycle"], splits=SPLIT)
    assert source.labels.num_classes == 21


def test_sbd(tmp_path):
    root = tmp_path / "dataset"
    (root / "cls").mkdir(parents=True)
    for stem, ids in TRUTHS.items():
        write_image(root / "img" / f"{stem}.jpg")
        savemat(root / "cls" / f"{stem}.mat", {"GTcls": {"Segmentation": ids, "Boundaries": 0}})
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    assert read_back(tmp_path, "sbd", ["background", "aeroplane"], splits=SPLIT).labels.num_classes == 21


@pytest.mark.parametrize("ending", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, ending):
    """Road, sidewalk and building are 7, 8, 11 in one spelling and 0, 1, 2 in the other."""
    raw = np.array([7, 8, 11] if ending == "labelIds" else [0, 1, 2], np.uint8)
    for stem, ids in TRUTHS.items():
        split = "val" if stem == "c" else "train"
        name = f"{stem}_000000_000019"
        write_image(tmp_path / "leftImg8bit" / split / "aachen" / f"{name}_leftImg8bit.png")
        write_mask(tmp_path / "gtFine" / split / "aachen" / f"{name}_gtFine_{ending}.png", raw[ids])
    source = read_back(tmp_path, "cityscapes", ["road", "sidewalk", "building"])
    assert source.labels.num_classes == 19 and set(source.splits) == {"train", "val"}


def test_camvid(tmp_path):
    for stem, ids in TRUTHS.items():
        split = "val" if stem == "c" else "train"
        write_image(tmp_path / split / f"{stem}.png")
        write_mask(tmp_path / f"{split}annot" / f"{stem}.png", ids)
        (tmp_path / f"{split}.txt").write_text(
            f"/SegNet/CamVid/{split}/{stem}.png /SegNet/CamVid/{split}annot/{stem}.png"
        )
    source = read_back(tmp_path, "camvid", ["sky", "building", "pole"], splits=SPLIT)
    assert source.labels.num_classes == 11
    write_mask(tmp_path / "valannot" / "c.png", np.full((H, W), 11, np.uint8))
    assert (open_dataset(tmp_path).dataset("val")[0].target == source.labels.ignore_index).all()


def test_ade20k(tmp_path):
    for stem, ids in TRUTHS.items():
        split = "validation" if stem == "c" else "training"
        write_image(tmp_path / "images" / split / f"{stem}.jpg")
        write_mask(tmp_path / "annotations" / split / f"{stem}.png", ids)
    rows = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.15\t11664\t1172\twall", "2\t0.10\t6046\t612\tbuilding, edifice"]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows))
    read_back(tmp_path, "ade20k", ["wall", "building"], offset=-1, splits=SPLIT)
    assert open_dataset(tmp_path).table.where == tmp_path / "objectInfo150.txt"
    (tmp_path / "objectInfo150.txt").unlink()
    assert open_dataset(tmp_path).table.where == tmp_path / "dataset.yaml"


def runs(number, which, ring):
    inside = np.zeros((H, W), np.uint8)
    inside[ring[1] : ring[5], ring[0] : ring[2]] = 1
    return {"size": [H, W], "counts": coco_mask.encode(np.asfortranarray(inside))["counts"].decode()}


def plain_runs(number, which, ring):
    inside = coco_mask.decode(runs(number, which, ring) | {"counts": runs(number, which, ring)["counts"].encode()})
    flat = inside.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": [H, W], "counts": counts if flat[0] == 0 else [0, *counts]}


@pytest.mark.parametrize(
    "segmentation", [lambda number, which, ring: [ring], runs, plain_runs], ids=["rings", "text", "runs"]
)
def test_coco(tmp_path, segmentation):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(coco_tree(segmentation)))
    for stem in STEMS:
        write_image(tmp_path / "train2017" / f"{stem}.jpg")
    read_back(tmp_path, "coco", ["background", "low", "high"], splits={"train": list(STEMS)})
    assert open_dataset(tmp_path / "annotations" / "instances_train2017.json").labels.num_classes == 3


def test_cvat(tmp_path):
    colours = np.array([(0, 0, 0), (10, 10, 128), (0, 108, 128)], np.uint8)
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "JPEGImages" / f"{stem}.jpg")
        write_mask(tmp_path / "SegmentationClass" / f"{stem}.png", colours[ids])
        write_mask(tmp_path / "SegmentationObject" / f"{stem}.png", colours[ids])
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("a\nb\nc\n")
    rows = "# label:color_rgb:parts:actions\nbackground:0,0,0::\naeroplane:10,10,128::\nbird:0,108,128::\n"
    (tmp_path / "labelmap.txt").write_text(rows)
    source = read_back(tmp_path, "cvat", ["background", "aeroplane", "bird"])
    assert source.labels.palette[1] == (10, 10, 128)
    # In another order they are of the same colours.
    colours = "{background: [0, 0, 0], bird: [0, 108, 128], aeroplane: [10, 10, 128]}"
    (tmp_path / "dataset.yaml").write_text(f"classes: {colours}")
    turned = open_dataset(tmp_path).splits.values()
    sample = next(record for part in turned for record in part if record.stem == "a")
    assert np.array_equal(open_dataset(tmp_path).read_target(sample).numpy(), np.array([0, 2, 1])[TRUTHS["a"]])
    (tmp_path / "dataset.yaml").unlink()
    # The lists of subsets beside it are splits.
    (tmp_path / "ImageSets" / "Segmentation" / "Train.txt").write_text("a\n")
    (tmp_path / "ImageSets" / "Segmentation" / "Validation.txt").write_text("b\nc\n")
    splits = open_dataset(tmp_path).splits.items()
    stems = {name: "".join(record.stem for record in part) for name, part in splits}
    assert stems == {"train": "a", "val": "bc"}


@pytest.mark.parametrize("kind", ["polygon", "rectangle", "mask"])
def test_labelme(tmp_path, kind):
    for number, stem in enumerate(STEMS):
        write_image(tmp_path / f"{stem}.jpg")
        shapes = []
        for which, (left, top, right, _, _, bottom, *_) in rectangles(number):
            points = [[left, top], [right, top], [right, bottom], [left, bottom]]
            shape = {
                "label": ["", "low", "tall"][which],
                "points": points,
                "shape_type": kind,
                "group_id": None,
                "flags": {},
            }
            if kind != "polygon":
                shape["points"] = [[left, top], [right, bottom]]
            if kind == "mask":
                buffer = io.BytesIO()
                Image.fromarray(np.ones((bottom - top, right - left), bool)).save(buffer, "PNG")
                shape["mask"] = base64.b64encode(buffer.getvalue()).decode()
            shapes.append(shape)
        tree = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.jpg", "imageData": "/9j/"}
        (tmp_path / f"{stem}.json").write_text(json.dumps(tree | {"imageHeight": H, "imageWidth": W}))
        (tmp_path / f"._{stem}.json").write_bytes(MAC)
    read_back(tmp_path, "labelme", ["background", "low", "tall"])


@pytest.mark.parametrize("format", ["coco", "labelme"])
def test_images_that_were_resized_after_they_were_annotated(tmp_path, format):
    if format == "coco":
        test_coco(tmp_path, lambda number, which, ring: [ring])
    else:
        test_labelme(tmp_path, "polygon")
    write_image(next(tmp_path.rglob("a.jpg")), (H // 2, W // 2))
    source = open_dataset(tmp_path)
    record = next(record for part in source.splits.values() for record in part if record.stem == "a")
    message = (
        rf"json: mask is {H}×{W} \(height × width\), its image .*a.jpg is {H // 2}×{W // 2}; export the mask again"
    )
    with pytest.raises(DataError, match=message):
        source.read_sample(record)
    assert [problem.kind for problem in examine(record, source.table).problems if problem.severity == "error"] == [
        "size_mismatch"
    ]


def test_an_annotation_may_leave_its_size_out_but_not_make_it_up(tmp_path):
    test_labelme(tmp_path, "polygon")
    tree = json.loads((tmp_path / "a.json").read_text())
    for size, fine in (({"imageHeight": None}, True), ({"imageWidth": 0}, True), ({"imageHeight": "tall"}, False)):
        (tmp_path / "a.json").write_text(json.dumps(tree | size))
        if fine:
            read_back(tmp_path, "labelme", ["background", "low", "tall"])
    with pytest.raises(DataError, match=r"a.json: has imageHeight 'tall' and imageWidth 36; write the image's size"):
        open_dataset(tmp_path)


def test_ultralytics_masks(tmp_path):
    read_back(write_ultralytics(tmp_path, masks=True), "yolo", ["none", "low", "high"], splits=SPLIT)


def test_roboflow(tmp_path):
    for stem, ids in TRUTHS.items():
        split = "valid" if stem == "c" else "train"
        write_image(tmp_path / split / f"{stem}.jpg")
        write_mask(tmp_path / split / f"{stem}_mask.png", ids)
        (tmp_path / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, low\n2, high\n")
    read_back(tmp_path, "roboflow", ["background", "low", "high"], splits=SPLIT)


@pytest.mark.parametrize("kind", ["brush", "polygon"])
def test_label_studio(tmp_path, kind):
    tasks = []
    for number, stem in enumerate(STEMS):
        write_image(tmp_path / f"{stem}.jpg")
        regions = []
        for which, ring in rectangles(number):
            name = ["", "low", "tall"][which]
            if kind == "brush":
                inside = np.zeros((H, W, 4), np.uint8)
                inside[ring[1] : ring[5], ring[0] : ring[2]] = 255
                value = {"format": "rle", "rle": encode(inside.ravel().tolist()), "brushlabels": [name]}
            else:
                points = [[x / W * 100, y / H * 100] for x, y in zip(ring[::2], ring[1::2], strict=True)]
                value = {"points": points, "closed": True, "polygonlabels": [name]}
            region = {"type": f"{kind}labels", "value": value, "original_width": W, "original_height": H}
            regions.append(region | {"from_name": "tag", "to_name": "image", "id": f"r{which}"})
        cancelled = {"result": [], "was_cancelled": True}
        task = {"id": number, "data": {"image": f"/data/upload/1/1a2b3c4d-{stem}.jpg"}}
        tasks.append(task | {"annotations": [cancelled, {"result": regions, "was_cancelled": False}]})
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    read_back(tmp_path, "labelstudio", ["background", "low", "tall"])


def test_pet(tmp_path):
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "images" / f"{stem}.jpg")
        write_mask(tmp_path / "annotations" / "trimaps" / f"{stem}.png", np.array([1, 2, 3], np.uint8)[ids])
        (tmp_path / "annotations" / "trimaps" / f"._{stem}.png").write_bytes(b"mac")
    (tmp_path / "annotations" / "trainval.txt").write_text("# a comment\na 1 1 1\nb 1 1 1\n")
    (tmp_path / "annotations" / "test.txt").write_text("c 1 1 1\n")
    source = open_dataset(tmp_path)
    assert source.format == "pet" and source.labels.names == ("pet", "background")
    expected = np.array([0, 1, source.labels.ignore_index])[TRUTHS["c"]]
    assert np.array_equal(source.dataset("test")[0].target.numpy(), expected)


@pytest.mark.parametrize("with_split", [True, False])
def test_table(tmp_path, with_split):
    rows = ["image,mask,split" if with_split else "image,mask"]
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "pictures" / f"{stem}.jpg")
        write_mask(tmp_path / "other" / f"{stem}_is_here.png", ids)
        split = f",{'val' if stem == 'c' else 'train'}" if with_split else ""
        rows.append(f"pictures/{stem}.jpg,other/{stem}_is_here.png{split}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    read_back(tmp_path, "csv", ["class 0", "class 1", "class 2"], splits=SPLIT if with_split else None)
    assert open_dataset(tmp_path / "list.csv").format == "csv"


FOLDERS = [("images", "masks", ""), ("imgs", "labels", "_mask"), ("img_dir", "ann_dir", ""), ("image", "gt", "_gt")]


@pytest.mark.parametrize(("images", "masks", "ending"), FOLDERS)
@pytest.mark.parametrize("nested", ["", "outside", "inside"])
def test_folders(tmp_path, images, masks, ending, nested):
    for stem, ids in TRUTHS.items():
        split = "val" if stem == "c" else "train"
        place = {"": "{}", "outside": f"{split}/{{}}", "inside": f"{{}}/{split}"}[nested]
        write_image(tmp_path / place.format(images) / f"{stem}.jpg")
        write_mask(tmp_path / place.format(masks) / f"{stem}{ending}.png", ids)
    read_back(tmp_path, "folder", ["class 0", "class 1", "class 2"], splits=SPLIT if nested else None)


def test_every_format_is_tested_here():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    spelled = {"yolo": "ultralytics_masks", "labelstudio": "label_studio", "csv": "table", "folder": "folders"}
    assert {spelled.get(name, name) for name in FORMATS} <= tested


def test_what_is_written_is_read_as_the_same(tmp_path):
    for write in (test_voc, test_pet, test_camvid):
        root = tmp_path / write.__name__
        root.mkdir()
        write(root)
        first = open_dataset(root)
        first.description.write(tmp_path / "other" / "dataset.yaml", first.root)
        second = open_dataset(tmp_path / "other" / "dataset.yaml")
        assert second.format == first.format and second.labels == first.labels
        assert {split: [record.stem for record in part] for split, part in second.splits.items()} == {
            split: [record.stem for record in part] for split, part in first.splits.items()
        }
        for split in first.splits:
            for one, two in zip(first.dataset(split), second.dataset(split), strict=True):
                assert np.array_equal(one.target.numpy(), two.target.numpy())


def test_an_unknown_format(tmp_path):
    with pytest.raises(UsageError, match=r"'vco' is unknown; did you mean 'voc'"):
        open_dataset(tmp_path, "vco")


def test_geotiff(tmp_path):
    """Four bands of 16 bits; 200 is the masks' value for no data."""
    bands = np.random.default_rng(0).integers(0, 65536, (3, H, W, 4), np.uint16)
    for pixels, (stem, ids) in zip(bands, TRUTHS.items(), strict=True):
        write_geotiff(tmp_path / "images" / f"{stem}.tif", pixels)
        marked = ids.copy()
        marked[0, 0] = 200
        write_geotiff(tmp_path / "masks" / f"{stem}.tif", marked[..., None], nodata=200)
    source = open_dataset(tmp_path)
    assert source.format == "geotiff" and source.labels.names == ("class 0", "class 1", "class 2")
    records = {record.stem: record for part in source.splits.values() for record in part}
    for pixels, stem in zip(bands, STEMS, strict=True):
        sample = source.read_sample(records[stem])
        assert sample.image.numpy() == pytest.approx(pixels.transpose(2, 0, 1) / 257, abs=1e-4)
        assert sample.target[0, 0] == source.labels.ignore_index
        assert np.array_equal(sample.target.numpy()[1:], TRUTHS[stem][1:])
        part = source.read_sample(records[stem], Window(3, 5, 7, 11))
        assert part.image.equal(sample.image[:, 3:10, 5:16]) and part.target.equal(sample.target[3:10, 5:16])


@pytest.mark.parametrize("size", [1, 2])
def test_huggingface(tmp_path, size):
    """The layout of a pushed data set: structs of bytes and path, in row groups."""
    rows = []
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "files" / f"{stem}.png")
        write_mask(tmp_path / "files" / f"{stem}_mask.png", ids)
        rows.append({key: (tmp_path / "files" / f"{stem}{end}.png").read_bytes() for key, end in ENDS.items()})
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    for name, part in {"train-00000-of-00001": rows[:2], "validation-00000-of-00001": rows[2:]}.items():
        columns = {key: [{"bytes": row[key], "path": None} for row in part] for key in ENDS}
        parquet.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=size)
    (tmp_path / "set" / "id2label.json").write_text(json.dumps({"0": "ground", "1": "box", "2": "lid"}))
    source = open_dataset(tmp_path / "set")
    assert source.format == "huggingface" and source.labels.names == ("ground", "box", "lid")
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 2, "val": 1}
    for record, stem in zip([*source.splits["train"], *source.splits["val"]], STEMS, strict=True):
        sample = source.read_sample(record)
        assert np.array_equal(sample.target.numpy(), TRUTHS[stem])
        assert np.array_equal(
            sample.image.permute(1, 2, 0).numpy(), np.array(Image.open(tmp_path / "files" / f"{stem}.png"))
        )
        assert source.read_sample(record, Window(2, 3, 4, 5)).image.equal(sample.image[:, 2:6, 3:8])


ENDS = {"image": "", "annotation": "_mask"}


@pytest.mark.parametrize("format", ["coco", "huggingface"])
def test_what_a_mac_leaves_behind_is_no_annotation(tmp_path, format):
    if format == "coco":
        test_coco(tmp_path, lambda number, which, ring: [ring])
    else:
        test_huggingface(tmp_path, 1)
    for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.parquet")]:
        path.with_name(f"._{path.name}").write_bytes(MAC)
    assert open_dataset(tmp_path if format == "coco" else tmp_path / "set").format == format
