"""Training: read :func:`fit` for the loop and :func:`train_step` for one step."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from ..data import Batch, DataSource, open_dataset
from ..doctor import refuse_bad
from ..evaluation import confusion
from ..files import Bands
from ..inference import Predictor
from ..losses import pixel_cross_entropy, soft_jaccard
from ..metrics import Scores
from ..models import FCN, ModelConfig
from ..models.build import DEFAULT_TASK
from .config import TrainConfig, load_config, named_settings
from .feed import Feed, build_feed
from .optim import WeightAverage, build_optimiser, build_schedule, check_finite, class_weights
from .progress import TrainingProgress
from .runlog import RunLog
from .runtime import Runtime

EVERY = 4
"""Of which rows and columns the Jaccard loss is taken."""

NORMALISATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


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
    epochs: int
    seconds: float


def train(
    data: str | Path | DataSource,
    out: str | Path,
    *,
    recipe: str = "modern",
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **named: Any,
) -> TrainResult:
    """Train a network on a data set's ``train`` split and leave a run folder behind.

    The best weights on the ``val`` split are kept in ``best/``; without such a split, the last ones.

    Args:
        data: A data set folder, a ``dataset.yaml``, or an opened data set.
        out: Folder to create for the run.
        recipe: Name of a recipe, or a YAML file.
        settings: Dotted settings on top of it, such as ``{"optim.rate": 1e-3}``.
        quiet: Print nothing.
        named: The settings that have an option of their own: ``trunk``, ``trunk_weights``, ``epochs``, ``seed``.

    Raises:
        DataError: The data set is unusable; checked before the first step.
        UsageError: A setting is unknown or wrong, or the run folder cannot be written.
        ModelError: The trunk's weight file cannot be used.
    """
    config = load_config(recipe, {**(settings or {}), **named_settings(named)})
    source = data if isinstance(data, DataSource) else open_dataset(data)
    refuse_bad(source, ["train", *(["val"] if "val" in source.splits else [])])
    torch.manual_seed(config.seed)
    log = RunLog(out)
    return fit(build_model(config, source), source, config, log, quiet=quiet)


def build_model(config: TrainConfig, source: DataSource) -> FCN:
    """Return the network that ``config`` asks for, with the data set's channels and classes."""
    section = config.model
    image = source.records("train")[0].image
    channels = image.channels()
    normalisation = NORMALISATIONS.get(section.normalisation)
    options = section.model_dump(exclude={"trunk_weights", "normalisation"})
    model_config = ModelConfig(
        **options,
        tasks={DEFAULT_TASK: source.labels.num_classes},
        in_channels=channels,
        bands=image.numbers or tuple(range(1, channels + 1)) if isinstance(image, Bands) else None,
        value_range=image.value_range if isinstance(image, Bands) else None,
        normalisation=normalisation if channels == 3 else channel_moments(source),
    )
    return FCN.from_config(model_config, section.trunk_weights, {DEFAULT_TASK: source.labels})


def channel_moments(source: DataSource, most: int = 256) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation (0–255) of each channel over the training images, at most so many of them."""
    records = source.records("train")
    chosen = records[:: math.ceil(len(records) / most)]
    pixels = [record.image.read()[:, ::4, ::4].float().flatten(1) for record in chosen]
    mean = torch.stack([part.mean(1) for part in pixels]).mean(0)
    square = torch.stack([part.square().mean(1) for part in pixels]).mean(0)
    std = (square - mean.square()).clamp(min=1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def fit(model: FCN, source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> TrainResult:
    """Train ``model`` as ``config`` says; everything that is kept goes to ``log``."""
    start = time.monotonic()
    runtime = Runtime(config.optim.precision)
    runtime.prepare(model)
    feed = build_feed(source, config)
    weights = runtime.place(class_weights(source.class_pixels("train"), config.optim.balance))
    steps = feed.epochs * len(feed.loader)
    optimiser = build_optimiser(model, config.optim)
    schedule = build_schedule(optimiser, config.optim, steps)
    average = WeightAverage(model, config.optim.average)
    progress = TrainingProgress(steps, quiet=quiet)
    log.start(config)
    progress.say(describe(model, feed, len(source.splits["train"])))
    best: Scores | None = None
    with progress.running():
        for epoch in range(1, feed.epochs + 1):
            losses = []
            for batch in feed.epoch(epoch):
                loss = train_step(model, batch, optimiser, config, runtime, weights)
                schedule.step()
                average.update()
                losses.append(float(loss))
                progress.step(epoch, losses[-1])
            scores = validate(average.model, source) if epoch in feed.evaluations else None
            if scores is not None and (best is None or scores.mean_iu >= best.mean_iu):
                best = scores
                average.model.save_pretrained(log.best)
            average.model.save_pretrained(log.last)
            record = epoch_record(epoch, losses, scores, time.monotonic() - start)
            log.append(record)
            progress.say(describe_epoch(record, feed.epochs))
    if best is None:
        average.model.save_pretrained(log.best)
    result = TrainResult(log.folder, best, feed.epochs, time.monotonic() - start)
    log.write_json("summary.json", {"seconds": result.seconds, "scores": best.to_dict() if best else None})
    return result


def train_step(
    model: FCN,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    runtime: Runtime,
    class_weights: Float[torch.Tensor, "k"],
) -> torch.Tensor:
    """Take one step on one batch and return its loss, in which a pixel counts what its class weighs.

    Raises:
        FullconvError: The loss is not finite; the weights are then as they were.
    """
    model.train()
    with runtime.autocast():
        logits = model.logits(runtime.place(batch.images))[DEFAULT_TASK].float()
    target = runtime.place(batch.targets)
    loss = pixel_cross_entropy(
        logits,
        target,
        ignore_index=batch.ignore_index,
        reduction=config.optim.loss,
        label_smoothing=config.optim.label_smoothing,
        class_weights=class_weights,
    )
    if config.optim.jaccard:
        # Sums over so many pixels do not need them all.
        some = (..., slice(EVERY // 2, None, EVERY), slice(EVERY // 2, None, EVERY))
        loss = loss + config.optim.jaccard * soft_jaccard(logits[some], target[some], batch.ignore_index)
    check_finite(loss, batch.stems)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if config.optim.clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
    optimiser.step()
    return loss.detach()


def validate(model: FCN, source: DataSource) -> Scores:
    """Return the scores of a network in training on the ``val`` split."""
    samples = source.dataset("val")
    matrix = confusion(Predictor(model), (samples[index] for index in range(len(samples))))
    return Scores.from_confusion(matrix, source.labels.names)


def describe(model: FCN, feed: Feed, images: int) -> str:
    """Return one line that says what is about to happen."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    crop = f"{feed.crop[0]}×{feed.crop[1]} crops" if feed.crop else "whole images"
    trunk = model.config.trunk if model.config else "a trunk"
    return f"{trunk}, {parameters / 1e6:.1f} M parameters: {feed.epochs} epochs of {images} images, {crop}"


def epoch_record(epoch: int, losses: list[float], scores: Scores | None, seconds: float) -> dict[str, Any]:
    """Return the log line of one epoch."""
    record: dict[str, Any] = {"epoch": epoch, "loss": sum(losses) / len(losses), "seconds": round(seconds, 1)}
    if scores is not None:
        record |= {"pixel_accuracy": scores.pixel_accuracy, "mean_iu": scores.mean_iu}
    return record


def describe_epoch(record: dict[str, Any], epochs: int) -> str:
    """Return the line a person reads after an epoch."""
    line = f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.3f}"
    if "mean_iu" in record:
        line += f"  val: mean IU {record['mean_iu']:.3f}  pixel accuracy {record['pixel_accuracy']:.3f}"
    return f"{line}  ({record['seconds']:.0f} s)"
