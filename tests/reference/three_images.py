"""Three images of two rectangles: how any format is given them, by other means than ours, and what must be read."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from fullconv.data import open_dataset
from fullconv.data.labels import voc_palette

H, W = 24, 36
STEMS = ("a", "b", "c")


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


def one_hot(ids, axis):
    return np.stack([ids == number for number in range(3)], axis=axis)


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
