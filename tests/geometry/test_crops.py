from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.errors import GeometryError
from fullconv.geometry import CoordMap, Field, LayerSpec, chain, crop_offset, halo, ladder


def grid_at(scale: int, offset: int = 0) -> CoordMap:
    return CoordMap(Fraction(scale), Fraction(offset))


def vgg16_taps(padding: str) -> list[Field]:
    """fc6, pool4, pool3, pool2, written down independently of the trunks."""
    first, full = (100, 0) if padding == "paper" else (1, 3)
    taps, layers = [], []
    for block, repeats in enumerate((2, 2, 3, 3, 3)):
        for repeat in range(repeats):
            pad = first if block == repeat == 0 else 1
            layers.append(LayerSpec(3, padding=(pad, pad)))
        layers.append(LayerSpec(2, 2, ceil=True))
        taps.append(chain(layers))
    return [chain([*layers, LayerSpec(7, padding=(full, full))]), taps[3], taps[2], taps[1]]


def alexnet_fc6() -> Field:
    pool = LayerSpec(3, 2, ceil=True)
    three = LayerSpec(3, padding=(1, 1))
    return chain(
        [
            LayerSpec(11, 4, (100, 100)),
            pool,
            LayerSpec(5, padding=(2, 2)),
            pool,
            three,
            three,
            three,
            pool,
            LayerSpec(6),
        ]
    )


@pytest.mark.parametrize(("count", "crops"), [(1, [19]), (2, [5, 27]), (3, [5, 9, 31])])
def test_published_crops_of_vgg16(count, crops):
    assert ladder(vgg16_taps("paper")[:count]).crops == crops


def test_published_kernel_and_crop_of_alexnet():
    (rung,) = ladder([alexnet_fc6()]).rungs
    assert (rung.kernel, rung.factor, rung.crop) == (63, 32, 18)


def test_published_receptive_fields():
    assert vgg16_taps("paper")[0].receptive_field == 404
    assert alexnet_fc6().receptive_field == 355


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_same_padding_needs_no_crops(count):
    plan = ladder(vgg16_taps("same")[:count], fold=True)
    assert plan.crops == [0] * count
    assert [rung.padding for rung in plan.rungs] == [rung.factor // 2 for rung in plan.rungs]


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_output_has_the_size_of_the_input(padding, count):
    plan = ladder(vgg16_taps(padding)[:count], fold=padding == "same")
    assert all(plan.output_size(size) == size for size in range(1, 513))


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_output_is_not_shifted(padding, count):
    """Walk the ladder with maps alone: pixel 0 of the output is pixel 0 of the image."""
    taps = vgg16_taps(padding)[:count]
    plan = ladder(taps, fold=padding == "same")
    grid = taps[0].map
    for rung, reference in zip(plan.rungs, [*[tap.map for tap in taps[1:]], CoordMap()], strict=True):
        upscore = rung.layer.map.then(grid)
        skip = reference
        crop = grid_at(1, rung.crop)
        if rung.cropped == "skip":
            skip, grid = crop.then(skip), upscore
        else:
            grid = crop.then(upscore)
        assert grid == skip
    assert grid == CoordMap()


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 8))
def test_crops_add(a, b, stride):
    grids = [grid_at(stride, offset * stride) for offset in (0, a, a + b)]
    assert crop_offset(grids[0], grids[1]) + crop_offset(grids[1], grids[2]) == crop_offset(grids[0], grids[2])


@pytest.mark.parametrize(
    ("source", "reference", "message"),
    [
        (grid_at(8, 0), grid_at(8, 4), "is 1/2: it must be a whole number"),
        (grid_at(8, 8), grid_at(8, 0), "is -1: it must be a whole number of pixels ≥ 0"),
        (grid_at(8, 0), grid_at(16, 0), "cannot align stride 8 with stride 16"),
    ],
)
def test_crops_that_are_not_whole_or_negative_are_errors(source, reference, message):
    with pytest.raises(GeometryError, match=message):
        crop_offset(source, reference)


def test_unpadded_trunk_does_not_cover_the_image():
    with pytest.raises(GeometryError, match="inside the image"):
        ladder([chain([LayerSpec(65), LayerSpec(2, 2)])])


def test_a_trunk_that_stops_short_of_the_end_is_refused():
    floors = chain([LayerSpec(2, 2)] * 5)
    with pytest.raises(GeometryError, match=r"too few|cannot crop"):
        ladder([floors])


def test_strides_that_are_no_multiples_are_refused():
    with pytest.raises(GeometryError, match="whole multiple"):
        ladder([chain([LayerSpec(3, 3, (1, 1))]), chain([LayerSpec(2, 2)])])


def test_halo_covers_the_receptive_field():
    field = chain([LayerSpec(3, padding=(1, 1)), LayerSpec(2, 2), LayerSpec(3, padding=(1, 1))])
    before, after = halo(field)
    assert before + after + field.stride == field.receptive_field
    with pytest.raises(GeometryError, match="whole image"):
        halo(field.seeing_everything())


def test_halo_is_whole_for_fractional_fields():
    upsampled = chain([LayerSpec(4, 2, (1, 1), transposed=True)])
    assert upsampled.offset == Fraction(-1, 4)
    assert all(isinstance(side, int) and side >= 0 for side in halo(upsampled))


@pytest.mark.parametrize("padding", [(2, 0), (0, 2)])
def test_halo_lies_where_the_padding_does(padding):
    assert halo(chain([LayerSpec(3, padding=padding)])) == padding
