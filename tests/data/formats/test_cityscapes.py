import numpy as np
import yaml

from fullconv.data import open_dataset
from reference.three_images import STEMS, H, W, write_image, write_mask


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
