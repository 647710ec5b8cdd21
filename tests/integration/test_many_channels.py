"""Other channels than red, green, blue, from the files to the prediction."""

import json

import numpy as np
import pytest
from PIL import Image

from fullconv import evaluate, load, train
from fullconv.errors import UsageError
from reference.tiff_pack import write_geotiff

TINY = {"model.trunk": "small", "model.context": "none", "model.input_scale": 1, "data.crop": 32, "data.batch_size": 2}
H, W = 40, 56


@pytest.fixture
def rasters(tmp_path):
    """Bands of noise but for the fourth, which is the truth: 10,000 inside and 2,000 outside."""
    rng = np.random.default_rng(0)
    for stem in "abcdef":
        ids = np.zeros((H, W), np.uint8)
        top, left = rng.integers(0, 20, 2)
        ids[top : top + 16, left : left + 20] = 1
        pixels = rng.integers(0, 10000, (H, W, 4), np.uint16)
        pixels[..., 3] = np.where(ids, 10000, 2000)
        write_geotiff(tmp_path / "data" / "images" / f"{stem}.tif", pixels)
        write_geotiff(tmp_path / "data" / "masks" / f"{stem}.tif", ids[..., None])
    return tmp_path / "data"


@pytest.mark.parametrize("patches", ["none", "class"])
def test_a_band_beyond_the_colours_is_used(rasters, tmp_path, patches):
    (rasters / "dataset.yaml").write_text("bands: [1, 4]\nrange: [0, 10000]\n")
    settings = {**TINY, "data.patches": patches, "optim.rate": 5e-3, "data.scale": [1, 1], "model.dropout": 0}
    train(rasters, tmp_path / "run", settings=settings, epochs=25, quiet=True)
    model = json.loads((tmp_path / "run" / "best" / "config.json").read_text())["model"]
    assert (model["in_channels"], model["bands"], model["value_range"]) == (2, [1, 4], [0, 10000])
    assert 100 < model["normalisation"][0][0] < 155 and 51 < model["normalisation"][0][1] < 150
    assert evaluate(tmp_path / "run", rasters, "train").mean_iu > 0.8
    predicted = load(tmp_path / "run").predict(rasters / "images" / "a.tif").labels
    truth = np.array(Image.open(rasters / "masks" / "a.tif"))
    assert (predicted == truth).mean() > 0.9


def test_a_network_of_other_channels_takes_arrays_of_them(rasters, tmp_path):
    train(rasters, tmp_path / "run", settings=TINY, epochs=1, quiet=True)
    predictor = load(tmp_path / "run")
    array = np.random.default_rng(1).uniform(0, 255, (30, 20, 4)).astype(np.float32)
    assert predictor.predict(array).labels.shape == (30, 20)
    with pytest.raises(UsageError, match="the model takes 4 channels, the image has 3"):
        predictor.predict(array[..., :3])
