"""Other channels than red, green, blue, from the files to the prediction."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fullconv import check, evaluate, fcn8s, load, train
from fullconv.data import open_dataset, write_shapes
from fullconv.data.labels import LabelSet
from fullconv.errors import DataError, UsageError
from fullconv.files import Bands
from fullconv.training.config import load_config
from fullconv.training.feed import build_feed
from fullconv.training.network import build_model
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


@pytest.mark.parametrize(("patches", "epochs"), [("none", 40), ("class", 12)])
def test_a_band_beyond_the_colours_is_used(rasters, tmp_path, patches, epochs):
    (rasters / "dataset.yaml").write_text("bands: [1, 4]\nrange: [0, 10000]\n")
    settings = {**TINY, "data.patches": patches, "optim.rate": 5e-3, "data.scale": [1, 1], "model.dropout": 0}
    train(rasters, tmp_path / "run", settings=settings, epochs=epochs, quiet=True)
    model = json.loads((tmp_path / "run" / "best" / "config.json").read_text())["model"]
    assert (model["in_channels"], model["bands"], model["value_range"]) == (2, [1, 4], [0, 10000])
    assert 100 < model["normalisation"][0][0] < 155 and 51 < model["normalisation"][0][1] < 150
    assert evaluate(tmp_path / "run", rasters, "train").mean_iu > 0.8
    predicted = load(tmp_path / "run").predict(rasters / "images" / "a.tif").labels
    truth = np.array(Image.open(rasters / "masks" / "a.tif"))
    assert (predicted == truth).mean() > 0.9


@pytest.mark.parametrize("crop", [(64, 64), "none"])
def test_what_lies_outside_an_image_is_what_is_usual_in_it(rasters, crop):
    """In each channel, as normalised: of bands, no colour is."""
    for stem in "bdf":
        write_geotiff(rasters / "images" / f"{stem}.tif", np.full((H, W + 8, 4), 1000, np.uint16))
        write_geotiff(rasters / "masks" / f"{stem}.tif", np.zeros((H, W + 8, 1), np.uint8))
    source = open_dataset(rasters)
    settings = {**TINY, "data.crop": crop, "data.scale": [1, 1], "data.colour": 0, "data.batch_size": 4}
    feed = build_feed(source, load_config("modern", settings))
    outside = torch.tensor(source.channel_moments("train")[0])[:, None, None]
    (batch,) = next(iter(feed.steps(1)))
    padded = batch.targets[:, None].expand_as(batch.images) == 255
    assert padded.any()
    torch.testing.assert_close(batch.images[padded], outside.expand_as(batch.images)[padded])


ASKED = "the model was trained on bands: [4, 1, 2] and range: [0, 10000]; say bands: [4, 1, 2] and range: [0, 10000] in"


@pytest.mark.parametrize(
    ("other", "seen"),
    [
        ("bands: [1, 2, 4]\nrange: [0, 10000]", "bands: [1, 2, 4] and range: [0, 10000]"),
        ("bands: [4, 1, 2]", "bands: [4, 1, 2] and range: null"),
        ("format: folder", "bands: [1, 2, 3] and range: null"),
    ],
)
def test_a_model_is_scored_on_the_bands_it_was_trained_on(rasters, other, seen):
    (rasters / "dataset.yaml").write_text("bands: [4, 1, 2]\nrange: [0, 10000]")
    model = build_model(open_dataset(rasters), load_config("modern", TINY))
    evaluate(model, rasters)
    (rasters / "dataset.yaml").write_text(other)
    with pytest.raises(DataError) as raised:
        evaluate(model, rasters)
    assert f"{rasters}: its images are read as {seen}, {ASKED} a dataset.yaml" in str(raised.value)


def test_a_model_of_one_band_is_not_scored_on_the_mean_of_three(rasters):
    (rasters / "dataset.yaml").write_text("bands: [1]")
    model = build_model(open_dataset(rasters), load_config("modern", TINY))
    for path in (rasters / "images").iterdir():
        write_geotiff(path, np.zeros((H, W, 3), np.uint16))
    (rasters / "dataset.yaml").unlink()
    with pytest.raises(DataError, match=r"read as bands: \[1, 2, 3\] and range: null, .* say bands: \[1\]"):
        evaluate(model, rasters)


def test_a_model_of_colours_is_scored_on_colours(rasters):
    """The same three bands, whether a picture's or a raster's."""
    (rasters / "dataset.yaml").write_text("bands: [1, 2, 3]")
    colours = build_model(write_shapes(rasters.parent / "shapes", count=6, sizes=(40, 40)), load_config("modern", TINY))
    colours.labels["semantic"] = LabelSet.of(["a", "b", "c", "d", "e", "f"])
    (rasters / "classes.txt").write_text("a\nb\nc\nd\ne\nf")
    evaluate(colours, rasters)
    (rasters / "dataset.yaml").write_text("bands: [4, 3, 2]")
    with pytest.raises(DataError, match=r"as bands: \[4, 3, 2\] .* the model was trained on bands: \[1, 2, 3\]"):
        evaluate(colours, rasters)


def test_three_bands_that_are_no_colours_have_a_mean_of_their_own(rasters, tmp_path):
    (rasters / "dataset.yaml").write_text("bands: [4, 1, 2]\nrange: [0, 10000]\n")
    source = open_dataset(rasters)
    pixels = [record.image.read()[:, ::4, ::4].flatten(1) for record in source.records("train")]
    means = torch.stack([part.mean(1) for part in pixels]).mean(0)
    model = build_model(source, load_config("modern", TINY))
    torch.testing.assert_close(model.mean.flatten(), means)
    asked = build_model(source, load_config("modern", TINY | {"model.normalisation": "caffe"}))
    assert asked.std.flatten().tolist() == [1, 1, 1]
    (rasters / "dataset.yaml").write_text("bands: [4, 1]\nrange: [0, 10000]\n")
    with pytest.raises(UsageError, match=r"model\.normalisation=caffe is of red, green, blue, .* 2 channels"):
        build_model(open_dataset(rasters), load_config("modern", TINY | {"model.normalisation": "caffe"}))


def test_a_network_of_other_channels_takes_arrays_of_them(rasters, tmp_path):
    train(rasters, tmp_path / "run", settings=TINY, epochs=1, quiet=True)
    predictor = load(tmp_path / "run")
    array = np.random.default_rng(1).uniform(0, 255, (30, 20, 4)).astype(np.float32)
    assert predictor.predict(array).labels.shape == (30, 20)
    with pytest.raises(UsageError, match="the model takes 4 channels, the image has 3"):
        predictor.predict(array[..., :3])
    for wrong in (array[:0], array[0]):
        with pytest.raises(UsageError, match=r"the model takes 4 channels, the image has 1|the image's shape is"):
            predictor.predict(wrong)


@pytest.mark.parametrize("bands", [[4], [4, 1, 2]])
def test_a_network_of_one_or_three_bands_takes_floats(rasters, tmp_path, bands):
    """The very values that its files hold, which have 16 bits."""
    (rasters / "dataset.yaml").write_text(f"bands: {bands}\nrange: [0, 10000]\n")
    predictor = load(train(rasters, tmp_path / "run", settings=TINY, epochs=1, quiet=True).run)
    pixels = Bands(rasters / "images" / "a.tif", tuple(bands), (0.0, 10000.0)).read()
    expected = predictor.predict(rasters / "images" / "a.tif")
    for image in (pixels, pixels.permute(1, 2, 0).numpy()):
        assert np.array_equal(predictor.predict(image).confidence, expected.confidence)


STACK = "bands: [1]\nrange: [0, 10000]\nstack: {depth: [0, 10000], heat: null}"


@pytest.fixture
def stacked(rasters):
    """Three channels from three files."""
    for folder in ("depth", "heat"):
        for path in (rasters / "images").iterdir():
            write_geotiff(rasters / folder / path.name, np.ones((H, W, 1), np.uint16))
    (rasters / "dataset.yaml").write_text(STACK)
    return rasters


def test_a_network_of_three_stacked_channels_takes_no_colours(stacked, tmp_path):
    source = open_dataset(stacked)
    build_model(source, load_config("modern", TINY)).save_pretrained(tmp_path / "model")
    predictor = load(tmp_path / "model")
    evaluate(predictor, source)
    image = source.splits["train"][0].image.read()
    assert predictor.predict(image).labels.shape == predictor.predict(image.permute(1, 2, 0).numpy()).labels.shape
    Image.new("RGB", (W, H)).save(tmp_path / "photo.png")
    for picture in (tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        with pytest.raises(UsageError, match="the model takes 3 channels of stacked files, give all in one array to"):
            predictor.predict(picture)
    (stacked / "dataset.yaml").write_text("bands: [1, 2, 3]")
    with pytest.raises(DataError, match="its images are single files, the model was trained on stacks of files; write"):
        evaluate(predictor, stacked)


def test_networks_of_three_bands_take_no_stack(stacked):
    """Those that do not say of what they are go on: of stacks they did not always."""
    source = open_dataset(stacked)
    evaluate(fcn8s("small", 2), source)
    with pytest.raises(DataError, match="its images are stacks of files, the model was trained on single files; write"):
        evaluate(fcn8s("small", 2, bands=(1, 2, 3)), source)


def test_images_with_fewer_bands_than_the_others_are_named(rasters, tmp_path):
    """By check and before training; where they are to be scored, too."""
    run = train(rasters, tmp_path / "run", settings=TINY, epochs=0.1, quiet=True).run
    pixels = np.zeros((H, W, 3), np.uint16)
    write_geotiff(rasters / "images" / "c.tif", pixels)
    problem = next(problem for problem in check(rasters).problems if problem.severity == "error")
    assert "c.tif: has 3 bands, most images have 4 bands; export them alike" in str(problem)
    with pytest.raises(DataError) as raised:
        train(rasters, tmp_path / "other", settings=TINY, epochs=1, quiet=True)
    assert str(raised.value) == str(problem)
    splits = open_dataset(rasters).splits
    split = next(name for name in splits if "c" in [record.stem for record in splits[name]])
    with pytest.raises(DataError, match="image c: the model takes 4 channels, the image has 3"):
        evaluate(run, rasters, split)


def test_images_without_the_further_channels_are_not_scored(rasters, tmp_path):
    run = train(rasters, tmp_path / "run", settings=TINY, epochs=0.1, quiet=True).run
    for path in (rasters / "images").iterdir():
        write_geotiff(path, np.zeros((H, W, 3), np.uint16))
    with pytest.raises(DataError, match="its images have 3 channels, the model takes 4; say bands or stack"):
        evaluate(run, rasters, "val")
