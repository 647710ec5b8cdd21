import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.errors import GeometryError
from fullconv.nn.bilinear import BilinearUpsample, bilinear_kernel
from fullconv.nn.cropping import crop_to
from reference.upsampling import upsample

FACTORS = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32]


@st.composite
def upsamplings(draw):
    factor = draw(st.integers(1, 5))
    kernel = draw(st.sampled_from([2 * factor, 2 * factor - 1]))
    return factor, kernel, draw(st.integers(0, (kernel - 1) // 2))


def test_kernel_values():
    assert bilinear_kernel(4)[1].tolist() == [0.1875, 0.5625, 0.5625, 0.1875]
    assert bilinear_kernel(5)[2] == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert bilinear_kernel(1).tolist() == [[1]]


@pytest.mark.parametrize("size", range(1, 65))
def test_kernel_is_symmetric_and_every_phase_sums_to_one(size):
    kernel = bilinear_kernel(size)
    factor = (size + 1) // 2
    torch.testing.assert_close(kernel, kernel.T)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    phases = [float(kernel[y::factor, x::factor].sum()) for y in range(factor) for x in range(factor)]
    assert phases == pytest.approx([1.0] * factor**2)


@settings(deadline=None, max_examples=25)
@given(upsamplings(), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_is_the_loop_version(arguments, height, width, learnable):
    factor, kernel, padding = arguments
    x = torch.randn(1, 2, height, width)
    module = BilinearUpsample(2, factor, learnable, kernel_size=kernel, padding=padding)
    expected = [upsample(channel.double().numpy(), factor, kernel, padding) for channel in x[0]]
    for ours, reference in zip(module(x)[0].detach(), expected, strict=True):
        torch.testing.assert_close(ours.double(), torch.from_numpy(reference), rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("odd", [False, True])
def test_grouped_is_dense(factor, odd):
    kernel = 2 * factor - odd
    x = torch.randn(2, 3, 4, 5)
    weight = torch.zeros(3, 3, kernel, kernel)
    weight[range(3), range(3)] = bilinear_kernel(kernel)
    module = BilinearUpsample(3, factor, kernel_size=kernel, padding=0)
    torch.testing.assert_close(module(x), F.conv_transpose2d(x, weight, stride=factor), rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", FACTORS)
def test_is_interpolation_in_the_interior_and_not_at_borders(factor):
    x = torch.rand(1, 2, 5, 6) + 1
    ours, interpolated = BilinearUpsample(2, factor)(x), F.interpolate(x, scale_factor=factor, mode="bilinear")
    assert ours.shape == interpolated.shape == (1, 2, 5 * factor, 6 * factor)
    border = factor // 2
    inside = (slice(None), slice(None), slice(border, 5 * factor - border), slice(border, 6 * factor - border))
    torch.testing.assert_close(ours[inside], interpolated[inside], rtol=0, atol=1e-5)
    if factor > 1:
        assert (ours[..., :border] < interpolated[..., :border]).all()
        assert (ours[..., -border:, :] < interpolated[..., -border:, :]).all()


def test_factor_one_is_the_identity():
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(BilinearUpsample(3, 1)(x), x)


def test_frozen_kernel_is_nowhere_to_be_trained_or_saved():
    module = BilinearUpsample(3, 4)
    assert not list(module.parameters())
    assert not module.state_dict()
    assert module.weight is None


def test_learnable_kernel_starts_bilinear_and_learns():
    module = BilinearUpsample(3, 4, learnable=True)
    assert module.weight.shape == (3, 1, 8, 8)
    torch.testing.assert_close(module.weight[1, 0], bilinear_kernel(8))
    assert list(module.state_dict()) == ["weight"]
    module(torch.randn(1, 3, 2, 2)).square().sum().backward()
    assert (module.weight.grad != 0).any()


def test_gradient_of_the_frozen_form_is_the_learnable_one():
    gradients = []
    for learnable in (False, True):
        x = torch.arange(24.0).reshape(1, 2, 3, 4).requires_grad_()
        BilinearUpsample(2, 3, learnable)(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("learnable", [False, True])
def test_autocast_does_not_round(learnable):
    x, module = torch.randn(1, 2, 4, 4), BilinearUpsample(2, 32, learnable)
    with torch.autocast("cpu", torch.bfloat16):
        rough, exact = module(x.bfloat16()), module(x)
    assert rough.dtype == exact.dtype == torch.float32
    assert torch.equal(exact, module(x))
    assert torch.equal(rough, module(x.bfloat16().float()))


def test_half_precision_module():
    assert BilinearUpsample(2, 4).bfloat16()(torch.randn(1, 2, 3, 3).bfloat16()).dtype == torch.bfloat16


def test_runs_on_the_meta_device():
    assert BilinearUpsample(2, 8).to("meta")(torch.empty(1, 2, 3, 4, device="meta")).shape == (1, 2, 24, 32)


@pytest.mark.parametrize("bad", [{"factor": 0}, {"channels": 0}, {"kernel_size": 5}, {"padding": 8}, {"padding": -1}])
def test_arguments_out_of_range(bad):
    with pytest.raises(GeometryError, match=next(iter(bad))):
        BilinearUpsample(**{"channels": 2, "factor": 4, **bad})


def test_kernel_size_out_of_range():
    with pytest.raises(GeometryError, match="at least 1"):
        bilinear_kernel(0)


def test_input_of_which_nothing_is_left():
    with pytest.raises(GeometryError, match="1×9"):
        BilinearUpsample(2, 4, padding=4)(torch.zeros(1, 2, 1, 9))


class Head(nn.Module):
    """The smallest head: upsample, crop a skip, add, upsample, crop to the image."""

    def __init__(self, learnable):
        super().__init__()
        self.twice = BilinearUpsample(2, 2, learnable, padding=0)
        self.thrice = BilinearUpsample(2, 3, learnable)

    def forward(self, image):
        coarse = F.avg_pool2d(image, 6)
        skip = F.pad(F.avg_pool2d(image, 3), (3, 3, 3, 3))
        upscore = self.twice(coarse)
        fused = upscore + crop_to(skip, (1, 1), (upscore.shape[-2], upscore.shape[-1]))
        return crop_to(self.thrice(fused), (2, 3), (image.shape[-2], image.shape[-1]))


@pytest.mark.parametrize("learnable", [False, True])
def test_exports_with_dynamic_sizes(learnable):
    head = Head(learnable).eval()
    sides = {2: 6 * torch.export.Dim("rows", min=2, max=99), 3: 6 * torch.export.Dim("columns", min=2, max=99)}
    exported = torch.export.export(head, (torch.randn(1, 2, 24, 30),), dynamic_shapes={"image": sides}).module()
    for height, width in [(24, 30), (12, 60), (90, 18)]:
        image = torch.randn(1, 2, height, width)
        assert exported(image).shape == image.shape
        torch.testing.assert_close(exported(image), head(image))
