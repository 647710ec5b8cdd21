import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.doctor.bound import STRIDES, StrideBound


def by_cells(target, classes, stride):
    """Predict every cell's most frequent class, one cell at a time; return hits, predicted and true pixels."""
    hits, predicted, truth = np.zeros((3, classes))
    for top in range(0, target.shape[0], stride):
        for left in range(0, target.shape[1], stride):
            cell = target[top : top + stride, left : left + stride]
            counts = np.bincount(cell[cell < classes], minlength=classes)
            best = counts.argmax()
            hits[best] += counts[best]
            predicted[best] += counts.sum()
            truth += counts
    return hits, predicted, truth


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_is_the_loop_version(height, width, seed):
    rng = np.random.default_rng(seed)
    masks = [np.kron(rng.integers(0, 4, (9, 9)), np.ones((8, 8), int))[:height, :width] for _ in range(2)]
    bound = StrideBound(3)
    for mask in masks:
        bound.add(mask)
    for stride, mean_iu in bound.mean_iu().items():
        hits, predicted, truth = np.sum([by_cells(mask, 3, stride) for mask in masks], axis=0)
        union = truth + predicted - hits
        expected = (
            np.mean([hits[index] / union[index] for index in range(3) if truth[index]]) if truth.any() else np.nan
        )
        assert mean_iu == pytest.approx(expected, nan_ok=True)


def test_cells_of_one_class_lose_nothing():
    mask = np.kron(np.random.default_rng(0).integers(0, 5, (3, 4)), np.ones((32, 32), int))
    bound = StrideBound(5)
    bound.add(mask)
    assert bound.mean_iu() == dict.fromkeys(STRIDES, 1.0)


def test_nothing_is_kept_of_a_mask():
    tracemalloc.start()
    bound = StrideBound(4)
    for size in range(500, 516):
        bound.add(np.zeros((size, size), np.uint8))
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 1 << 20


def test_coarser_cells_get_no_more_pixels_right():
    bound = StrideBound(4)
    bound.add(np.random.default_rng(1).integers(0, 5, (61, 47)))
    right = bound.hits.sum(axis=1)
    assert (np.diff(right) <= 0).all() and right[0] > right[-1]
