"""Training: read :func:`fit` for the loop and :func:`train_step` for one step."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64

from ..data import Batch, DataSource
from ..errors import ModelError, UsageError
from ..evaluation import confusion
from ..inference import Predictor
from ..losses import Upsampling, labelled, upsampled_cross_entropy, upsampled_soft_jaccard
from ..metrics import Scores
from ..models import FCN
from .config import TrainConfig
from .events import Events
from .feed import Feed, build_feed
from .interrupt import Abandoned, Interrupt, interruptible, leaving_passes
from .network import tasks
from .optim import check_step, class_weights, remembered_statistics, set_training
from .progress import Clock, TrainingProgress
from .runlog import COLUMNS, RunLog
from .runtime import Runtime, whole
from .state import TrainState, mean_loss
from .words import (
    balance_in_words,
    describe,
    describe_epoch,
    never_seen,
    nothing_to_score,
    one_class_only,
)

EVERY = 4
"""Of which rows and columns the Jaccard loss is taken: sums over so many pixels do not need them all."""


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        run: The run folder; it stands for its best model wherever a model is asked for.
        scores: Best scores on the validation split; None where there is none.
        epochs: Passes over the training images.
        seconds: Wall-clock time.
    """

    run: Path
    scores: Scores | None
    epochs: float
    seconds: float


def class_pixels(source: DataSource) -> dict[str, Int64[torch.Tensor, "_"]]:
    """Return how many training pixels every class has, by task."""
    return {task: part.class_pixels("train") for task, part in tasks(source).items()}


def task_weights(
    pixels: Mapping[str, Int64[torch.Tensor, "_"]], config: TrainConfig, runtime: Runtime
) -> dict[str, Float[torch.Tensor, "_"]]:
    """Return what a pixel of each class counts in the loss, by task."""
    return {task: runtime.place(class_weights(counts, config.optim.balance)) for task, counts in pixels.items()}


def fit(model: FCN, source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> TrainResult:
    """Train ``model`` as ``config`` says, from the newest checkpoint in ``log``; everything that is kept goes there.

    Raises:
        NotFinite: A loss, a gradient or a weight is no number.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    clock, runtime = Clock(), Runtime(config.optim.precision)
    runtime.prepare(model, config.optim.batch_norm)
    feed = build_feed(source, config, runtime.rank, runtime.ranks)
    pixels = class_pixels(source)
    weights = task_weights(pixels, config, runtime)
    state = TrainState(model, config, feed.steps_an_epoch, feed.total_steps, runtime)
    if checkpoint := log.checkpoints.latest():
        state.restore(checkpoint)
        clock.past = state.seconds
    same_step(state, runtime)
    log.rewrite(state.records)
    events = Events(log.folder, len(state.records) + 1) if config.tensorboard and log.writes else None
    progress = TrainingProgress(state.steps, done=state.step, quiet=quiet or not log.writes)
    progress.say(*describe(model, source, feed, config, runtime))
    for task, part in tasks(source).items():
        progress.say(*never_seen(pixels[task], part.labels.names))
        progress.say(*balance_in_words(weights[task].tolist(), part.labels.names, config.optim.balance))
    with (
        progress.running(),
        interruptible() as interrupt,
        nullcontext() if runtime.lockstep else leaving_passes(model, interrupt),
    ):
        while not state.finished:
            for batches in feed.steps(state.epoch, len(state.losses)):
                runtime.seed(config.seed, state.step)
                with suppress(Abandoned):
                    state.advance(train_step(model, batches, state.optimiser, config, runtime, weights))
                    progress.step(state, feed.batches.step, runtime.memory())
                stop_if_asked(interrupt, state, log, clock, runtime)
                if runtime.largest(log.writes and clock.due(config.checkpoint_minutes)):
                    keep(state, log, clock)
            end_epoch(state, source, feed, log, clock, runtime, interrupt)
            if events:
                show_epoch(events, state, source, runtime)
            progress.say(*describe_epoch(state.records[-1], feed.last_epoch))
            stop_if_asked(interrupt, state, log, clock, runtime)
    if state.best is None:
        log.save(state.average.model, "best")
    scores = None if state.best is None else Scores.from_confusion(state.best, source.labels.names)
    result = TrainResult(log.folder, scores, feed.epochs, clock.seconds)
    log.finish(summary(result, state.best))
    runtime.wait()
    return result


def same_step(state: TrainState, runtime: Runtime) -> None:
    """Wait until every rank is here, and see that all go on from the same step.

    Raises:
        ModelError: They do not: one could not read a checkpoint that another could.
    """
    steps = runtime.of_each(state.step)
    if len(set(steps)) > 1:
        raise ModelError(
            f"ranks would go on from different steps ({', '.join(map(str, steps))}): not all of them can read the "
            f"checkpoints of the run; look at the folder on each machine, then resume"
        )


def stop_if_asked(interrupt: Interrupt, state: TrainState, log: RunLog, clock: Clock, runtime: Runtime) -> None:
    """End the run, with its state saved, if a signal came to any rank.

    Raises:
        Interrupted: One did.
    """
    # One that comes to this rank meanwhile stays noted, for the next time.
    if number := runtime.largest(interrupt.number):
        interrupt.number = number
        keep(state, log, clock)
        interrupt.stop(log.run)


def keep(state: TrainState, log: RunLog, clock: Clock) -> None:
    """Write the state from which ``--resume`` goes on, unless it was written as it is; all ranks must ask for it.

    Raises:
        NotFinite: Weights are not.
        UsageError: It cannot be written.
    """
    if state.kept != state.place:
        log.write_checkpoint(state.checkpoint(clock.seconds))
        state.kept = state.place
        clock.kept()


def end_epoch(
    state: TrainState,
    source: DataSource,
    feed: Feed,
    log: RunLog,
    clock: Clock,
    runtime: Runtime,
    interrupt: Interrupt,
) -> None:
    """Score the averaged network where it is time to, save it, and write the epoch's line.

    The state is kept first: nothing is lost where the rest fails, and a signal waits for one file at most.

    Raises:
        NotFinite: Its weights are not.
        DataError: An image cannot be scored.
        Interrupted: A signal came while it was scored or saved; it will be scored again.
    """
    model, names, matrix, warnings = state.average.model, source.labels.names, None, list[str]()
    runtime.align(model)
    keep(state, log, clock)
    stop_if_asked(interrupt, state, log, clock, runtime)
    if feed.evaluates(state.epoch):
        matrix = validate(model, source, runtime, interrupt)
        stop_if_asked(interrupt, state, log, clock, runtime)
        if warnings := nothing_to_score(matrix):
            matrix = None
        elif state.best is None or mean_iu(matrix, names) >= mean_iu(state.best, names):
            state.best = matrix
            log.save(model, "best")
            stop_if_asked(interrupt, state, log, clock, runtime)
    log.save(model, "last")
    stop_if_asked(interrupt, state, log, clock, runtime)
    record = epoch_record(state, names, matrix, clock.seconds)
    if matrix is not None:
        warnings += one_class_only([*state.records, record], names)
    if warnings := [*warnings, *state.dead_scores]:
        record["warnings"] = warnings
    state.close_epoch(record)
    log.rewrite(state.records)


def show_epoch(events: Events, state: TrainState, source: DataSource, runtime: Runtime) -> None:
    """Write the epoch that was just closed for TensorBoard."""
    record = state.records[-1]
    events.write(record, [group["lr"] for group in state.optimiser.param_groups])
    if "mean_iu" in record:
        events.show(Predictor(state.average.model, device=runtime.device), source, record["epoch"])


def epoch_record(
    state: TrainState, names: Sequence[str], matrix: Int64[torch.Tensor, "k k"] | None, seconds: float
) -> dict[str, Any]:
    """Return the log line of the epoch in progress; ``predicted`` are the classes that occur in any prediction."""
    record: dict[str, Any] = {"epoch": state.epoch, "loss": mean_loss(state.losses), "seconds": round(seconds, 1)}
    if matrix is not None:
        scores = Scores.from_confusion(matrix, names)
        record |= {name: scores[name] for name in COLUMNS if name in scores}
        record["predicted"] = matrix.sum(0).nonzero().flatten().tolist()
    return record


def mean_iu(matrix: Int64[torch.Tensor, "k k"], names: Sequence[str]) -> float:
    """Return by what the best network is chosen."""
    return Scores.from_confusion(matrix, names).mean_iu


def train_step(
    model: FCN,
    batches: Sequence[Batch],
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    runtime: Runtime,
    class_weights: Mapping[str, Float[torch.Tensor, "_"]],
) -> float:
    """Take one step on one or more batches, as if they were one, and return its loss.

    Where the memory does not suffice, batches are halved for the rest of the run, and the step is taken again.

    Raises:
        Abandoned: A signal came (see :func:`leaving_passes`); weights and statistics are as they were.
        NotFinite: The loss or its gradient is not finite; the weights are then as they were.
        UsageError: Batch normalisation has a single number to go by.
    """
    set_training(model, config.optim)
    size = step_size(batches, config, runtime, class_weights)
    restore, losses = remembered_statistics(model), list[float]()
    while True:  # Nothing in it asks other ranks: they may have the memory.
        optimiser.zero_grad(set_to_none=True)
        parts = runtime.parts(batches)
        try:
            with suppress(Abandoned):
                losses = accumulate_gradients(model, parts, size, config, runtime, class_weights)
            break
        except (RuntimeError, MemoryError) as error:
            restore()
            runtime.halve(batches, error)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                "one image whose coarsest features are a single cell cannot be normalised: "
                "use larger crops (data.crop), larger batches (data.batch_size), or optim.batch_norm=frozen"
            ) from error
    if runtime.largest(not losses):
        restore()
        raise Abandoned
    runtime.add_gradients(model)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm, total = torch.nn.utils.get_total_norm(gradients), runtime.total(sum(losses))
    check_step(losses, [part.stems for part in parts], total, float(whole(norm)))
    if config.optim.clip:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip, norm)
    optimiser.step()
    return total


@dataclass(frozen=True)
class StepSize:
    """How much a step sees, on all ranks.

    Attributes:
        pixels: Labelled pixels of each task, by which its loss is divided; 1 where losses are summed.
        images: Number of images.
    """

    pixels: Mapping[str, float]
    images: float


def step_size(
    batches: Sequence[Batch],
    config: TrainConfig,
    runtime: Runtime,
    class_weights: Mapping[str, Float[torch.Tensor, "_"]],
) -> StepSize:
    """Return by what the losses of a step's images are divided; all ranks must ask for it."""
    optim, pixels = config.optim, dict.fromkeys(class_weights, 1.0)
    if optim.loss == "mean":
        for task, weights in class_weights.items():
            targets = [thinned(batch.of_task(task), optim.loss_stride) for batch in batches]
            counts = [labelled(target, batches[0].ignore_index, weights.cpu()) for target in targets]
            pixels[task] = max(1e-12, runtime.total(sum(counts)))
    return StepSize(pixels, runtime.total(float(sum(len(batch.stems) for batch in batches))))


def accumulate_gradients(
    model: FCN,
    batches: Sequence[Batch],
    size: StepSize,
    config: TrainConfig,
    runtime: Runtime,
    class_weights: Mapping[str, Float[torch.Tensor, "_"]],
) -> list[float]:
    """Add the gradients of the loss, and return each batch's: of all tasks, summed or divided by the step's pixels."""
    optim, losses = config.optim, list[float]()
    for batch in batches:
        with runtime.autocast():
            outputs = model.coarse(runtime.place(batch.images))
        parts = []
        for task, (scores, upsampling) in outputs.items():
            target, scores = runtime.place(batch.of_task(task)), scores.float()
            cross_entropy = upsampled_cross_entropy(
                scores,
                upsampling.every(optim.loss_stride),
                thinned(target, optim.loss_stride),
                ignore_index=batch.ignore_index,
                reduction="sum",
                label_smoothing=optim.label_smoothing,
                class_weights=class_weights[task],
            )
            parts.append(cross_entropy / size.pixels[task])
            if optim.jaccard:
                share = optim.jaccard * len(batch.stems) / size.images
                parts.append(share * jaccard_of_some(scores, upsampling, target, batch.ignore_index))
        loss = torch.stack(parts).sum()
        # To compute forwards again is not to count again.
        restore = remembered_statistics(model) if config.model.recompute else None
        loss.backward()  # type: ignore[no-untyped-call]
        if restore:
            restore()
        losses.append(float(loss.detach()))
    return losses


def jaccard_of_some(
    scores: Float[torch.Tensor, "n k H W"], upsampling: Upsampling, target: Int64[torch.Tensor, "n h w"], ignored: int
) -> Float[torch.Tensor, ""]:
    """Return the soft Jaccard loss of upsampled scores at each fourth row and column."""
    every = math.gcd(EVERY, upsampling.factor)
    return upsampled_soft_jaccard(scores, upsampling.every(every), thinned(target, every), ignored)


def thinned(target: Int64[torch.Tensor, "n h w"], every: int) -> Int64[torch.Tensor, "n H W"]:
    """Return each so-manieth row and column, from the middle of the first few: those of :meth:`Upsampling.every`."""
    return target[:, every // 2 :: every, every // 2 :: every]


def validate(model: FCN, source: DataSource, runtime: Runtime, interrupt: Interrupt) -> Int64[torch.Tensor, "k k"]:
    """Return the histogram [truth, prediction] of a network in training on ``val``, whose images the ranks share.

    It ends early when a signal comes.
    """
    samples = source.dataset("val")
    mine = takewhile(lambda _: not interrupt.number, range(runtime.rank, len(samples), runtime.ranks))
    return runtime.summed(confusion(Predictor(model, device=runtime.device), (samples[index] for index in mine)))


def summary(result: TrainResult, best: Int64[torch.Tensor, "k k"] | None) -> dict[str, Any]:
    """Return what a run writes at its end, in plain values."""
    return {
        "seconds": result.seconds,
        "epochs": result.epochs,
        "scores": result.scores.to_dict() if result.scores else None,
        "confusion": None if best is None else best.tolist(),
    }
