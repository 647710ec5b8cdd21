import inspect
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.errors import DataError, UsageError
from fullconv.losses import multitask_loss, pixel_cross_entropy, soft_jaccard
from fullconv.metrics import Scores, confusion_matrix
from reference.cross_entropy import summed


def batch(classes=4, ignore_index=255, seed=0):
    torch.manual_seed(seed)
    target = torch.randint(0, classes, (2, 3, 5))
    target[torch.rand(target.shape) < 0.3] = ignore_index
    return torch.randn(2, classes, 3, 5), target


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.sampled_from([255, -1, 0]), st.sampled_from([0.0, 0.1, 1.0]))
def test_is_the_loop_version(seed, ignore_index, smoothing):
    logits, target = batch(ignore_index=ignore_index, seed=seed)
    total, labelled = summed(logits, target, ignore_index, smoothing)
    options = {"ignore_index": ignore_index, "label_smoothing": smoothing}
    assert float(pixel_cross_entropy(logits, target, reduction="sum", **options)) == pytest.approx(total, rel=1e-5)
    assert float(pixel_cross_entropy(logits, target, **options)) == pytest.approx(total / labelled, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_class_weights_are_torchs(reduction):
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    target[0, 0] = 255
    weights = torch.tensor([0.5, 1.0, 3.0])
    ours = pixel_cross_entropy(logits, target, reduction=reduction, class_weights=weights)
    theirs = torch.nn.functional.cross_entropy(logits, target, weight=weights, ignore_index=255, reduction=reduction)
    torch.testing.assert_close(ours, theirs)
    ones = pixel_cross_entropy(logits, target, reduction=reduction, class_weights=torch.ones(3))
    torch.testing.assert_close(ones, pixel_cross_entropy(logits, target, reduction=reduction))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "measure",
    [
        soft_jaccard,
        pixel_cross_entropy,
        partial(pixel_cross_entropy, reduction="sum", class_weights=torch.tensor([0.5, 2.0, 1.0])),
    ],
)
def test_logits_of_half_precision_are_summed_in_single(measure, precision):
    """Counts in theirs would stop at 256 or 2048, and sums be infinite."""
    halves, target = torch.randn(2, 3, 125, 200).to(precision), torch.randint(3, (2, 125, 200))
    wide = halves.float().requires_grad_()
    expected = measure(wide, target)
    expected.backward()
    found = measure(halves.requires_grad_(), target)
    found.backward()
    assert found.dtype == torch.float32 and found.equal(expected)
    assert halves.grad.equal(wide.grad.to(precision))


def test_weights_of_half_precision_are_summed_in_single():
    target, weights = torch.randint(3, (2, 250, 200)), torch.tensor([1.0, 2.0, 1.0])
    logits = torch.randn(2, 3, 250, 200)
    expected = pixel_cross_entropy(logits, target, class_weights=weights)
    assert pixel_cross_entropy(logits.half(), target, class_weights=weights.half()).item() == pytest.approx(
        expected.item(), rel=1e-3
    )


def test_uniform_scores_cost_the_logarithm_of_the_number_of_classes():
    target = batch(7)[1]
    assert float(pixel_cross_entropy(torch.zeros(2, 7, 3, 5), target)) == pytest.approx(math.log(7))


def test_sums_add_over_images():
    logits, target = batch()
    parts = [pixel_cross_entropy(logits[i : i + 1], target[i : i + 1], reduction="sum") for i in range(2)]
    torch.testing.assert_close(pixel_cross_entropy(logits, target, reduction="sum"), sum(parts))


@pytest.mark.parametrize("seed", range(5))
def test_jaccard_of_certain_scores_is_one_minus_mean_iu(seed):
    logits, target = batch(5, seed=seed)
    matrix = confusion_matrix(target, logits.argmax(1), 5, 255)
    expected = 1 - Scores.from_confusion(matrix, list("abcde")).mean_iu
    assert float(soft_jaccard(1e4 * logits, target)) == pytest.approx(expected, abs=1e-5)


def test_jaccard_of_even_scores():
    """Two classes, 30 and 10 pixels, every probability a half: 15 / 35 and 5 / 25."""
    target = (torch.arange(40) < 10).long().view(1, 4, 10)
    assert float(soft_jaccard(torch.zeros(1, 2, 4, 10), target)) == pytest.approx(1 - (15 / 35 + 5 / 25) / 2)


def test_jaccard_without_a_labelled_pixel_is_nothing():
    logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = soft_jaccard(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_jaccard_leads_to_the_truth():
    """Descent from nothing known ends at a loss near 0, also for a class of one pixel among a hundred."""
    target = torch.zeros(1, 10, 10, dtype=torch.long)
    target[0, 3, 4] = 1
    logits = torch.zeros(1, 2, 10, 10, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.5)
    for _ in range(60):
        optimiser.zero_grad()
        soft_jaccard(logits, target).backward()
        optimiser.step()
    assert torch.equal(logits.argmax(1), target)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_labelled_costs_nothing(reduction):
    logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 2, 2), 255), reduction=reduction)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignored_pixels_have_no_gradient():
    logits, target = batch()
    logits.requires_grad_()
    pixel_cross_entropy(logits, target).backward()
    touched = (logits.grad != 0).any(1)
    assert torch.equal(touched, target != 255)


@pytest.mark.parametrize("bad", [4, 254, -1])
def test_unknown_id(bad):
    logits, target = batch()
    target[1, 2, 3] = bad
    with pytest.raises(DataError, match=rf"id {bad}, but there are 4 classes \(0 to 3, 255 is ignored\)"):
        pixel_cross_entropy(logits, target)


def test_unknown_reduction():
    unchecked = inspect.unwrap(pixel_cross_entropy)  # as users run it, without the tests' type checks
    with pytest.raises(UsageError, match="reduction is 'none'"):
        unchecked(*batch(), reduction="none")


def test_tasks_are_weighted_and_added():
    (a, truth_a), (b, truth_b) = batch(4), batch(3, seed=1)
    logits, targets = {"semantic": a, "geometric": b}, {"geometric": truth_b, "semantic": truth_a}
    for reduction in ("mean", "sum"):
        first, second = (pixel_cross_entropy(x, y, reduction=reduction) for x, y in ((a, truth_a), (b, truth_b)))
        plain = multitask_loss(logits, targets, reduction=reduction)
        weighted = multitask_loss(logits, targets, {"geometric": 0.25}, reduction=reduction)
        torch.testing.assert_close(plain, first + second)
        torch.testing.assert_close(weighted, first + 0.25 * second)


def test_options_reach_every_task():
    logits, target = batch(ignore_index=9)
    options = {"ignore_index": 9, "reduction": "sum", "label_smoothing": 0.2}
    expected = pixel_cross_entropy(logits, target, **options)
    both = multitask_loss({"a": logits, "b": logits}, {"a": target, "b": target}, **options)
    torch.testing.assert_close(both, 2 * expected)


@pytest.mark.parametrize(
    ("logits", "targets", "weights"), [("a", "ab", ""), ("ab", "a", ""), ("a", "a", "b"), ("", "", "")]
)
def test_tasks_that_do_not_match(logits, targets, weights):
    scores, truth = batch()
    with pytest.raises(UsageError, match="logits are of tasks"):
        multitask_loss(dict.fromkeys(logits, scores), dict.fromkeys(targets, truth), dict.fromkeys(weights, 1.0))
