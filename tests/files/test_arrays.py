import numpy as np
import pytest

from fullconv.errors import DataError
from fullconv.files import MaskFile, Window, arrays
from fullconv.files.images import read_mask
from reference.three_images import TRUTHS, H, W, one_hot


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64])
def test_an_array_is_one_hot_only_where_it_is_of_0_and_1(tmp_path, kind):
    np.save(tmp_path / "m.npy", one_hot(TRUTHS["a"], 2).astype(kind))
    assert np.array_equal(read_mask(tmp_path / "m.npy"), TRUTHS["a"])
    colours = one_hot(TRUTHS["a"], 2).astype(np.uint8) * 255
    np.save(tmp_path / "m.npy", colours)
    assert np.array_equal(read_mask(tmp_path / "m.npy"), colours)
    np.save(tmp_path / "m.npy", one_hot(TRUTHS["a"], 2).astype(np.int64) * 7)
    assert np.array_equal(read_mask(tmp_path / "m.npy"), TRUTHS["a"]), "these are no colours"
    for wrong in (TRUTHS["a"][..., None].astype(kind) * 2 + 1, np.ones((H, W, 4), kind)):
        np.save(tmp_path / "m.npy", wrong)
        with pytest.raises(DataError, match=r"m\.npy: is a \d+×\d+×\d+ array, but neither colours nor layers .*; save"):
            read_mask(tmp_path / "m.npy")


@pytest.mark.parametrize(
    "form",
    [lambda ids: ids.astype(np.int16), lambda ids: one_hot(ids, 0), lambda ids: one_hot(ids, 2).astype(np.uint8) * 255],
)
@pytest.mark.parametrize("window", [Window(3, 5, 4, 6), Window(H - 2, W - 2, 9, 9), Window(H, 0, 2, 2)])
def test_a_window_of_an_array_is_that_of_the_whole(tmp_path, monkeypatch, form, window):
    """Ids lie in the file as in memory, so that the whole may be of any size; of them no more is read than that."""
    path = tmp_path / "m.npy"
    np.save(path, form(TRUTHS["a"]))
    whole = MaskFile(path).read()
    part = MaskFile(path).read(window)
    assert part.dtype == whole.dtype and np.array_equal(part, window.cut(whole))
    monkeypatch.setattr(arrays, "_MOST_VALUES", H * W - 1)
    if form(TRUTHS["a"]).ndim == 2:
        assert np.array_equal(MaskFile(path).read(), whole) and np.array_equal(MaskFile(path).read(window), part)
    else:
        with pytest.raises(DataError, match=r"m\.npy: is too large to be a mask; save tiles, or an h×w array of ids"):
            MaskFile(path).read(window)
