"""Losses on pixels: cross-entropy and soft Jaccard, of logits, or of coarse scores that are upsampled in strips."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from .errors import DataError, UsageError
from .nn.strips import Upsampling, strips

Reduction = Literal["mean", "sum"]


def pixel_cross_entropy(
    logits: Float[Tensor, "n k h w"],
    target: Int64[Tensor, "n h w"],
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, "k"] | None = None,
) -> Float[Tensor, ""]:
    """Return the softmax cross-entropy over the labelled pixels of a batch, in nats.

    A batch without any labelled pixel has loss 0 and gradient 0.

    Args:
        logits: Scores before softmax; of half precision, they are summed in single, and so is the loss.
        target: Class ids 0 to k − 1, or ``ignore_index``.
        ignore_index: Id of the pixels that do not count.
        reduction: ``"mean"`` over labelled pixels, or ``"sum"`` (the reference's rates are for the sum).
        label_smoothing: Share of the target's probability, 0 to 1, that is spread evenly over all classes.
        class_weights: What a pixel of each class counts, above 0; the mean is then the weighted one. By default 1.

    Raises:
        DataError: The target holds an id that is neither a class nor ``ignore_index``.
        UsageError: ``reduction`` is neither of the two.

    Source: Long, Shelhamer & Darrell 2015, section 3.
    """
    _check_reduction(reduction)
    _check_ids(target, logits.shape[1], ignore_index)
    total = F.cross_entropy(
        _wide(logits),
        target,
        weight=None if class_weights is None else _wide(class_weights),
        ignore_index=ignore_index,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total if reduction == "sum" else total / _divisor(target, ignore_index, class_weights).to(total)


def upsampled_cross_entropy(
    scores: Float[Tensor, "n k hs ws"],
    upsampling: Upsampling,
    target: Int64[Tensor, "n h w"],
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, "k"] | None = None,
) -> Float[Tensor, ""]:
    """Return what :func:`pixel_cross_entropy` gives for upsampled scores, without ever holding them whole.

    Scores are upsampled in strips (images, or rows of one), each of which is scored and differentiated before the next:
    memory is that of one strip, not of n×k×h×w logits and their gradients.

    Args:
        scores: Logits of coarse cells.
        upsampling: How they become those of the target's pixels.
        target: Class ids 0 to k − 1, or ``ignore_index``.
        ignore_index: As in :func:`pixel_cross_entropy`, and so on.
        reduction: See there.
        label_smoothing: See there.
        class_weights: See there.

    Raises:
        DataError: The target holds an id that is neither a class nor ``ignore_index``.
        UsageError: ``reduction`` is neither of the two.
    """
    _check_reduction(reduction)
    _check_ids(target, scores.shape[1], ignore_index)
    measure = partial(
        F.cross_entropy,
        weight=None if class_weights is None else _wide(class_weights),
        ignore_index=ignore_index,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    scores, kernels = _wide(scores), _wide(upsampling.kernels)
    if not torch.is_grad_enabled():  # Which a function of one's own is not told.
        scores, kernels = scores.detach(), kernels.detach()
    total: Tensor = _SumOverStrips.apply(scores, kernels, target, upsampling, measure)
    return total if reduction == "sum" else total / _divisor(target, ignore_index, class_weights).to(total)


class _SumOverStrips(torch.autograd.Function):
    """The sum of a measure of every strip; gradients are taken strip by strip while it is computed."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        kernels: Tensor,
        target: Tensor,
        upsampling: Upsampling,
        measure: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        needed, kernels_needed = ctx.needs_input_grad[:2]
        leaf = kernels.detach().requires_grad_(kernels_needed)
        gradient = torch.zeros_like(scores) if needed else None
        leaf.grad = torch.zeros_like(leaf) if kernels_needed else None
        total = scores.new_zeros(())
        with torch.enable_grad(), _without_autocast(scores):
            for some, top, bottom in strips(target, scores.shape[1]):
                cells = upsampling.cells(scores.shape[2], top, bottom)
                # A leaf of its own: the gradient of a part of the scores would be as large as that of all.
                part = scores[some, :, cells].detach().requires_grad_(needed)
                logits = upsampling.strip(part, leaf, top, bottom, target.shape[2], cells.start)
                loss = measure(logits, target[some, top:bottom])
                total += loss.detach()
                if loss.requires_grad:  # Backwards now frees the strip.
                    loss.backward()  # type: ignore[no-untyped-call]
                if gradient is not None and part.grad is not None:
                    gradient[some, :, cells] += part.grad
        ctx.gradients = gradient, leaf.grad
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # As it is with create_graph alone.
            raise UsageError(
                "a loss in strips has first derivatives only: take pixel_cross_entropy or soft_jaccard of the logits"
            )
        found = [None if gradient is None else gradient * outputs[0] for gradient in ctx.gradients]
        return (*found, None, None, None)


def _wide(tensor: Tensor) -> Tensor:
    """Return it in at least 32 bits: sums over so many pixels are beyond half precision."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Keep autocast from computing with such tensors in half precision."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def soft_jaccard(
    logits: Float[Tensor, "n k h w"], target: Int64[Tensor, "n h w"], ignore_index: int = 255
) -> Float[Tensor, ""]:
    """Return 1 − the mean over the batch's classes of ∑ p·y ÷ ∑ (p + y − p·y): mean IU with probabilities p for labels.

    Every class that occurs in the target counts the same, however few its pixels are. Without any, the loss is 0.

    Args:
        logits: Scores before softmax; of half precision, they are summed in single, and so is the loss.
        target: Class ids 0 to k − 1, or ``ignore_index``; y is 1 where it is the class, else 0.
        ignore_index: Id of the pixels that do not count.

    Raises:
        DataError: The target holds an id that is neither a class nor ``ignore_index``.

    Source: Rahman & Wang 2016, "Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation".
    """
    _check_ids(target, logits.shape[1], ignore_index)
    return _jaccard(_class_sums(_wide(logits), target, ignore_index))


def upsampled_soft_jaccard(
    scores: Float[Tensor, "n k hs ws"], upsampling: Upsampling, target: Int64[Tensor, "n h w"], ignore_index: int = 255
) -> Float[Tensor, ""]:
    """Return what :func:`soft_jaccard` gives for upsampled scores, without ever holding them whole.

    Two passes over the strips: the first adds up the classes' sums; the second takes the gradient of the loss
    linearised at these sums, strip by strip.

    Args:
        scores: Logits of coarse cells.
        upsampling: How they become those of the target's pixels.
        target: As in :func:`soft_jaccard`.
        ignore_index: See there.

    Raises:
        DataError: The target holds an id that is neither a class nor ``ignore_index``.
    """
    _check_ids(target, scores.shape[1], ignore_index)
    scores, kernels = _wide(scores), _wide(upsampling.kernels)
    sums = scores.new_zeros(3, scores.shape[1])
    with torch.no_grad(), _without_autocast(scores):
        for some, top, bottom in strips(target, scores.shape[1]):
            logits = upsampling.strip(scores[some], kernels, top, bottom, target.shape[2])
            sums += _class_sums(logits, target[some, top:bottom], ignore_index)
    if not torch.is_grad_enabled():
        return _jaccard(sums)
    loss = _jaccard(sums.requires_grad_())
    (slopes,) = torch.autograd.grad(loss, sums)

    def measure(logits: Tensor, part: Tensor) -> Tensor:
        return (slopes * _class_sums(logits, part, ignore_index)).sum()

    tangent: Tensor = _SumOverStrips.apply(scores, kernels, target, upsampling, measure)
    # The loss's value, with the gradient of its linearisation.
    return torch.add(tangent, (loss - tangent).detach())


def _class_sums(logits: Tensor, target: Tensor, ignore_index: int) -> Float[Tensor, "3 k"]:
    """Return the sums over the labelled pixels of p·y, of p and of y, for every class."""
    counted = target != ignore_index
    probabilities, truth = logits.movedim(1, -1)[counted].softmax(1), target[counted]
    none = probabilities.new_zeros(logits.shape[1])
    right = probabilities.gather(1, truth[:, None])[:, 0]
    return torch.stack(
        [none.index_add(0, truth, right), probabilities.sum(0), none.index_add(0, truth, torch.ones_like(right))]
    )


def _jaccard(sums: Float[Tensor, "3 k"]) -> Float[Tensor, ""]:
    common, found, truth = sums
    present = truth > 0
    indices = common[present] / (found + truth - common)[present]
    mean: Tensor = (1 - indices).sum() / present.sum().clamp(min=1)
    return mean


def multitask_loss(
    logits: Mapping[str, Float[Tensor, "n _ h w"]],
    targets: Mapping[str, Int64[Tensor, "n h w"]],
    weights: Mapping[str, float] | None = None,
    *,
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the weighted sum of every task's :func:`pixel_cross_entropy`.

    Args:
        logits: Scores by task; the number of classes may differ.
        targets: Class ids by task.
        weights: Factors by task; 1 for a task that is not named.
        ignore_index: Id of the pixels that do not count, the same in every task.
        reduction: ``"mean"`` over a task's labelled pixels, or ``"sum"``.
        label_smoothing: As in :func:`pixel_cross_entropy`.

    Raises:
        UsageError: There is no task, logits and targets are not of the same tasks, or a weight is of no task.
        DataError: A target holds an id that is neither a class nor ``ignore_index``.

    Source: Long, Shelhamer & Darrell 2015, section 5 (SIFT Flow: two losses, unweighted).
    """
    factors = dict(weights or {})
    if not logits or set(logits) != set(targets) or not set(factors) <= set(logits):
        raise UsageError(
            f"multitask_loss: logits are of tasks {_listed(logits)}, targets of {_listed(targets)}, "
            f"weights of {_listed(factors)}; give one target for every task"
        )
    losses = [
        factors.get(task, 1.0) * pixel_cross_entropy(scores, targets[task], ignore_index, reduction, label_smoothing)
        for task, scores in logits.items()
    ]
    return torch.stack(losses).sum()


def mean_divisor(target: Int64[Tensor, "n h w"], ignore_index: int, class_weights: Float[Tensor, "k"]) -> float:
    """Return by what a summed loss is divided for the mean: the weights of all labelled pixels together."""
    return float(_labelled(target, ignore_index, class_weights))


def _divisor(target: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    total = _labelled(target, ignore_index, class_weights)
    # A mean over no pixel is 0, not 0 / 0.
    return torch.where(total > 0, total, 1)


def _labelled(target: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    counted = target != ignore_index
    return counted.sum() if class_weights is None else class_weights.double()[target[counted]].sum()


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise UsageError(f"reduction is {reduction!r}; use 'mean' or 'sum'")


def _listed(tasks: Mapping[str, object]) -> str:
    return ", ".join(sorted(tasks)) or "(none)"


def _check_ids(target: Tensor, num_classes: int, ignore_index: int) -> None:
    # One pass over the target: about 1 % of the loss's own time. Without it a GPU stops at an assertion that names
    # neither the id nor the classes, and takes the process's CUDA context with it.
    if torch.compiler.is_compiling() or target.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(torch.where(target == ignore_index, 0, target))).tolist()
    if low < 0 or high >= num_classes:
        raise DataError(
            f"the target holds id {low if low < 0 else high}, but there are {num_classes} classes "
            f"(0 to {num_classes - 1}, {ignore_index} is ignored): correct the masks or the number of classes"
        )
