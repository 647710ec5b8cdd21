"""How many epochs fit into a time: measured, not guessed."""

import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data import DataSource
from ..data.sampling import evenly
from ..evaluation import confusion
from ..inference import Predictor
from ..models import FCN
from .config import TrainConfig, changed
from .feed import build_feed, input_scale, resolved
from .interrupt import Interrupt, leaving_passes
from .loop import suggesting_no_evaluations
from .network import build_model, without_fresh_layer_warning
from .progress import say
from .runlog import RunLog
from .runtime import Runtime
from .stages import stage_configs
from .state import EPOCH_END_MINUTES, TrainState
from .step import Objective, train_step

TRIAL_SHARE, TRIAL_STEPS = 0.02, 11
LONGEST_SHARE, FEWEST_STEPS = 0.15, 3
"""Trial steps go on until they took ``TRIAL_SHARE`` of the time and are ``TRIAL_STEPS`` in number; once they took
``LONGEST_SHARE`` of it, ``FEWEST_STEPS`` are enough."""

MARGIN = 0.9
"""Share of the time that is planned for; the rest is for a machine that slows down, as shared ones do (measured:
docs/results.md), and for what was not measured."""

SCORED = 4
"""How many validation images are scored to see how long all take."""

TRIAL_RUN = ".trial"
"""Where in the run folder a model is written to see how long that takes."""

GRAINS = 10**6
"""The share of the epochs that fits is found to one in so many."""

ENLARGED_SHARE = 1 / 3
"""The share of the derived epochs from which enlarged images are worth their time (measured: docs/results.md)."""


@dataclass(frozen=True)
class Cost:
    """What a training takes, in seconds.

    Attributes:
        once: Before its first step.
        epoch: Each epoch, with what is written at its end.
        evaluation: Each evaluation of the validation split.
        evaluations: How many of them there are; no epoch has more than one.
    """

    once: float
    epoch: float
    evaluation: float
    evaluations: int

    def of(self, epochs: float) -> float:
        """Return the seconds of so many epochs."""
        return self.once + self.epoch * epochs + self.evaluation * min(math.ceil(epochs), self.evaluations)


def fitted(
    source: DataSource,
    config: TrainConfig,
    minutes: float,
    folder: Path,
    *,
    began: float | None = None,
    quiet: bool = False,
) -> TrainConfig:
    """Return a configuration with as many epochs as fit into the time, and say how many; those of stages in proportion.

    Small images are not enlarged by themselves where that leaves time for less than a third of the derived epochs.

    Args:
        source: The data set.
        config: How to train, but for the epochs.
        minutes: Wall-clock time for the whole run.
        folder: The run's, where a model is written to see how long that takes.
        began: When that time began, on the monotonic clock; by default now.
        quiet: Print nothing.

    Raises:
        UsageError: A network cannot be built, or images cannot be fed to it.
        ModelError: A weight file cannot be used.
        DataError: An image cannot be read or scored.
        NotFinite: The loss of a trial step is not finite.
    """
    end = (time.monotonic() if began is None else began) + 60 * minutes
    config, said = changed(config, {"minutes": None}), list[str]()
    stages = stage_configs(config)
    say(f"trial steps, to see how many epochs {minutes:g} minutes hold", quiet=quiet)
    wanted = [float(resolved(source, stage).epochs) for stage in stages]
    derived = max(float(resolved(source, changed(stage, {"epochs": "auto"})).epochs) for stage in stages)
    chosen: list[dict[str, Any]] = [{} for _ in stages]
    epochs = epochs_within(end, source, stages, wanted, folder)
    scales = [input_scale(source, stage) if stage.model.input_scale == "auto" else 1.0 for stage in stages]
    if max(scales) > 1 and sum(epochs) < ENLARGED_SHARE * derived:
        said.append(
            f"images are not enlarged: {minutes:g} minutes hold {_added(epochs)} epochs of them {max(scales):g} times "
            f"as large, less than a third of {derived:g}"
        )
        chosen = [{"model.input_scale": 1} if scale > 1 else {} for scale in scales]
        stages = [changed(stage, small) for stage, small in zip(stages, chosen, strict=True)]
        epochs = epochs_within(end, source, stages, wanted, folder)
    line = f"{minutes:g} minutes hold {_added(epochs)} epochs, by trial steps"
    thing = "image" if all(stage.data.patches == "none" for stage in stages) else "patch"
    said.append(line if min(epochs) >= 1 else f"warning: {line}: not every {thing} will be seen")
    say(*said, quiet=quiet)
    return _with(config, [more | {"epochs": number} for more, number in zip(chosen, epochs, strict=True)])


def as_chosen(config: TrainConfig, other: TrainConfig) -> TrainConfig:
    """Return a configuration with what its time has chosen in another, where both have as many stages."""
    config = changed(config, {"minutes": None})
    if len(config.stages) != len(other.stages):
        return config
    scale, chosen = "model.input_scale", list[dict[str, Any]]()
    theirs = other.stages or ({"epochs": other.epochs, scale: other.model.input_scale},)
    for ours, found in zip(config.stages or ({},), theirs, strict=True):
        left_open = {"epochs", scale} if ours.get(scale, config.model.input_scale) == "auto" else {"epochs"}
        chosen.append({name: found[name] for name in left_open & found.keys()})
    return _with(config, chosen)


def _with(config: TrainConfig, chosen: Sequence[Mapping[str, Any]]) -> TrainConfig:
    """Return a configuration with what was chosen for each of its stages, or for itself where it has none."""
    if not config.stages:
        return changed(config, chosen[0])
    stages = tuple(stage | dict(more) for stage, more in zip(config.stages, chosen, strict=True))
    return changed(config, {"stages": stages})


def epochs_within(
    end: float, source: DataSource, stages: Sequence[TrainConfig], wanted: Sequence[float], folder: Path
) -> list[float]:
    """Return as many epochs of every stage as fit, in the proportion wanted: in hundredths, at least one of them.

    Args:
        end: By when the last of them is to be done, with all that ends it, on the monotonic clock; where that is
            over, next to nothing fits.
        source: The data set.
        stages: How they will be trained.
        wanted: Epochs of each.
        folder: The run's.

    Raises:
        UsageError: As :func:`fitted`, and so on.
        ModelError: See there.
        DataError: See there.
        NotFinite: See there.
    """
    seconds, costs = (end - time.monotonic()) / len(stages), list[Cost]()
    for stage in stages:
        torch.manual_seed(stage.seed)
        with without_fresh_layer_warning():
            model = build_model(source, stage)
        costs.append(measured(seconds, model, source, stage, folder))
    share = _largest_share(MARGIN * (end - time.monotonic()), costs, wanted)
    # The slowest rank decides.
    share = -Runtime().largest(-int(GRAINS * share)) / GRAINS
    return [max(1, int(100 * share * epochs)) / 100 for epochs in wanted]


def _largest_share(seconds: float, costs: Sequence[Cost], wanted: Sequence[float]) -> float:
    """Return the largest share of the epochs wanted that fits into a time."""

    def fits(share: float) -> bool:
        return sum(cost.of(share * epochs) for cost, epochs in zip(costs, wanted, strict=True)) <= seconds

    low, high = 0.0, 1.0
    while fits(high):
        high *= 2
    while high - low > 1 / GRAINS:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def measured(seconds: float, model: FCN, source: DataSource, config: TrainConfig, folder: Path) -> Cost:
    """Return what a training takes.

    The network takes some steps on real batches, of which the second half counts: the first are slower. It also
    predicts a few images, and is written once, with its state.

    Args:
        seconds: What there is for the training, of which a small share is taken here.
        model: The network, which is of no use afterwards.
        source: The data set.
        config: How it will be trained.
        folder: The run's.
    """
    start, runtime = time.monotonic(), Runtime(config.optim.precision)
    runtime.prepare(model, config.optim.batch_norm)
    objective = Objective.of(source, config, runtime)
    before = time.monotonic()
    feed = build_feed(source, config, runtime.rank, runtime.ranks)
    once = time.monotonic() - before  # The run will look once more for where patches are to lie.
    unshared = changed(config, {"optim.sharded": False})
    state = TrainState(model, unshared, feed.steps_an_epoch, feed.total_steps, runtime)
    times, before = list[float](), time.monotonic()
    with leaving_passes(model, Interrupt()):
        for batches in feed.endless():
            train_step(model, batches, state.optimiser, objective)
            state.average.update()
            times.append(time.monotonic() - before)
            before = time.monotonic()
            spent = before - start
            enough = len(times) >= TRIAL_STEPS and spent > TRIAL_SHARE * seconds
            if runtime.largest(enough or (len(times) >= FEWEST_STEPS and spent > LONGEST_SHARE * seconds)):
                break
    late = sorted(times[len(times) // 2 :])
    keeping, saving = _writing_seconds(state, folder / TRIAL_RUN)
    # Steps of whole images differ.
    step = sum(late) / len(late) if feed.crop is None else late[len(late) // 2]
    steps = feed.steps_an_epoch * step
    epoch = steps + saving + keeping * _keeps(feed.steps_an_epoch, steps, config.checkpoint_minutes)
    evaluation = saving + _evaluation_seconds(model, source, folder) / runtime.ranks if feed.evaluations else 0.0
    return Cost(once, epoch, evaluation, feed.evaluations)


def _keeps(steps: int, seconds: float, minutes: float) -> float:
    """Return how often the state is kept in an epoch of so many steps and seconds."""
    if not minutes:
        return float(steps)
    return min(1.0, seconds / (60 * EPOCH_END_MINUTES)) + seconds // (60 * minutes)


def _writing_seconds(state: TrainState, folder: Path) -> tuple[float, float]:
    """Return what it takes to keep the state, and to save the model and write the epoch's line."""
    log = RunLog(folder)
    if log.writes:
        shutil.rmtree(folder, ignore_errors=True)  # Of a process that was killed.
    start = time.monotonic()
    log.write_checkpoint(state.checkpoint(0.0))
    middle = time.monotonic()
    log.save(state.average.model, "last")
    log.rewrite([{}])
    end = time.monotonic()
    if log.writes:
        shutil.rmtree(folder, ignore_errors=True)
    return middle - start, end - middle


def _evaluation_seconds(model: FCN, source: DataSource, folder: Path) -> float:
    """Return what it takes to score the validation split, by the pixels of a few of its images."""
    records, predictor = source.records("val"), Predictor(model)
    few = [records[number] for number in evenly(len(records), SCORED)]
    start = time.monotonic()
    with suggesting_no_evaluations(RunLog(folder)):
        confusion(predictor, (source.read_sample(record) for record in few))
    seconds = time.monotonic() - start
    all_pixels, pixels = (sum(math.prod(source.image_size(record)) for record in part) for part in (records, few))
    return seconds * all_pixels / pixels


def _added(numbers: Iterable[float]) -> str:
    return " + ".join(f"{number:g}" for number in numbers)
