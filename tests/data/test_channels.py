"""More channels than three, and more bits than eight."""

import numpy as np
import pytest
import torch
from PIL import Image

from fullconv.data import TrainingTransform, collate, open_dataset
from fullconv.data import source as source_module
from fullconv.doctor import check
from fullconv.errors import DataError
from fullconv.files import Bands, Stack, Window, raster
from fullconv.files.pictures import as_colours, picture
from fullconv.files.raster import read_raster
from reference.tiff_pack import write_geotiff

H, W = 20, 30


def folder(tmp_path, description: str):
    """Two colour images with 16-bit depth beside them."""
    rng = np.random.default_rng(0)
    for name in ("images", "depth", "masks"):
        (tmp_path / name).mkdir()
    for stem in "ab":
        Image.fromarray(rng.integers(0, 256, (H, W, 3), np.uint8)).save(tmp_path / "images" / f"{stem}.png")
        Image.fromarray(rng.integers(0, 10000, (H, W), np.uint16)).save(tmp_path / "depth" / f"{stem}.png")
        Image.fromarray(rng.integers(0, 2, (H, W), np.uint8)).save(tmp_path / "masks" / f"{stem}.png")
    (tmp_path / "dataset.yaml").write_text(f"images: images\nmasks: masks\n{description}\n")
    return tmp_path


def test_depth_is_a_fourth_channel_of_its_own_range(tmp_path):
    source = open_dataset(folder(tmp_path, "stack: {depth: [0, 10000]}"))
    record = source.splits["train"][0]
    assert isinstance(record.image, Stack) and record.image.channels() == 4 and record.image.size() == (H, W)
    sample = source.read_sample(record)
    colours = np.array(Image.open(record.image.path)).transpose(2, 0, 1)
    depth = np.array(Image.open(tmp_path / "depth" / record.image.path.name)).astype(float)
    assert np.array_equal(sample.image[:3].numpy(), colours)
    assert sample.image[3].numpy() == pytest.approx(depth * 255 / 10000, abs=1e-3)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("stack: {missing: null}", "missing: no such folder"),
        ("bands: [1, 5]", r"has 3 bands, and bands are \[1, 5\]; correct bands"),
        ("range: [9, 2]", "range: .*give two finite values, the smaller first"),
        ("range: [0, .inf]", "range: .*give two finite values, the smaller first"),
        ("bands: [0]", "bands"),
    ],
)
def test_wrong_channels(tmp_path, description, message):
    with pytest.raises(DataError, match=message):
        source = open_dataset(folder(tmp_path, description))
        source.read_sample(source.splits["train"][0])


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_mask_on_its_side_is_told_of_any_image(tmp_path, suffix):
    """Also of one that Pillow cannot open to look for an EXIF orientation."""
    for stem in "ab":
        (tmp_path / "images").mkdir(exist_ok=True)
        if suffix == ".npy":
            np.save(tmp_path / "images" / f"{stem}.npy", np.zeros((H, W, 5), np.uint16))
        else:
            write_geotiff(tmp_path / "images" / f"{stem}.tif", np.zeros((H, W, 5), np.uint16))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.eye(W, H, dtype=np.uint8)).save(tmp_path / "masks" / f"{stem}.png")
    source = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"a\.png: mask is 30×20 .*\.(npy|tif) is 20×30; export the mask again"):
        source.read_sample(next(record for part in source.splits.values() for record in part if record.stem == "a"))
    assert {problem.kind for problem in check(tmp_path).problems if problem.severity == "error"} == {"size_mismatch"}


def test_a_sample_without_its_depth_is_named(tmp_path):
    (folder(tmp_path, "stack: {depth: null}") / "depth" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: has no file of the same stem in .*depth.*; add it"):
        open_dataset(tmp_path)


def test_bands_in_another_order(tmp_path):
    source = open_dataset(folder(tmp_path, "bands: [3, 1]\nrange: [0, 127.5]"))
    record = source.splits["train"][0]
    pixels = np.array(Image.open(record.image.path)).astype(float)
    expected = np.clip(pixels[..., [2, 0]].transpose(2, 0, 1) * 2, 0, 255)
    assert source.read_sample(record).image.numpy() == pytest.approx(expected)


def test_every_way_of_storing_an_array_gives_the_same(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 65536, (H, W, 5), np.uint16)
    np.save(tmp_path / "a.npy", pixels)
    write_geotiff(tmp_path / "a.tif", pixels)
    window = Window(4, 7, 9, 40)
    for path in (tmp_path / "a.npy", tmp_path / "a.tif"):
        assert np.array_equal(read_raster(path), pixels)
        assert Bands(path).size() == (H, W) and Bands(path).channels() == 5
        assert np.array_equal(read_raster(path, Window(4, 7, 9, 20), [5, 2]), pixels[4:13, 7:27][..., [4, 1]])
    assert np.array_equal(window.cut(pixels), pixels[4:13, 7:30])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.png")
    assert np.array_equal(read_raster(tmp_path / "b.png")[..., 0], pixels[..., 0])


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64])
def test_more_than_16_bits_need_a_range(tmp_path, kind, suffix):
    """Divided by their type's largest, all would be black."""
    path, values = tmp_path / f"a{suffix}", np.array([[[0], [51], [255]]], kind)
    if suffix == ".npy":
        np.save(path, values)
    else:
        write_geotiff(path, values)
    with pytest.raises(DataError, match=rf"a\{suffix}: has values of type u?int\d\d; say .* range: \[0, 255\]"):
        Bands(path).read()
    assert Bands(path, value_range=(0.0, 255.0)).read().tolist() == [[[0, 51, 255]]]


def test_floats_need_a_range(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.0, 0.5, np.nan, 2.0]], np.float32))
    with pytest.raises(DataError, match=r"a\.npy: has floating-point values; say .* range: \[0, 1\]"):
        Bands(tmp_path / "a.npy").read()
    assert Bands(tmp_path / "a.npy", value_range=(0.0, 1.0)).read().tolist() == [[[0, 127.5, 0, 255]]]


def test_augmentation_leaves_depth_and_scales_floats_like_bytes(tmp_path):
    source = open_dataset(folder(tmp_path, "stack: {depth: [0, 10000]}"))
    sample = source.read_sample(source.splits["train"][0])
    torch.manual_seed(0)
    changed = TrainingTransform((H, W), scale=(1.0, 1.0), flip=0.0, colour=0.4)(sample)
    assert changed.image[3].equal(sample.image[3])
    assert not changed.image[:3].equal(sample.image[:3])
    assert changed.image.min() >= 0 and changed.image.max() <= 255
    batch = collate([changed, TrainingTransform((H + 4, W), scale=(1.0, 1.0))(sample)], 255)
    assert batch.images.shape == (2, 4, H + 4, W)
    assert batch.images[0, :, -1, 0].tolist() == [124, 116, 104, 0]


def test_what_is_shown_of_any_channels():
    grey = as_colours(torch.full((2, 4, 5), 7.4))
    assert grey.shape == (3, 4, 5) and grey.dtype == torch.uint8 and grey.unique().tolist() == [7]


@pytest.mark.parametrize("rasterio", [True, False])
def test_values_below_zero_need_a_range(tmp_path, monkeypatch, rasterio):
    if not rasterio:
        monkeypatch.setattr(raster, "_rasterio", lambda: None)
    values = np.array([[[-1000], [0]], [[500], [1000]]], dtype=np.int16)
    np.save(tmp_path / "a.npy", values)
    Image.fromarray(values[..., 0].astype(np.int32)).save(tmp_path / "a.tif")
    for name in ("a.npy", "a.tif"):
        with pytest.raises(DataError, match=rf"{name}: has values below 0; say which become 0 and 255"):
            picture(tmp_path / name).read()
        scaled = Bands(tmp_path / name, (1,), (-1000.0, 1000.0)).read()[0]
        torch.testing.assert_close(scaled, torch.tensor([[0, 127.5], [191.25, 255]]))


def test_no_data_below_zero_is_no_value(tmp_path):
    values = np.array([[[-9999], [0]], [[500], [32767]]], dtype=np.int16)
    write_geotiff(tmp_path / "a.tif", values, nodata=-9999)
    assert Bands(tmp_path / "a.tif").read()[0, 0].tolist() == [0, 0]
    values[0, 1] = -1
    write_geotiff(tmp_path / "a.tif", values, nodata=-9999)
    with pytest.raises(DataError, match="has values below 0"):
        Bands(tmp_path / "a.tif").read()


@pytest.mark.parametrize("suffix", ["npy", "png"])
def test_mean_and_deviation_of_channels_are_those_of_all_pixels(tmp_path, monkeypatch, suffix):
    """Of every fourth row and column, read in strips or at once, and read once. Twin: numpy's."""
    pixels = {stem: np.random.default_rng(ord(stem)).integers(0, 200, (41, 30, 3)).astype(np.uint8) for stem in "ab"}
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for stem, values in pixels.items():
        if suffix == "npy":
            np.save(tmp_path / "images" / f"{stem}.npy", values)
        else:
            Image.fromarray(values).save(tmp_path / "images" / f"{stem}.png")
        Image.fromarray(np.zeros((41, 30), np.uint8)).save(tmp_path / "masks" / f"{stem}.png")
    (tmp_path / "dataset.yaml").write_text("splits: {train: [a, b]}\nclasses: [ground]\n")
    every = np.concatenate([values[::4, ::4].reshape(-1, 3) for values in pixels.values()])
    for strip in (1, 300, 1 << 25):
        monkeypatch.setattr(source_module, "_STRIP", strip)
        opened = open_dataset(tmp_path)
        mean, std = opened.channel_moments("train")
        assert mean == pytest.approx(every.mean(0)) and std == pytest.approx(every.std(0))
        for path in (tmp_path / "images").iterdir():
            path.rename(tmp_path / path.name)
        assert opened.channel_moments("train") == (mean, std)
        for stem in "ab":
            (tmp_path / f"{stem}.{suffix}").rename(tmp_path / "images" / f"{stem}.{suffix}")
