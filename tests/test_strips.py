"""The loss in strips against upsampling everything first."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fullconv
from fullconv.errors import UsageError
from fullconv.losses import (
    pixel_cross_entropy,
    soft_jaccard,
    upsampled_cross_entropy,
    upsampled_soft_jaccard,
)
from fullconv.models.build import fcn
from fullconv.nn.bilinear import BilinearUpsample
from fullconv.nn.strips import Upsampling


def both(network, image, target, **options):
    """Return losses and all gradients: of whole logits, and in strips."""
    results = []
    for strips in (False, True):
        network.zero_grad()
        if strips:
            scores, upsampling = network.coarse(image)["semantic"]
            loss = upsampled_cross_entropy(scores, upsampling, target, **options)
        else:
            loss = pixel_cross_entropy(network(image), target, **options)
        loss.backward()
        results.append(
            (loss.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
        )
    return results


@pytest.mark.parametrize("padding", ["same", "paper"])
@pytest.mark.parametrize("stride", [32, 8, 4])
@pytest.mark.parametrize("learnable", [False, True])
def test_value_and_gradient_are_those_of_whole_logits(monkeypatch, padding, stride, learnable):
    torch.manual_seed(0)
    network = fcn(
        "small", 5, finest_stride=stride, padding=padding, context="none", learnable_upsampling=learnable, dropout=0.0
    ).eval()
    for head in network.heads.values():
        for score in head.score.values():
            torch.nn.init.normal_(score.weight, std=0.1)
    image, target = torch.rand(2, 3, 45, 70) * 255, torch.randint(0, 5, (2, 45, 70))
    target[:, 3:9] = 255
    monkeypatch.setattr("fullconv.nn.strips.STRIP_BYTES", 4 * 2 * 5 * 70 * 7)
    for options in ({}, {"reduction": "sum", "label_smoothing": 0.1, "class_weights": torch.rand(5) + 0.5}):
        (whole, expected), (strips, found) = both(network, image, target, **options)
        torch.testing.assert_close(strips, whole, rtol=1e-5, atol=1e-6)
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * max(scale, 1e-3), msg=name)


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
@pytest.mark.parametrize("start", [0, 1, 4, 7])
@pytest.mark.parametrize(("factor", "size"), [(2, 4), (2, 3), (8, 16), (3, 5), (1, 1)])
def test_every_strip_is_a_part_of_the_whole(factor, size, start, rows):
    scores = torch.randn(1, 3, 6, 9)
    up = BilinearUpsample(3, factor, kernel_size=size, padding=0)
    dense = up(scores)
    start = min(start, dense.shape[2] - 1)
    height, width = dense.shape[2] - start, dense.shape[3] - start
    upsampling = Upsampling(up.kernels(), factor, start)
    strips = [
        upsampling.strip(scores, up.kernels(), top, min(height, top + rows), width) for top in range(0, height, rows)
    ]
    torch.testing.assert_close(torch.cat(strips, 2), dense[:, :, start:, start:])


@pytest.mark.parametrize(("factor", "size", "start"), [(8, 16, 4), (8, 15, 3), (32, 64, 16), (4, 8, 2), (2, 4, 1)])
def test_some_rows_and_columns_are_those_of_the_whole(factor, size, start):
    step = min(4, factor)
    scores, kernels = torch.randn(2, 3, 7, 9), torch.randn(3, 1, size, size)
    whole = Upsampling(kernels, factor, start)
    some = whole.every(step)
    logits = whole.strip(scores, kernels, 0, 4 * factor, 5 * factor)[:, :, step // 2 :: step, step // 2 :: step]
    torch.testing.assert_close(some.strip(scores, some.kernels, 0, logits.shape[2], logits.shape[3]), logits)


def test_nothing_labelled_costs_nothing():
    network = fullconv.fcn8s("small", num_classes=3, context="none")
    scores, upsampling = network.coarse(torch.rand(2, 3, 64, 64))["semantic"]
    loss = upsampled_cross_entropy(scores, upsampling, torch.full((2, 64, 64), 255))
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("budget", [1, 3000, 40_000, 64 << 20])
@pytest.mark.parametrize(("factor", "size", "start"), [(8, 16, 4), (32, 64, 16), (2, 4, 1)])
def test_jaccard_in_strips_is_that_of_whole_logits(monkeypatch, budget, factor, size, start):
    monkeypatch.setattr("fullconv.nn.strips.STRIP_BYTES", budget)
    torch.manual_seed(0)
    scores, kernels = torch.randn(3, 5, 4, 6, requires_grad=True), torch.rand(5, 1, size, size, requires_grad=True)
    target = torch.randint(0, 4, (3, 3 * factor, 5 * factor - 1))
    target[:, 1:3] = 255
    upsampling = Upsampling(kernels, factor, start)
    whole = soft_jaccard(upsampling.strip(scores, kernels, 0, target.shape[1], target.shape[2]), target)
    expected = torch.autograd.grad(3 * whole, (scores, kernels))
    found = upsampled_soft_jaccard(scores, upsampling, target)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
    for gradient, twin in zip(torch.autograd.grad(3 * found, (scores, kernels)), expected, strict=True):
        torch.testing.assert_close(gradient, twin, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", [torch.full((2, 16, 16), 255), torch.zeros(2, 0, 0, dtype=torch.long)])
def test_jaccard_in_strips_of_nothing_is_nothing(target):
    scores = torch.randn(2, 3, 3, 3, requires_grad=True)
    loss = upsampled_soft_jaccard(scores, Upsampling(torch.rand(3, 1, 16, 16), 8, 4), target)
    loss.backward()
    assert loss == 0
    assert torch.equal(scores.grad, torch.zeros_like(scores))


class Live(TorchDispatchMode):
    """The most bytes, of all tensors that are made within it, that live at once."""

    def __init__(self):
        super().__init__()
        self.most, self._sizes = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._sizes.pop, storage._cdata, 0)
        self.most = max(self.most, sum(self._sizes.values()))
        return made


@pytest.mark.parametrize("factor", [8, 32])
@pytest.mark.parametrize("loss", [upsampled_cross_entropy, upsampled_soft_jaccard])
def test_memory_is_that_of_strips(monkeypatch, loss, factor):
    """All tensors that live at once are a few strips and two of the target's size; whole logits are 120 strips."""
    monkeypatch.setattr("fullconv.nn.strips.STRIP_BYTES", strip := 1 << 18)
    scores = torch.randn(6, 40, 128 // factor, 256 // factor, requires_grad=True)
    target = torch.randint(40, (6, 128, 256))
    with Live() as live:
        loss(scores, Upsampling(torch.rand(40, 1, 2 * factor, 2 * factor), factor, factor // 2), target).backward()
    assert live.most < 17 * strip + 2 * target.nbytes


@pytest.mark.parametrize("measure", [upsampled_cross_entropy, upsampled_soft_jaccard])
@pytest.mark.parametrize("autocast", [False, True])
def test_scores_of_half_precision_are_summed_in_single(measure, autocast):
    """Within autocast too: a sum over an image is beyond the numbers of half precision."""
    torch.manual_seed(0)
    upsampling = Upsampling(BilinearUpsample(5, 8).kernels(), 8, 4)
    halves, target = torch.randn(2, 5, 21, 21).half(), torch.randint(0, 5, (2, 160, 160))
    options = {} if measure is upsampled_soft_jaccard else {"reduction": "sum"}
    wide = halves.float().requires_grad_()
    expected = measure(wide, upsampling, target, **options)
    expected.backward()
    halves.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = measure(halves, upsampling, target, **options)
    found.backward()
    assert found.dtype == torch.float32 and found.equal(expected)
    assert halves.grad.equal(wide.grad.half())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("measure", [upsampled_cross_entropy, upsampled_soft_jaccard])
def test_without_gradients_each_strip_is_computed_once(monkeypatch, measure, mode):
    """And nothing is kept for them."""
    upsampling = Upsampling(torch.nn.Parameter(BilinearUpsample(3, 4).kernels()), 4, 2)
    scores, target = torch.randn(1, 3, 6, 6, requires_grad=True), torch.randint(0, 3, (1, 20, 20))
    expected, real, seen = measure(scores, upsampling, target), Upsampling.strip, []

    def strip(self, scores, kernels, top, *rest):
        logits = real(self, scores, kernels, top, *rest)
        seen.append((top, logits.requires_grad))
        return logits

    monkeypatch.setattr(Upsampling, "strip", strip)
    with mode():
        found = measure(scores, upsampling, target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5) and seen == [(0, False)]


@pytest.mark.parametrize("measure", [upsampled_cross_entropy, upsampled_soft_jaccard])
def test_second_derivatives_are_refused(measure):
    """They would lack the loss's own."""
    upsampling = Upsampling(BilinearUpsample(3, 4).kernels(), 4, 2)
    scores, target = torch.randn(1, 3, 6, 6, requires_grad=True), torch.randint(0, 3, (1, 20, 20))
    with pytest.raises(UsageError, match="a loss in strips has first derivatives only: take pixel_cross_entropy"):
        torch.autograd.grad(measure(scores, upsampling, target), scores, create_graph=True)
