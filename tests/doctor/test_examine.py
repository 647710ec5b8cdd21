"""What is said of one file."""

import numpy as np
import pytest
import yaml
from PIL import Image

import fullconv
from fullconv.errors import DataError


@pytest.mark.parametrize("fault", ["id", "colour", "no colours", "JPEG"])
def test_the_check_says_what_training_says(tmp_path, fault):
    """Also where label_map gives more ids than there are classes."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[20:40, 20:40] = 99
    ids = np.where(colours[..., 0] == 99, 77, 1).astype(np.uint8)
    mask = Image.fromarray(colours if "colour" in fault else ids)
    mask.save(tmp_path / "masks" / ("a.jpg" if fault == "JPEG" else "a.png"))
    Image.fromarray(colours).save(tmp_path / "images" / "a.png")
    classes = {"a": [0, 0, 0], "b": [1, 1, 1]} if fault == "colour" else ["a", "b"]
    description = {"classes": classes, "label_map": {70: "void", 71: "void"}}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(description))
    source = fullconv.open_dataset(tmp_path)
    with pytest.raises(DataError) as caught:
        source.read_sample(source.records("train")[0])
    assert str(caught.value) in [str(problem) for problem in fullconv.check(source).problems]
