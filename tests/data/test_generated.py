from pathlib import Path

import numpy as np
import pytest

from fullconv.data.generated import SHAPES, draw_shapes, write_shapes
from fullconv.doctor import refuse_bad
from fullconv.errors import UsageError


def test_what_is_written_is_a_data_set(tmp_path: Path) -> None:
    source = write_shapes(tmp_path / "new", count=30, seed=3)
    assert source.labels == SHAPES
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 24, "val": 3, "test": 3}
    assert len({record.stem for part in source.splits.values() for record in part}) == 30
    refuse_bad(source, source.splits)
    image, mask = draw_shapes(3, 0)
    sample = source.dataset("train")[0]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), image)
    assert np.array_equal(sample.target.numpy(), mask)


def test_the_same_seed_gives_the_same_pixels() -> None:
    for first, again, other in zip(draw_shapes(1, 5), draw_shapes(1, 5), draw_shapes(2, 5), strict=True):
        assert np.array_equal(first, again)
        assert first.shape != other.shape or not np.array_equal(first, other)


def test_sizes_and_labels_are_as_promised() -> None:
    seen: set[int] = set()
    sizes: set[tuple[int, ...]] = set()
    for index in range(60):
        image, mask = draw_shapes(0, index, (40, 50))
        assert image.shape == (*mask.shape, 3) and min(mask.shape) >= 40 and max(mask.shape) <= 50
        seen |= set(np.unique(mask).tolist())
        sizes.add(mask.shape)
    assert seen == {0, 1, 2, 3, 4, 5, 255}
    assert len(sizes) > 30


def test_classes_never_touch_without_a_void_border() -> None:
    for index in range(20):
        _, mask = draw_shapes(0, index)
        for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            assert not ((a != b) & (a != 255) & (b != 255)).any()


def test_colour_does_not_tell_the_class() -> None:
    means: dict[int, list[np.ndarray]] = {number: [] for number in range(1, 6)}
    for index in range(150):
        image, mask = draw_shapes(0, index)
        for number in np.unique(mask):
            if 1 <= number <= 5:
                means[int(number)].append(image[mask == number].mean(0))
    centres = np.array([np.mean(values, 0) for values in means.values()])
    spread = np.mean([np.std(values, 0) for values in means.values()])
    # Classes' mean colours lie closer together than the colours within one class spread.
    assert centres.std(0).max() < spread / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 2}, "count 2, seed 0: give a count of at least 3"),
        ({"seed": -1}, "seed -1: give"),
        ({"sizes": (80, 70)}, r"sizes is \(80, 70\); give the smaller side first, at least 32"),
        ({"sizes": (8, 70)}, "at least 32 pixels"),
    ],
)
def test_impossible_demos(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_shapes(tmp_path, **options)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"file.*: cannot be written: .*; choose another"):
        write_shapes(tmp_path / "file", count=3)
    (tmp_path / "images").write_text("x")
    with pytest.raises(UsageError, match=r"images.*: cannot be written: .*; choose another folder"):
        write_shapes(tmp_path, count=3)
