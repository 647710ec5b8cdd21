import numpy as np
import pytest
import yaml

from fullconv.data import open_dataset
from fullconv.errors import DataError
from reference.three_images import H, W, write_ultralytics


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
