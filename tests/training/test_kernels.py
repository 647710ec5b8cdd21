"""What the runtime changes in a network computes the same."""

import copy

import pytest
import torch
from torch import nn

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
    return [output.detach(), images.grad, network[0].weight.grad, network[0].bias.grad]


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


@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2}])
def test_other_convolutions_stay(layer, options):
    assert "forward" not in vars(prepared(nn.Conv2d(6, 16, 3, **options))[0])


def test_only_bf16_and_many_weights_matter(layer, monkeypatch):
    assert "forward" in vars(prepared(layer)[0])
    assert "forward" not in vars(prepared(layer, "fp32")[0])
    monkeypatch.undo()
    assert "forward" not in vars(prepared(layer)[0])


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
