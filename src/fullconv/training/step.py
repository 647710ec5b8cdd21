"""One step: the loss of its batches, their gradients, and what may go wrong on the way."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import nn

from ..data import Batch, DataSource
from ..errors import NotFinite, UsageError, out_of_memory
from ..losses import mean_divisor, upsampled_cross_entropy, upsampled_soft_jaccard
from ..models import FCN
from ..nn.strips import Upsampling, every_nth
from .config import OptimSection, TrainConfig
from .interrupt import Abandoned
from .runtime import Runtime, whole

JACCARD_STRIDE = 4
"""Of which rows and columns the Jaccard loss is taken: sums over so many pixels do not need them all."""


@dataclass(frozen=True, eq=False)
class Objective:
    """What a step needs besides the network, batches and an optimiser.

    Attributes:
        config: How the network is trained.
        runtime: Where.
        class_weights: What a pixel of each class counts, by task.
    """

    config: TrainConfig
    runtime: Runtime
    class_weights: Mapping[str, Float[torch.Tensor, "_"]]

    @classmethod
    def of(cls, source: DataSource, config: TrainConfig, runtime: Runtime) -> "Objective":
        """Return that of a configuration, on a data set's training pixels."""
        pixels = {task: part.class_pixels("train") for task, part in source.tasks.items()}
        weights = {task: class_weights(counts, config.optim.balance) for task, counts in pixels.items()}
        return cls(config, runtime, {task: runtime.place(tensor) for task, tensor in weights.items()})


def class_weights(pixels: Int64[torch.Tensor, "k"], balance: float) -> Float[torch.Tensor, "k"]:
    """Return what a pixel of each class counts in the loss: (median frequency ÷ its frequency) ** ``balance``.

    Args:
        pixels: Labelled training pixels of every class; the weight of a class that has none is 1.
        balance: 0 for equal weights, 1 for classes of equal weight in all.

    Source: after Eigen & Fergus 2015, section 4.3.2, who have the power 1, and count of each class's frequency only the
    images that hold it.

    >>> class_weights(torch.tensor([1600, 400, 100, 0]), 0.5).tolist()
    [0.5, 1.0, 2.0, 1.0]
    """
    counts = pixels.float()
    median = counts[counts > 0].quantile(0.5) if bool((counts > 0).any()) else torch.tensor(1.0)
    return torch.where(counts > 0, (median / counts.clamp(min=1)) ** balance, 1.0)


def train_step(model: FCN, batches: Sequence[Batch], optimiser: torch.optim.Optimizer, objective: Objective) -> float:
    """Take one step on one or more batches, as if they were one, and return its loss.

    Where the memory does not suffice, batches are halved for the rest of the run, and the step is taken again.

    Raises:
        Abandoned: A signal came (see :func:`leaving_passes`); weights and statistics are as they were.
        NotFinite: The loss or its gradient is not finite; the weights are then as they were.
        UsageError: Batch normalisation has a single number to go by.
        FullconvError: The memory does not suffice, and batches cannot be halved.
    """
    optim, runtime = objective.config.optim, objective.runtime
    set_training(model, optim)
    size = step_size(batches, objective)
    restore, abandoned = remembered_statistics(model), False
    while True:  # Nothing in it asks other ranks: they may have the memory.
        optimiser.zero_grad(set_to_none=True)
        parts = runtime.parts(batches)
        try:
            losses = accumulate_gradients(model, parts, size, objective)
            break
        except Abandoned:
            abandoned = True
            break
        except (RuntimeError, MemoryError) as error:
            restore()
            if not out_of_memory(error):
                raise
            runtime.halve(batches, error)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                "one image whose coarsest features are a single cell cannot be normalised: "
                "use larger crops (data.crop), larger batches (data.batch_size), or optim.batch_norm=frozen"
            ) from error
    if runtime.largest(abandoned):
        restore()
        raise Abandoned
    runtime.add_gradients(model)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm, total = torch.nn.utils.get_total_norm(gradients), runtime.total(sum(losses))
    check_step(losses, [part.stems for part in parts], total, float(whole(norm)))
    if optim.clip:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), optim.clip, norm)
    optimiser.step()
    return total


@dataclass(frozen=True)
class StepSize:
    """How much a step sees, on all ranks.

    Attributes:
        divisors: What each task's summed loss is divided by: the class weights of its labelled pixels together; 1 where
            losses are summed.
        images: Number of images.
    """

    divisors: Mapping[str, float]
    images: float


def step_size(batches: Sequence[Batch], objective: Objective) -> StepSize:
    """Return by what the losses of a step's images are divided. Collective: every rank must call it."""
    optim, runtime = objective.config.optim, objective.runtime
    divisors = dict.fromkeys(objective.class_weights, 1.0)
    if optim.loss == "mean":
        for task, weights in objective.class_weights.items():
            targets = [every_nth(batch.of_task(task), optim.loss_stride) for batch in batches]
            counts = [mean_divisor(target, batches[0].ignore_index, weights.cpu()) for target in targets]
            divisors[task] = max(1e-12, runtime.total(sum(counts)))
    return StepSize(divisors, runtime.total(float(sum(len(batch.stems) for batch in batches))))


def accumulate_gradients(model: FCN, batches: Sequence[Batch], size: StepSize, objective: Objective) -> list[float]:
    """Add the gradients of the loss, and return each batch's: of all tasks, summed or divided by the step's pixels."""
    config, runtime, losses = objective.config, objective.runtime, list[float]()
    optim = config.optim
    for batch in batches:
        with runtime.autocast():
            outputs = model.coarse(runtime.place(batch.images))
        terms = []
        for task, (scores, upsampling) in outputs.items():
            target, scores = runtime.place(batch.of_task(task)), scores.float()
            cross_entropy = upsampled_cross_entropy(
                scores,
                upsampling.every(optim.loss_stride),
                every_nth(target, optim.loss_stride),
                ignore_index=batch.ignore_index,
                reduction="sum",
                label_smoothing=optim.label_smoothing,
                class_weights=objective.class_weights[task],
            )
            terms.append(cross_entropy / size.divisors[task])
            if optim.jaccard:
                share = optim.jaccard * len(batch.stems) / size.images
                terms.append(share * strided_jaccard(scores, upsampling, target, batch.ignore_index))
        loss = torch.stack(terms).sum()
        # To compute forwards again is not to count again.
        restore = remembered_statistics(model) if config.model.recompute else None
        loss.backward()  # type: ignore[no-untyped-call]
        if restore:
            restore()
        losses.append(float(loss.detach()))
    return losses


def strided_jaccard(
    scores: Float[torch.Tensor, "n k hs ws"], upsampling: Upsampling, target: Int64[torch.Tensor, "n h w"], ignored: int
) -> Float[torch.Tensor, ""]:
    """Return the soft Jaccard loss of upsampled scores at each fourth row and column."""
    every = math.gcd(JACCARD_STRIDE, upsampling.factor)
    return upsampled_soft_jaccard(scores, upsampling.every(every), every_nth(target, every), ignored)


def set_training(model: FCN, optim: OptimSection) -> None:
    """Put a network into training mode, but for what is frozen: a frozen trunk's statistics do not move either."""
    model.train()
    frozen: list[nn.Module] = [model] if optim.batch_norm == "frozen" else []
    if optim.trunk_rate == 0:
        frozen.append(model.trunk.body)
    for part in frozen:
        for layer in part.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()


def remembered_statistics(module: nn.Module) -> Callable[[], None]:
    """Return what puts all running statistics back to what they are now: after passes that are not to count."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    before = [buffer.clone() for buffer in buffers]

    def restore() -> None:
        for buffer, kept in zip(buffers, before, strict=True):
            buffer.copy_(kept)

    return restore


def check_step(losses: Sequence[float], stems: Sequence[Sequence[str]], total: float, gradient: float) -> None:
    """Stop a run whose loss or gradient is no number, before the weights change; on all ranks at once.

    Args:
        losses: Of this rank's batches.
        stems: Names of their images.
        total: The loss of all ranks.
        gradient: Norm of the gradient of all ranks.

    Raises:
        NotFinite: One is not finite; the message names the images.
    """
    if math.isfinite(total) and math.isfinite(gradient):
        return
    for loss, images in zip(losses, stems, strict=True):
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss} on images {', '.join(images)}: lower optim.rate, or set optim.clip=1")
    if not math.isfinite(total):
        raise NotFinite("the loss is not finite on another rank, which names its images")
    images = [stem for batch in stems for stem in batch]
    raise NotFinite(f"the gradient's norm is {gradient} in a step on images {', '.join(images)}: lower optim.rate")
