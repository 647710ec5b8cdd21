from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.errors import GeometryError
from fullconv.geometry import Field, LayerSpec, chain, join

layers = st.builds(
    lambda kernel, stride, dilation: LayerSpec(kernel, stride, (kernel // 2, kernel // 2), dilation),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 2),
)


@given(st.lists(layers, max_size=5), st.lists(layers, max_size=5))
def test_a_chain_may_be_cut_anywhere(first, second):
    assert chain(second).after(chain(first)) == chain([*first, *second]) == chain(second, chain(first))


@settings(deadline=None, max_examples=50)
@given(st.lists(layers, min_size=1, max_size=4))
def test_receptive_field_is_what_the_gradient_reaches(specs):
    """Twin: the span of input pixels with a gradient (a stride larger than its kernel leaves holes)."""
    field = chain(specs)
    net = nn.Sequential(*[nn.Conv1d(1, 1, spec.kernel, spec.stride, 0, spec.dilation, bias=False) for spec in specs])
    for layer in net:
        nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 1000, requires_grad=True)
    net(image)[0, 0, 0].backward()
    reached = image.grad[0, 0].nonzero().flatten()
    assert int(reached[-1] - reached[0]) + 1 == field.receptive_field


def googlenet_of_the_paper() -> list[LayerSpec]:
    """The widest path of Caffe's GoogLeNet: 5×5 branches, all poolings 3×3, and the final 7×7 average."""
    pool, five = LayerSpec(3, 2, ceil=True), LayerSpec(5, padding=(2, 2))
    stem = [LayerSpec(7, 2, (3, 3)), pool, LayerSpec(3, padding=(1, 1)), pool]
    return [*stem, *[five] * 2, pool, *[five] * 5, pool, *[five] * 2, LayerSpec(7)]


def test_published_receptive_field_of_googlenet():
    assert chain(googlenet_of_the_paper()).receptive_field == 907


def test_union_of_branches():
    narrow, wide = chain([LayerSpec(1)]), chain([LayerSpec(5, padding=(2, 2))])
    joined = join([narrow, wide])
    assert (joined.receptive_field, joined.offset) == (5, 0)


def test_branches_on_different_grids_do_not_join():
    centred, shifted = chain([LayerSpec(3, 2, (1, 1))]), chain([LayerSpec(2, 2)])
    with pytest.raises(GeometryError, match=r"do not align: 2·i \+ 0 against 2·i \+ 1/2"):
        join([centred, shifted])


def test_a_gate_from_the_whole_image_leaves_the_grid():
    field = chain([LayerSpec(3, 2, (1, 1))]).seeing_everything()
    assert field.receptive_field is None
    assert field.stride == 2
    assert field.through(LayerSpec(3)).receptive_field is None


def test_offsets_are_exact():
    assert chain([LayerSpec(2, 2)] * 3).offset == Fraction(7, 2)
    assert Field().size(17) == 17
