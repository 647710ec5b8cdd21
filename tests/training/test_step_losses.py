"""The loss of a step and its gradient: over strides, parts, batches, tasks and ranks."""

import pytest
import torch
import torch.nn.functional as F

from fullconv import fcn8s
from fullconv.data import Batch
from fullconv.losses import multitask_loss, soft_jaccard
from fullconv.models.build import fcn
from fullconv.training.config import load_config
from fullconv.training.runtime import Runtime
from fullconv.training.step import Objective, accumulate_gradients, step_size


def gradients(model, batches, **settings):
    model.zero_grad()
    changes = {"jaccard": 0} | settings  # Of each part, as batch statistics are: it does not add up.
    config = load_config("modern", {f"optim.{key}": value for key, value in changes.items()})
    objective = Objective(config, Runtime(device="cpu"), {"semantic": torch.tensor([1.0, 2.0, 0.5, 1.0])})
    loss = sum(accumulate_gradients(model, batches, step_size(batches, objective), objective))
    return loss, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("loss", ["mean", "sum"])
@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_add_up_to_the_whole(model, batch, loss, parts):
    whole, expected = gradients(model, [batch], loss=loss, label_smoothing=0.1)
    split, found = gradients(model, batch.split(parts), loss=loss, label_smoothing=0.1)
    assert split == pytest.approx(whole, rel=1e-5)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_a_loss_on_some_rows_and_columns(model, batch, stride):
    """Twin: torch's loss on those of the whole logits."""
    loss, found = gradients(model, [batch], loss_stride=stride)
    model.zero_grad()
    some = slice(stride // 2, None, stride)
    logits, weights = model(batch.images)[:, :, some, some], torch.tensor([1.0, 2.0, 0.5, 1.0])
    expected = F.cross_entropy(logits, batch.targets[:, some, some], weights, ignore_index=255)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, gradient in zip((p for p in model.parameters() if p.grad is not None), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


def test_the_jaccard_loss_is_of_each_fourth_row_and_column(model, batch):
    """Twin: that loss of those of the whole logits, beside torch's cross-entropy."""
    loss, found = gradients(model, [batch], jaccard=0.5, loss_stride=1)
    model.zero_grad()
    logits, weights = model(batch.images), torch.tensor([1.0, 2.0, 0.5, 1.0])
    some = slice(2, None, 4)
    expected = F.cross_entropy(logits, batch.targets, weights, ignore_index=255)
    expected = expected + 0.5 * soft_jaccard(logits[:, :, some, some], batch.targets[:, some, some], 255)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, gradient in zip((p for p in model.parameters() if p.grad is not None), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


def test_an_image_between_the_rows_of_the_loss_costs_nothing(model):
    pixel = Batch(torch.rand(1, 3, 1, 1) * 255, torch.zeros(1, 1, 1, dtype=torch.long), ("a",), 255)
    assert gradients(model, [pixel], loss_stride=2)[0] == 0


def test_the_jaccard_loss_of_several_batches_is_their_mean(model, batch):
    """Weighted with the images of each, of which here are four and two."""
    parts = [
        Batch(batch.images[some], batch.targets[some], batch.stems[some], 255) for some in (slice(4), slice(4, None))
    ]
    loss, found = gradients(model, parts, jaccard=0.5, loss_stride=1)
    model.zero_grad()
    weights, some = torch.tensor([1.0, 2.0, 0.5, 1.0]), slice(2, None, 4)
    expected = F.cross_entropy(model(batch.images), batch.targets, weights, ignore_index=255)
    for part in parts:
        each = soft_jaccard(model(part.images)[:, :, some, some], part.targets[:, some, some], 255)
        expected = expected + 0.5 * len(part.stems) / 6 * each
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, gradient in zip((p for p in model.parameters() if p.grad is not None), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize(("parts", "jaccard"), [(1, 0.0), (2, 0.0), (1, 0.5)])
def test_the_loss_of_two_tasks_is_the_sum_of_theirs(batch, parts, jaccard):
    """Each over its own labelled pixels. Twin: torch's losses of the whole logits."""
    torch.manual_seed(0)
    network = fcn8s("small", {"semantic": 4, "object": 2}, context="none", dropout=0.0).eval()
    for head in network.heads.values():
        for score in head.score.values():
            torch.nn.init.normal_(score.weight, std=0.1)
    targets = {"semantic": batch.targets, "object": torch.randint(0, 2, (6, 40, 48))}
    targets["object"][2:, 4:] = 255
    both = Batch(batch.images, batch.targets, batch.stems, 255, {"object": targets["object"]})
    config = load_config("modern", {"optim.jaccard": jaccard, "optim.loss_stride": 1})
    objective = Objective(config, Runtime(device="cpu"), {"semantic": torch.ones(4), "object": torch.ones(2)})
    batches = both.split(parts)
    loss = sum(accumulate_gradients(network, batches, step_size(batches, objective), objective))
    found = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    network.zero_grad()
    logits, some = network(batch.images), slice(2, None, 4)
    expected = multitask_loss(logits, targets)
    for task, target in targets.items():
        expected = expected + jaccard * soft_jaccard(logits[task][:, :, some, some], target[:, some, some], 255)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, gradient in zip((p for p in network.parameters() if p.grad is not None), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


def test_two_ranks_have_half_of_the_loss_each(model, batch, monkeypatch):
    """As if the other one had the same images: of what is divided by the pixels, and by the images, of both."""
    alone, _ = gradients(model, [batch], jaccard=0.5)
    monkeypatch.setattr(Runtime, "total", lambda runtime, number: 2 * number)
    assert gradients(model, [batch], jaccard=0.5)[0] == pytest.approx(alone / 2, rel=1e-5)


def test_void_may_have_any_id(model, batch):
    other = Batch(batch.images, torch.where(batch.targets == 255, 9, batch.targets), batch.stems, 9)
    one, two = (gradients(model, [each], jaccard=0.5)[0] for each in (batch, other))
    assert one == pytest.approx(two, rel=1e-6)


def test_scores_of_each_second_pixel_have_a_jaccard_loss_of_as_many(batch):
    """Where the network's own stride is finer than the loss would be."""
    network = fcn("small", 4, finest_stride=2, context="none", dropout=0.0).eval()
    for score in network.heads["semantic"].score.values():
        torch.nn.init.normal_(score.weight, std=0.1)
    plain, both = (gradients(network, [batch], loss_stride=1, jaccard=share)[0] for share in (0, 0.5))
    logits, some = network(batch.images), slice(1, None, 2)
    expected = 0.5 * soft_jaccard(logits[:, :, some, some], batch.targets[:, some, some], 255)
    assert both - plain == pytest.approx(float(expected.detach()), rel=1e-4)
