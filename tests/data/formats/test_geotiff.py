import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.doctor import refuse_bad
from reference.three_images import STEMS, TRUTHS, H, W
from reference.tiff_pack import write_geotiff


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
