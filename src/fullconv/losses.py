"""Losses on pixels: cross-entropy, and its weighted sum over tasks."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from .errors import DataError, UsageError

Reduction = Literal["mean", "sum"]

STRIP_BYTES = 64 << 20
"""Size of the logits of one strip."""


class Upsampling(NamedTuple):
    """A transposed convolution with one kernel a channel, and where the image begins in its output.

    Attributes:
        kernels: One for each channel.
        factor: Output pixels per input pixel.
        start: Row and column of the output, computed without padding, of the image's first pixel.
    """

    kernels: Float[Tensor, "k 1 s s"]
    factor: int
    start: int

    def every(self, step: int) -> "Upsampling":
        """Return the upsampling to each so-manieth row and column, from the middle of the first few; exactly those.

        ``step`` must divide the factor. Of the kernel, what falls on the others is left out.
        """
        first = self.start + step // 2
        phase = slice(first % step, None, step)
        return Upsampling(self.kernels[:, :, phase, phase], self.factor // step, first // step)

    def strip(self, scores: Tensor, kernels: Tensor, top: int, bottom: int, width: int) -> Tensor:
        """Return the logits of the image's rows top … bottom − 1."""
        size = kernels.shape[-1]
        first = max(0, -((size - 1 - top - self.start) // self.factor))
        last = min(scores.shape[2] - 1, (bottom - 1 + self.start) // self.factor)
        dense = F.conv_transpose2d(scores[:, :, first : last + 1], kernels, stride=self.factor, groups=kernels.shape[0])
        begin = top + self.start - first * self.factor
        return dense[:, :, begin : begin + bottom - top, self.start : self.start + width]


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
        logits: Scores before softmax.
        target: Class ids 0 to k − 1, or ``ignore_index``.
        ignore_index: Id of the pixels that do not count.
        reduction: ``"mean"`` over labelled pixels, or ``"sum"`` (the reference's rates are for the sum).
        label_smoothing: Share of the target's probability, 0 to 1, that is spread evenly over all classes.
        class_weights: What a pixel of each class counts, above 0; the mean is then the weighted one. By default 1.

    Raises:
        DataError: The target holds an id that is neither a class nor ``ignore_index``.
        UsageError: ``reduction`` is neither of the two.

    Source: Long, Shelhamer & Darrell 2015, section 3; section 3 of the specification.
    """
    _check_reduction(reduction)
    _check_ids(target, logits.shape[1], ignore_index)
    total = F.cross_entropy(
        logits,
        target,
        weight=class_weights,
        ignore_index=ignore_index,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total if reduction == "sum" else total / _divisor(target, ignore_index, class_weights)


def upsampled_cross_entropy(
    scores: Float[Tensor, "n k h w"],
    upsampling: Upsampling,
    target: Int64[Tensor, "n H W"],
    ignore_index: int = 255,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, "k"] | None = None,
) -> Float[Tensor, ""]:
    """Return what :func:`pixel_cross_entropy` gives for upsampled scores, without ever holding them whole.

    Scores are upsampled in strips of rows, each of which is scored and differentiated before the next: memory is that
    of one strip, not of n×k×H×W logits and their gradients.

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
    options = {"weight": class_weights, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    total: Tensor = _Strips.apply(scores, upsampling.kernels, target, upsampling, options)
    return total if reduction == "sum" else total / _divisor(target, ignore_index, class_weights)


class _Strips(torch.autograd.Function):
    """The summed loss; gradients are taken strip by strip while it is computed."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, kernels: Tensor, target: Tensor, upsampling: Upsampling, options: dict[str, Any]
    ) -> Tensor:
        height, width = target.shape[1:]
        rows = max(1, STRIP_BYTES // max(1, 4 * scores.shape[0] * scores.shape[1] * width))
        leaves = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip((scores, kernels), ctx.needs_input_grad[:2], strict=True)
        ]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        total, gradients = scores.new_zeros(()), [torch.zeros_like(leaf) for leaf in wanted]
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            with torch.enable_grad():
                logits = upsampling.strip(leaves[0], leaves[1], top, bottom, width)
                loss = F.cross_entropy(logits, target[:, top:bottom], reduction="sum", **options)
            total += loss.detach()
            if wanted:
                for gradient, part in zip(gradients, torch.autograd.grad(loss, wanted), strict=True):
                    gradient += part
        found = iter(gradients)
        ctx.gradients = [next(found) if leaf.requires_grad else None for leaf in leaves]
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if gradient is None else gradient * outputs[0] for gradient in ctx.gradients]
        return (*found, None, None, None)


def soft_jaccard(
    logits: Float[Tensor, "n k h w"], target: Int64[Tensor, "n h w"], ignore_index: int = 255
) -> Float[Tensor, ""]:
    """Return 1 − the mean over the batch's classes of ∑ p·y ÷ ∑ (p + y − p·y): mean IU with probabilities p for labels.

    Every class that occurs in the target counts the same, however few its pixels are. Without any, the loss is 0.

    Args:
        logits: Scores before softmax.
        target: Class ids 0 to k − 1, or ``ignore_index``; y is 1 where it is the class, else 0.
        ignore_index: Id of the pixels that do not count.

    Raises:
        DataError: The target holds an id that is neither a class nor ``ignore_index``.

    Source: Rahman & Wang 2016, "Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation".
    """
    _check_ids(target, logits.shape[1], ignore_index)
    counted = target != ignore_index
    probabilities = logits.movedim(1, -1)[counted].softmax(1)
    truth = F.one_hot(target[counted], logits.shape[1]).to(probabilities.dtype)
    common, sizes = (probabilities * truth).sum(0), truth.sum(0)
    present = sizes > 0
    indices = common[present] / (probabilities.sum(0) + sizes - common)[present]
    return (1 - indices).sum() / present.sum().clamp(min=1)


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


def labelled(target: Int64[Tensor, "n h w"], ignore_index: int, class_weights: Float[Tensor, "k"]) -> float:
    """Return by what a summed loss is divided for the mean: the weights of all labelled pixels together."""
    counts = torch.bincount(target[target != ignore_index], minlength=len(class_weights))
    return float((counts * class_weights.double()).sum())


def _divisor(target: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    counted = target != ignore_index
    count = counted.sum() if class_weights is None else class_weights[target[counted]].sum()
    # A mean over no pixel is 0, not 0 / 0.
    return torch.where(count > 0, count, 1)


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
