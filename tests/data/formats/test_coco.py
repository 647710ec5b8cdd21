import json

import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.errors import DataError
from reference.three_images import STEMS, TRUTHS, coco_tree, write_image


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


def test_a_broken_annotation_names_the_file(tmp_path):
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "x.json"
    path.write_text(
        '{"images": [{"id": 1}], "categories": [], "annotations": [{"segmentation": [[1, 2, 3]], "image_id": 1}]}'
    )
    with pytest.raises(DataError, match=r"x.json: is not as COCO describes it"):
        open_dataset(tmp_path)
