import numpy as np
import pytest

from fullconv.data import open_dataset
from reference.three_images import TRUTHS, write_image, write_mask


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
