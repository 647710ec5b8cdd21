"""Every format: a three-image imitation of its real layout, written by other means than ours, and read back."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image
from pyarrow import parquet
from pycocotools import mask as coco_mask
from scipy.io import savemat

from fullconv.data import open_dataset
from fullconv.data.formats import FORMATS
from fullconv.data.labels import voc_palette
from fullconv.doctor import refuse_bad
from fullconv.doctor.examine import examine
from fullconv.errors import DataError, UsageError
from fullconv.files import MaskFile, Window, arrays
from fullconv.files.images import read_mask
from reference.rle_pack import encode
from reference.tiff_pack import write_geotiff

H, W = 24, 36
STEMS = ("a", "b", "c")
MAC = b"\0\5\x16\7Mac OS X \xff"
"""What a Mac leaves beside every file on a foreign disk, in one called ``._`` and its name."""


def truth(number: int) -> np.ndarray:
    """Background 0 with two rectangles, 1 and 2, the second over the first."""
    ids = np.zeros((H, W), np.uint8)
    ids[4:16, 6 : 20 + number] = 1
    ids[10:22, 16:30] = 2
    return ids


TRUTHS = dict(zip(STEMS, map(truth, range(3)), strict=True))


def corners(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def rectangles(number):
    """The same picture as shapes: (class, corners), the first drawn first."""
    return [(1, corners(6, 4, 20 + number, 16)), (2, corners(16, 10, 30, 22))]


def write_image(path: Path, size=(H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, ids: np.ndarray, palette=False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if palette:
        image = image.convert("P")
        image.putdata(ids.ravel().tolist())
        image.putpalette([channel for colour in voc_palette(256) for channel in colour])
    image.save(path)


def read_back(root, format, names, offset=0, splits=None):
    """Open by looking, and check format, classes, splits and every pixel."""
    source = open_dataset(root)
    assert source.format == format
    assert open_dataset(root, format).format == format
    assert source.labels.names[: len(names)] == tuple(names)
    records = {record.stem: record for part in source.splits.values() for record in part}
    assert len(records) == 3
    if splits:
        assert {split: [record.stem for record in part] for split, part in source.splits.items()} == splits
    for stem, record in records.items():
        sample = source.read_sample(record)
        key = next(name for name in STEMS if stem == name or stem.startswith(f"{name}_") or stem.endswith(f"_{name}"))
        expected = TRUTHS[key].astype(int) + offset
        assert np.array_equal(sample.target.numpy(), np.where(expected < 0, source.labels.ignore_index, expected))
        assert sample.image.shape == (3, H, W)
    return source


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


def test_cityscapes_other_ids_are_void(tmp_path):
    for stem in STEMS:
        write_image(tmp_path / "leftImg8bit" / "train" / "x" / f"{stem}_leftImg8bit.png")
        ids = np.tile(np.arange(34, dtype=np.uint8), (H, 2))[:, :W]
        write_mask(tmp_path / "gtFine" / "train" / "x" / f"{stem}_gtFine_labelIds.png", ids)
    target = open_dataset(tmp_path).dataset("train")[0].target[0]
    assert target[4] == 255 and target[7] == 0 and target[33] == 18 and (target[:34] != 255).sum() == 19
    classes = {number: f"class {number}" for number in range(6, 34)}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"classes": classes}))
    target = open_dataset(tmp_path).dataset("train")[0].target[0]
    assert target[5] == 255 and target[6:34].tolist() == [*range(28)], "unless they are described"


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


def coco_tree(segmentation, category=(1, 2)):
    """``segmentation(number, class, corners)`` writes one object."""
    tree = {"images": [], "annotations": [], "categories": []}
    tree["categories"] = [{"id": category[0], "name": "low"}, {"id": category[1], "name": "high"}]
    for number, stem in enumerate(STEMS):
        tree["images"].append({"id": number + 10, "file_name": f"{stem}.jpg", "height": H, "width": W})
        for index, (which, ring) in enumerate(rectangles(number)):
            # Smaller objects are drawn last.
            tree["annotations"].append(
                {
                    "id": len(tree["annotations"]),
                    "image_id": number + 10,
                    "category_id": category[which - 1],
                    "segmentation": segmentation(number, which, ring),
                    "area": 200 - index,
                    "iscrowd": 0,
                    "bbox": [0, 0, 1, 1],
                }
            )
    return tree


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


def test_coco_beside_the_images_with_a_category_0(tmp_path):
    tree = coco_tree(lambda number, which, ring: [ring], category=(0, 1))
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "_annotations.coco.json").write_text(json.dumps(tree))
    for stem in STEMS:
        write_image(tmp_path / "valid" / f"{stem}.jpg")
    source = open_dataset(tmp_path)
    assert source.labels.names == ("low", "high", "background") and set(source.splits) == {"val"}
    expected = np.array([2, 0, 1])[TRUTHS["a"]]
    assert np.array_equal(source.dataset("val")[0].target.numpy(), expected)


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


def write_ultralytics(root: Path, masks: bool) -> Path:
    for number, (stem, ids) in enumerate(TRUTHS.items()):
        split = "val" if stem == "c" else "train"
        write_image(root / "images" / split / f"{stem}.jpg")
        if masks:
            write_mask(root / "masks" / split / f"{stem}.png", ids)
            continue
        rows = [
            f"{which - 1} " + " ".join(str(value / (W, H)[index % 2]) for index, value in enumerate(ring))
            for which, ring in rectangles(number)
        ]
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split / f"{stem}.txt").write_text("\n".join(rows))
    tree = {"path": ".", "train": "images/train", "val": "images/val", "names": {0: "low", 1: "high"}}
    if masks:
        tree |= {"names": {0: "none", 1: "low", 2: "high"}, "masks_dir": "masks"}
    (root / "data.yaml").write_text(yaml.safe_dump(tree))
    return root


def test_ultralytics_masks(tmp_path):
    read_back(write_ultralytics(tmp_path, masks=True), "yolo", ["none", "low", "high"], splits=SPLIT)


def test_ultralytics_polygons(tmp_path):
    """The larger of two polygons is drawn first; here the second rectangle is the smaller or an equal one."""
    root = write_ultralytics(tmp_path, masks=False)
    source = open_dataset(root / "data.yaml")
    assert source.format == "yolo" and source.labels.names == ("low", "high", "background")
    areas = [(14 + number) * 12 for number in range(3)]
    for number, record in enumerate([*source.splits["train"], *source.splits["val"]]):
        ids = np.full((H, W), 2)
        first, second = (slice(4, 16), slice(6, 20 + number)), (slice(10, 22), slice(16, 30))
        order = [(0, first), (1, second)] if areas[number] >= 168 else [(1, second), (0, first)]
        for which, window in order:
            ids[window] = which
        assert np.array_equal(source.read_sample(record).target.numpy(), ids)


def test_ultralytics_images_without_labels_are_background(tmp_path):
    root = write_ultralytics(tmp_path, masks=False)
    (root / "labels" / "val" / "c.txt").unlink()
    assert (open_dataset(root).dataset("val")[0].target == 2).all()


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


def one_hot(ids, axis):
    return np.stack([ids == number for number in range(3)], axis=axis)


@pytest.mark.parametrize(
    "form", [lambda ids: ids, lambda ids: one_hot(ids, 0), lambda ids: one_hot(ids, 2).astype(np.uint8)]
)
def test_arrays(tmp_path, form):
    (tmp_path / "masks").mkdir()
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "images" / f"{stem}.jpg")
        np.save(tmp_path / "masks" / f"{stem}.npy", form(ids))
    read_back(tmp_path, "folder", ["class 0", "class 1", "class 2"])


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64])
def test_an_array_is_one_hot_only_where_it_is_of_0_and_1(tmp_path, kind):
    np.save(tmp_path / "m.npy", one_hot(TRUTHS["a"], 2).astype(kind))
    assert np.array_equal(read_mask(tmp_path / "m.npy"), TRUTHS["a"])
    colours = one_hot(TRUTHS["a"], 2).astype(np.uint8) * 255
    np.save(tmp_path / "m.npy", colours)
    assert np.array_equal(read_mask(tmp_path / "m.npy"), colours)
    np.save(tmp_path / "m.npy", one_hot(TRUTHS["a"], 2).astype(np.int64) * 7)
    assert np.array_equal(read_mask(tmp_path / "m.npy"), TRUTHS["a"]), "these are no colours"
    for wrong in (TRUTHS["a"][..., None].astype(kind) * 2 + 1, np.ones((H, W, 4), kind)):
        np.save(tmp_path / "m.npy", wrong)
        with pytest.raises(DataError, match=r"m\.npy: is a \d+×\d+×\d+ array, but neither colours nor layers .*; save"):
            read_mask(tmp_path / "m.npy")


@pytest.mark.parametrize(
    "form",
    [lambda ids: ids.astype(np.int16), lambda ids: one_hot(ids, 0), lambda ids: one_hot(ids, 2).astype(np.uint8) * 255],
)
@pytest.mark.parametrize("window", [Window(3, 5, 4, 6), Window(H - 2, W - 2, 9, 9), Window(H, 0, 2, 2)])
def test_a_window_of_an_array_is_that_of_the_whole(tmp_path, monkeypatch, form, window):
    """Ids lie in the file as in memory, so that the whole may be of any size; of them no more is read than that."""
    path = tmp_path / "m.npy"
    np.save(path, form(TRUTHS["a"]))
    whole = MaskFile(path).read()
    part = MaskFile(path).read(window)
    assert part.dtype == whole.dtype and np.array_equal(part, window.cut(whole))
    monkeypatch.setattr(arrays, "_MOST_VALUES", H * W - 1)
    if form(TRUTHS["a"]).ndim == 2:
        assert np.array_equal(MaskFile(path).read(), whole) and np.array_equal(MaskFile(path).read(window), part)
    else:
        with pytest.raises(DataError, match=r"m\.npy: is too large to be a mask; save tiles, or an h×w array of ids"):
            MaskFile(path).read(window)


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


def test_colours_are_learned_where_there_is_no_table(tmp_path):
    colours = np.array([(0, 0, 0), (0, 200, 0), (200, 0, 0)], np.uint8)
    for stem, ids in TRUTHS.items():
        write_image(tmp_path / "images" / f"{stem}.jpg")
        write_mask(tmp_path / "masks" / f"{stem}.png", colours[ids])
    read_back(tmp_path, "folder", ["#000000", "#00c800", "#c80000"])


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


def test_a_broken_annotation_names_the_file(tmp_path):
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "x.json"
    path.write_text(
        '{"images": [{"id": 1}], "categories": [], "annotations": [{"segmentation": [[1, 2, 3]], "image_id": 1}]}'
    )
    with pytest.raises(DataError, match=r"x.json: is not as COCO describes it"):
        open_dataset(tmp_path)


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


@pytest.mark.parametrize("place", ["{split}/{{}}", "{{}}/{split}"])
def test_geotiffs_in_folders_of_splits(tmp_path, place):
    for stem, split in zip(STEMS, ("train", "train", "val"), strict=True):
        folder = place.format(split=split)
        write_geotiff(tmp_path / folder.format("images") / f"{stem}.tif", np.ones((H, W, 4), np.uint16))
        write_geotiff(tmp_path / folder.format("masks") / f"{stem}.tif", TRUTHS[stem][..., None])
    source = open_dataset(tmp_path)
    assert source.format == "geotiff" and source.dataset("val")[0].image.shape == (4, H, W)
    assert {split: len(part) for split, part in source.splits.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize(
    ("kind", "nodata"),
    [
        (np.int16, -9999),
        (np.uint32, 2**32 - 1),
        *((np.float32, nodata) for nodata in (-1e6, np.nan, float(np.finfo(np.float32).min), np.inf)),
        (np.float64, float(np.finfo(np.float64).min)),
    ],
)
def test_any_value_of_a_geotiff_may_stand_for_no_data(tmp_path, kind, nodata):
    for stem, ids in TRUTHS.items():
        write_geotiff(tmp_path / "images" / f"{stem}.tif", np.zeros((H, W, 4), np.uint16))
        marked = ids.astype(kind)
        marked[:2] = nodata
        write_geotiff(tmp_path / "masks" / f"{stem}.tif", marked[..., None], nodata=nodata)
    source = open_dataset(tmp_path)
    refuse_bad(source, source.splits)
    assert source.labels.names == ("class 0", "class 1", "class 2")
    for record in (record for part in source.splits.values() for record in part):
        target = source.read_target(record).numpy()
        assert (target[:2] == source.labels.ignore_index).all()
        assert np.array_equal(target[2:], TRUTHS[record.stem][2:])


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


def test_a_table_without_pictures_says_which_columns_are_needed(tmp_path):
    parquet.write_table(pa.table({"text": ["a"], "image": [b"x"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"has the columns text, image; one must be called .* mask"):
        open_dataset(tmp_path)
    parquet.write_table(pa.table({"mask": [b"b"], "image": [b"x"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet\[mask, group 0, row 0\]: is not an image that Pillow can read"):
        open_dataset(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is no readable Parquet file"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("format", ["coco", "huggingface"])
def test_what_a_mac_leaves_behind_is_no_annotation(tmp_path, format):
    if format == "coco":
        test_coco(tmp_path, lambda number, which, ring: [ring])
    else:
        test_huggingface(tmp_path, 1)
    for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.parquet")]:
        path.with_name(f"._{path.name}").write_bytes(MAC)
    assert open_dataset(tmp_path if format == "coco" else tmp_path / "set").format == format


def test_an_unknown_format_in_a_description_is_an_error_of_the_data(tmp_path):
    (tmp_path / "dataset.yaml").write_text("format: foldr")
    with pytest.raises(DataError, match=r"dataset\.yaml: format 'foldr' is unknown; did you mean 'folder'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("place", ["folder", "voc", "classes", "yaml"])
def test_accents_are_one_letter_or_two(tmp_path, place):
    """By the system that wrote the name: of an image, a mask, or a list of them."""
    images, masks = ("JPEGImages", "SegmentationClass") if place == "voc" else ("images", "masks")
    write_image(tmp_path / images / "caf\u00e9.jpg")
    for folder in ("background", "box") if place == "classes" else ("",):
        write_mask(tmp_path / masks / folder / "cafe\u0301.png", (TRUTHS["a"] > 0).astype(np.uint8))
    if place == "yaml":
        (tmp_path / "dataset.yaml").write_text("splits: {train: [cafe\u0301]}", "utf-8")
    else:
        (tmp_path / "train.txt").write_text("cafe\u0301\n", "utf-8")
    assert [record.stem for record in open_dataset(tmp_path).splits["train"]] == ["caf\u00e9"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": [False, True]}, "a class is called False; put yes and no, which YAML takes for these, in quotes"),
        ({"train": 2007}, "a split is 2007; write a folder"),
        ({"val": True}, "a split is True; write a folder"),
        ({"train": [1, 2]}, r"a split is \[1, 2\]; write a folder"),
        ({"train": {"images": "a"}}, "a split is {'images': 'a'}; write a folder"),
        ({"masks_dir": 5}, "masks_dir is 5; write a folder"),
    ],
)
def test_ultralytics_values_of_another_kind(tmp_path, change, message):
    root = write_ultralytics(tmp_path, masks=False)
    tree = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump(tree | change))
    with pytest.raises(DataError, match=rf"data\.yaml: {message}"):
        open_dataset(root)


def test_an_ultralytics_yaml_that_is_none_is_named(tmp_path):
    root = write_ultralytics(tmp_path, masks=False)
    (root / "data.yaml").write_text("train: images/train\nnames: {0: a, 0: b}\n")
    with pytest.raises(DataError, match=r"data\.yaml: not valid YAML: '0' stands twice"):
        open_dataset(root)
