import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from fullconv.errors import DataError
from fullconv.files.shapes import Brush, CocoRuns, Pixels, Polygon, box, circle, polygon
from reference.rle_pack import encode

CORNER = st.tuples(st.floats(-5, 25, width=32), st.floats(-5, 20, width=32))


def inside(x, y, ring):
    """Even-odd by counting crossings to the left, one pixel at a time."""
    odd = False
    for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            odd = not odd
    return odd


@given(st.lists(CORNER, min_size=3, max_size=7))
@settings(deadline=None, max_examples=60)
def test_a_polygon_is_the_pixels_whose_centres_are_inside(ring):
    mask = polygon(ring).mask((15, 20))
    for row in range(15):
        for column in range(20):
            assert mask[row, column] == inside(column + 0.5, row + 0.5, ring)


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out():
    cut = [(3.2, -1.0), (11.7, 16.0)]
    left, right = polygon([(-1, -1), *cut, (-1, 16)]), polygon([cut[0], (30, -1), (30, 16), cut[1]])
    one, two = left.mask((15, 20)), right.mask((15, 20))
    assert not (one & two).any() and (one | two).all()


def test_a_second_ring_is_a_hole():
    mask = polygon([(0, 0), (10, 0), (10, 10), (0, 10)], [(2, 2), (5, 2), (5, 5), (2, 5)]).mask((10, 10))
    assert mask.sum() == 100 - 9 and not mask[3, 3]


def test_relative_corners_are_fractions_of_the_sides():
    whole = polygon([(0, 0), (0.5, 0), (0.5, 1), (0, 1)], relative=True)
    assert whole.mask((7, 10)).sum() == 35


def test_boxes_and_circles():
    assert box(8, 6, 2, 3).mask((10, 10)).sum() == 18
    assert circle(50, 50, 20).mask((100, 100)).sum() == pytest.approx(np.pi * 400, rel=0.01)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_coco_runs_are_read_as_pycocotools_writes_them(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert np.array_equal(CocoRuns(text).mask((height, width)), mask)
    assert np.array_equal(CocoRuns(text.decode()).mask((height, width)), mask)


def test_long_coco_runs():
    mask = np.zeros((300, 400), bool)
    mask[250:, 100:300] = True
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert np.array_equal(CocoRuns(text).mask((300, 400)), mask)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_brushes(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    values = np.repeat(mask.ravel(), 4).astype(np.uint8) * 255
    assert np.array_equal(Brush(tuple(encode(values.tolist()))).mask((height, width)), mask)


def test_pixels_are_cut_off_at_the_borders():
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(file := io.BytesIO(), "PNG")
    block = file.getvalue()
    assert Pixels(block, -2, -1).mask((10, 10)).sum() == 6
    assert Pixels(block, 8, 9).mask((10, 10)).sum() == 2
    assert Pixels(block, 3, 3).mask((10, 10)).sum() == 16


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (CocoRuns((3, 4)), "add up to 7 pixels, but the image has 4×4"),
        (CocoRuns((-1, 17)), "add up to 16 pixels"),
        (CocoRuns("zz"), "add up to"),
        (CocoRuns("o" * 500_000), "a run length has more than"),
        (Brush((1, 2, 3)), "a brush ends in the middle of a run"),
        (Brush(tuple(encode([1] * 12))), "a brush holds 12 values, but the image needs 64"),
        (Pixels(b"no image"), "a mask in it: is not an image"),
    ],
)
def test_shapes_that_are_none_of_the_image_are_refused(shape, message):
    with pytest.raises(DataError, match=message):
        shape.mask((4, 4))


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        ([(0, 0), (1, 1)], "at least 3"),
        ([(0, 0), (1, float("nan")), (1, 1)], "at least 3"),
        ([(0, 0), (1, 1e20), (1, 1)], "at least 3"),
        ([(0, 0), (1, 10**400), (1, 1)], "no numbers"),
    ],
)
def test_polygons_that_are_none(ring, message):
    with pytest.raises(DataError, match=message):
        polygon(ring)
    assert isinstance(polygon([(0, 0), (1, 0), (1, 1)]), Polygon)
