import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.errors import GeometryError
from fullconv.nn.cropping import crop_to

sides = st.integers(1, 6)
offsets = st.integers(0, 4)


@settings(deadline=None, max_examples=30)
@given(offsets, offsets, sides, sides, offsets, offsets)
def test_is_a_slice(top, left, height, width, below, right):
    x = torch.randn(2, 3, top + height + below, left + width + right)
    expected = x[:, :, top : top + height, left : left + width]
    assert torch.equal(crop_to(x, (top, left), (height, width)), expected)


@settings(deadline=None, max_examples=20)
@given(offsets, offsets, sides)
def test_crops_add(first, second, side):
    x = torch.randn(1, 1, 20, 20)
    once = crop_to(x, (first + second, first), (side, side))
    assert torch.equal(crop_to(crop_to(x, (first, 0), (12, 18)), (second, first), (side, side)), once)


def test_nothing_to_crop_is_no_copy():
    x = torch.randn(1, 2, 3, 4)
    assert crop_to(x, (0, 0), (3, 4)) is x


def test_gradient_is_one_inside_and_zero_outside():
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    crop_to(x, (1, 2), (2, 1)).sum().backward()
    assert x.grad.sum() == 2
    assert (x.grad[0, 0, 1:3, 2] == 1).all()


@pytest.mark.parametrize(
    ("offset", "size"), [((0, 0), (5, 4)), ((2, 0), (3, 4)), ((0, 1), (4, 4)), ((-1, 0), (2, 2)), ((0, 0), (0, 2))]
)
def test_window_that_does_not_fit(offset, size):
    with pytest.raises(GeometryError, match=rf"{size[0]}×{size[1]} pixels at offset .* from 4×4"):
        crop_to(torch.zeros(1, 1, 4, 4), offset, size)


class CropToReference(nn.Module):
    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, x, reference):
        return crop_to(x, self.offset, (reference.shape[-2], reference.shape[-1]))


@pytest.mark.parametrize("offset", [(0, 0), (2, 1)])
def test_exports_with_dynamic_sizes(offset):
    dim = torch.export.Dim
    shapes = {
        "x": {2: dim("height", min=9, max=99), 3: dim("width", min=9, max=99)},
        "reference": {2: dim("rows", min=2, max=5), 3: dim("columns", min=2, max=5)},
    }
    example = torch.randn(1, 2, 12, 14), torch.randn(1, 1, 4, 5)
    exported = torch.export.export(CropToReference(offset), example, dynamic_shapes=shapes).module()
    for size, small in [((12, 14), (4, 5)), ((9, 40), (5, 2)), ((60, 10), (2, 3))]:
        x = torch.randn(1, 2, *size)
        expected = x[:, :, offset[0] : offset[0] + small[0], offset[1] : offset[1] + small[1]]
        assert torch.equal(exported(x, torch.randn(1, 1, *small)), expected)
