import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.errors import GeometryError
from fullconv.geometry import LayerSpec

kernels = st.integers(1, 7)
strides = st.integers(1, 4)


def torch_size(layer: nn.Module, size: int) -> int:
    return layer(torch.zeros(1, 1, size)).shape[-1]


@settings(deadline=None, max_examples=200)
@given(kernels, strides, st.integers(0, 3), st.integers(1, 3), st.integers(1, 40))
def test_convolution_sizes_are_those_of_torch(kernel, stride, padding, dilation, size):
    assume(size + 2 * padding > dilation * (kernel - 1))
    layer = nn.Conv1d(1, 1, kernel, stride, padding, dilation)
    assert LayerSpec(kernel, stride, (padding, padding), dilation).output_size(size) == torch_size(layer, size)


@settings(deadline=None, max_examples=200)
@given(kernels, strides, st.integers(0, 3), st.booleans(), st.integers(1, 40))
def test_pooling_sizes_are_those_of_torch(kernel, stride, padding, ceil, size):
    assume(padding <= kernel // 2 and size + 2 * padding >= kernel)
    layer = nn.MaxPool1d(kernel, stride, padding, ceil_mode=ceil)
    assert LayerSpec(kernel, stride, (padding, padding), ceil=ceil).output_size(size) == torch_size(layer, size)


@settings(deadline=None, max_examples=200)
@given(kernels, strides, st.integers(0, 3), st.integers(1, 20))
def test_transposed_sizes_are_those_of_torch(kernel, stride, padding, size):
    assume((size - 1) * stride + kernel - 2 * padding >= 1)
    layer = nn.ConvTranspose1d(1, 1, kernel, stride, padding)
    assert LayerSpec(kernel, stride, (padding, padding), transposed=True).output_size(size) == torch_size(layer, size)


@given(kernels, strides, st.integers(0, 3))
def test_a_transposed_layer_undoes_the_map_of_its_convolution(kernel, stride, padding):
    forward = LayerSpec(kernel, stride, (padding, padding))
    back = LayerSpec(kernel, stride, (padding, padding), transposed=True)
    assert back.map == forward.map.inverse()


@settings(deadline=None, max_examples=100)
@given(kernels, strides, st.integers(0, 3), st.integers(1, 3), st.integers(0, 5))
def test_window_is_what_the_gradient_reaches(kernel, stride, padding, dilation, index):
    """Twin: the input pixels with a gradient are those the window names."""
    layer = nn.Conv1d(1, 1, kernel, stride, padding, dilation, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 60, requires_grad=True)
    layer(image)[0, 0, index].backward()
    reached = image.grad[0, 0].nonzero().flatten().tolist()
    first, last = (int(bound(index)) for bound in LayerSpec(kernel, stride, (padding, padding), dilation).window)
    expected = [pixel for pixel in range(first, last + 1, dilation) if 0 <= pixel < 60]
    assert reached == expected


def test_multiple_rounds_up():
    assert [LayerSpec(multiple=32).output_size(size) for size in (1, 32, 33)] == [32, 32, 64]


def test_too_small_an_input_is_an_error():
    with pytest.raises(GeometryError, match="3 pixels are too few"):
        LayerSpec(kernel=7).output_size(3)


@pytest.mark.parametrize("field", ["kernel", "stride", "dilation"])
def test_impossible_layers_are_errors(field):
    with pytest.raises(GeometryError, match="at least 1"):
        LayerSpec(**{"kernel": 3, field: 0})
