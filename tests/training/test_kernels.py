"""What the runtime changes in a network computes the same, in bf16 up to its rounding."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fullconv import fcn8s
from fullconv.training import kernels
from fullconv.training.runtime import Runtime


@pytest.fixture
def layer(monkeypatch):
    """A convolution that counts as one of many weights."""
    monkeypatch.setattr(kernels, "MANY_WEIGHTS", 1)
    torch.manual_seed(0)
    return nn.Conv2d(6, 16, (5, 3))


def prepared(layer, precision="bf16"):
    network = nn.Sequential(copy.deepcopy(layer))
    Runtime(precision, device="cpu").prepare(network)
    return network


def passes(network, images, direction):
    images = images.clone().requires_grad_()
    network.zero_grad()
    output = network(images)
    output.backward(direction.to(output.dtype))
    return [output.detach(), images.grad, *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("size", [(5, 3), (9, 12)])
def test_few_cells_of_many_weights_are_a_product(layer, monkeypatch, size):
    images = torch.randn(2, 6, *size)
    direction = torch.randn(2, 16, size[0] - 4, size[1] - 2)
    exact = passes(nn.Sequential(copy.deepcopy(layer)).double(), images.double(), direction.double())
    network = copy.deepcopy(prepared(layer))  # As the averaged network is one.
    monkeypatch.setattr(nn.Conv2d, "forward", None)  # It is not convolved.
    with torch.autocast("cpu", torch.bfloat16):
        found = passes(network, images, direction)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0.02, atol=0.02 * float(other.abs().max()))


@pytest.mark.parametrize(("size", "autocast"), [((9, 12), False), ((44, 44), True)])
def test_fp32_and_many_cells_are_convolved_as_ever(layer, size, autocast):
    images, direction = torch.randn(1, 6, *size), torch.randn(1, 16, size[0] - 4, size[1] - 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = passes(prepared(layer, "fp32"), images, direction)
        found = passes(prepared(layer), images, direction)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": 1}, {"dilation": 2}])
def test_other_convolutions_stay(layer, options):
    assert "forward" not in vars(prepared(nn.Conv2d(6, 16, 3, **options))[0])


def test_only_bf16_and_many_weights_matter(layer, monkeypatch):
    assert "forward" in vars(prepared(layer)[0])
    assert "forward" not in vars(prepared(layer, "fp32")[0])
    monkeypatch.undo()
    assert "forward" not in vars(prepared(layer)[0])


class PadsItself(nn.Conv2d):
    """A convolution with a ``forward`` of its own, as timm's of "same" padding."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 2, 1)), self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


DEPTHWISE = {
    "one row": (nn.Conv2d, (1, 3), {}),
    "3×3": (nn.Conv2d, 3, {"padding": 1}),
    "under a stride": (nn.Conv2d, 3, {"stride": 2, "padding": 1}),
    "cells that no window sees": (nn.Conv2d, 3, {"stride": 2}),
    "windows apart": (nn.Conv2d, 1, {"stride": 3}),
    "5×5": (nn.Conv2d, 5, {"padding": 2}),
    "5×5 under a stride": (nn.Conv2d, 5, {"stride": 2, "padding": 2, "bias": False}),
    "strides of two kinds": (nn.Conv2d, (5, 4), {"stride": (1, 2), "padding": (0, 2)}),
    "7×7": (nn.Conv2d, 7, {"padding": 3}),
    "padding itself": (PadsItself, 5, {"stride": 2}),
    "mirrored at the edge": (nn.Conv2d, 5, {"padding": 2, "padding_mode": "reflect"}),
}


class SlowGradients(TorchDispatchMode):
    """Counts gradients of depthwise convolutions for which bf16 has no fast kernel."""

    count = convolutions = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            weight, stride, (of_features, of_weights, _) = args[2], args[4], args[10]
            self.convolutions += 1
            slow = (of_features and max(stride) > 1) or (of_weights and weight.shape[3] > 3)
            self.count += slow and args[9] > 1 and not args[7]  # of groups, not transposed
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [(12, 15), (13, 14)])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_gradients_are_torchs_but_fast(name, size):
    """Beside those of 64 bits; of torch's own in bf16 some are slow where there are strides or many columns."""
    kind, kernel, options = DEPTHWISE[name]
    torch.manual_seed(0)
    layer = kind(6, 6, kernel, groups=6, **{"bias": True} | options)
    images = torch.randn(2, 6, *size)
    twin = nn.Sequential(copy.deepcopy(layer)).double()
    direction = torch.randn(twin(images.double()).shape)
    exact = passes(twin, images.double(), direction.double())
    with torch.autocast("cpu", torch.bfloat16), SlowGradients() as slow:
        found = passes(copy.deepcopy(prepared(layer)), images, direction)
    assert found[0].dtype == torch.bfloat16 and not slow.count
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0.02, atol=0.02 * float(other.abs().max()))


@pytest.mark.parametrize("recompute", [False, True])
def test_an_efficientnet_has_fast_gradients(recompute):
    pytest.importorskip("timm")
    network = fcn8s("timm:tf_efficientnet_lite0", num_classes=3)
    if recompute:
        network.trunk.save_memory()
    Runtime("bf16", device="cpu").prepare(network)
    images = torch.rand(1, 3, 64, 64) * 255
    with SlowGradients() as slow:
        with torch.autocast("cpu", torch.bfloat16):
            (scores, _) = network.coarse(images)["semantic"]
        scores.sum().backward()
    assert slow.convolutions and not slow.count


def test_what_is_frozen_has_no_gradient():
    """Not even one that is not used: neither weights nor features."""
    network = prepared(nn.Conv2d(6, 6, 5, stride=2, groups=6)).requires_grad_(False)
    images = torch.randn(1, 6, 12, 15)
    with torch.autocast("cpu", torch.bfloat16):
        assert not network(images).requires_grad
        network(images.requires_grad_()).sum().backward()
        assert images.grad is not None and network[0].weight.grad is None
        network.requires_grad_()(images.detach()).sum().backward()
    assert network[0].weight.grad is not None and network[0].bias.grad is not None


def test_torchs_own_depthwise_gradients_are_slow():
    """So that a gradient that is not fast is seen."""
    network = nn.Sequential(nn.Conv2d(6, 6, 5, stride=2, groups=6))
    with torch.autocast("cpu", torch.bfloat16), SlowGradients() as slow:
        passes(network, torch.randn(2, 6, 12, 15), torch.randn(2, 6, 4, 6))
    assert slow.count


def test_depthwise_in_fp32_is_torchs_own():
    layer = nn.Conv2d(6, 6, 5, stride=2, groups=6)
    images, direction = torch.randn(2, 6, 12, 15), torch.randn(2, 6, 4, 6)
    expected = passes(prepared(layer, "fp32"), images, direction)
    found = passes(prepared(layer), images, direction)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


class Otherwise(nn.Conv2d):
    """A convolution whose ``forward`` says what it wants in another way than its attributes do."""

    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, 2, 2, 1, self.groups)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.Conv2d, {"padding": "same"}),
        (nn.Conv2d, {"padding": 5, "stride": 2}),
        (nn.Conv2d, {"dilation": 2, "padding": 4, "stride": 2}),
        (nn.Conv2d, {"groups": 3, "stride": 2}),
        (nn.Conv2d, {"out_channels": 12, "stride": 2}),
        (Otherwise, {}),
    ],
)
def test_grouped_convolutions_of_another_form_are_torchs_own(kind, options):
    options = {"in_channels": 6, "out_channels": 6, "groups": 6, "kernel_size": 5} | options
    layer, images = kind(**options), torch.randn(2, 6, 9, 11)
    found = []
    for network in (nn.Sequential(copy.deepcopy(layer)), prepared(layer)):
        with torch.autocast("cpu", torch.bfloat16):
            shape = network(images).shape
            found.append(passes(network, images, torch.linspace(-1, 1, shape.numel()).view(shape)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("capability", "kernel", "groups", "last"),
    [("AVX2", 3, 1, False), ("AVX2", 1, 1, True), ("AVX2", 3, 4, True), ("AVX512", 3, 1, True)],
)
def test_dense_kernels_lie_as_they_are_fastest(monkeypatch, capability, kernel, groups, last):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    network = nn.Sequential(nn.Conv2d(4, 8, kernel, groups=groups))
    network.register_buffer("map", torch.zeros(1, 4, 5, 6))
    Runtime(device="cpu").prepare(network)
    assert network.map.is_contiguous(memory_format=torch.channels_last) == last


def test_relu6_in_place_is_torchs():
    """Also where it is given 0, 6, no number, and nothing to learn from; of its input it keeps no copy."""
    images = torch.randn(2, 3, 8, 8).mul_(5)
    images.view(-1)[:5] = torch.tensor([0.0, 6.0, float("nan"), -0.0, float("inf")])
    found, kept = [], []
    for prepare in (False, True):
        network = nn.Sequential(nn.Identity(), nn.ReLU6(inplace=True))
        if prepare:
            Runtime(device="cpu").prepare(network)
        x = images.clone().requires_grad_()
        saved = []

        def keep(tensor, saved=saved):
            saved.append(tensor.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = network(x * 1)
        y.backward(torch.arange(y.numel(), dtype=torch.float).view_as(y))
        found.append((y, x.grad))
        kept.append([pointer == y.data_ptr() for pointer in saved])
        torch.testing.assert_close(network(images.clone()), y.detach(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0, equal_nan=True)
    assert kept[1] == [True] and kept[0] == [False]
