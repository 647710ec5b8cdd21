"""The learning-rate range test: what becomes of the loss while the rate grows from next to nothing to too much."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data import DataSource
from ..errors import DataError, NotFinite, UsageError
from ..files.atomic import write_atomically
from .config import TrainConfig, all_settings, changed
from .feed import build_feed, naming_dead_workers
from .interrupt import Interrupt, leaving_passes
from .loop import starting_network
from .optim import build_optimiser, set_rates
from .run import asked_config, open_checked, settled
from .runlog import RunLog
from .runtime import Runtime, naming_lost_ranks
from .step import Objective, step_size, train_step

RANGE_TEST = "find-lr"
"""Name of what is left behind."""

SPAN = 1e4
"""The rates tried go from the recipe's ÷ this to the recipe's × this."""

SMOOTHING, EXPLODED = 0.9, 2.0
"""Weight of the past in the smoothed loss; times its lowest value at which the test ends."""


@dataclass(frozen=True)
class RateTest:
    """What a range test found.

    Attributes:
        rates: ``optim.rate`` of every step.
        losses: Its loss.
        smoothed: An average of the losses up to there, later ones counting more.
        suggestion: A tenth of the rate at which ``smoothed`` was lowest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float


@torch.random.fork_rng(devices=[])
def find_rate(
    data: str | Path | DataSource,
    out: str | Path,
    *,
    recipe: str = "modern",
    settings: Mapping[str, Any] | None = None,
    steps: int = 100,
    **named: Any,
) -> RateTest:
    """Train a few steps at growing rates, and leave ``find-lr.json`` and ``find-lr.png`` behind; no weights are kept.

    Args:
        data: As for :func:`fullconv.train`, and so on.
        out: Folder to create.
        recipe: See there.
        settings: See there.
        steps: How many rates to try, evenly on a logarithmic scale.
        named: See there.

    Raises:
        DataError: The data set is unusable.
        ModelError: A weight file, or a model to start from, cannot be used.
        NotFinite: The loss is not finite even at the lowest rate.
        UsageError: A setting is wrong, or the folder cannot be written, or matplotlib is not installed.

    Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    changes = all_settings(settings, named)
    if "epochs" in changes:
        raise UsageError("--find-lr takes a fixed number of steps: leave --epochs out")
    config = asked_config(recipe, changes)
    if config.stages or config.minutes is not None:
        raise UsageError("--find-lr tests the rate of one stage: give a recipe without stages, and no --time")
    figure = _figure()
    source, log = open_checked(data), RunLog.new(out)
    with naming_dead_workers(), naming_lost_ranks():
        found = range_test(source, settled(config), log, steps)
    log.write_json(f"{RANGE_TEST}.json", asdict(found))
    if log.writes:
        _draw(figure, found, config.optim.rate)
        write_atomically(log.folder / f"{RANGE_TEST}.png", lambda path: figure.savefig(path, format="png", dpi=120))
    return found


def range_test(source: DataSource, config: TrainConfig, log: RunLog, steps: int) -> RateTest:
    """Return the mean losses of steps at growing rates, up to where the loss explodes.

    Raises:
        DataError: An image cannot be read, or no pixel is labelled in all of them.
        ModelError: A weight file, or a model to start from, cannot be used.
        NotFinite: The loss is not finite even at the lowest rate.
        UsageError: The network cannot be built, or images cannot be fed to it.
    """
    model, runtime = starting_network(source, config, log), Runtime(config.optim.precision)
    runtime.prepare(model, config.optim.batch_norm)
    objective = Objective.of(source, config, runtime)
    optimiser = build_optimiser(model, config.optim)
    by_pixel = replace(objective, config=changed(config, {"optim.loss": "mean"}))
    rates, losses, smoothed = list[float](), list[float](), list[float]()
    feed = build_feed(source, config, runtime.rank, runtime.ranks)
    with leaving_passes(model, Interrupt()):
        for place, batches in zip(range(steps), feed.endless(), strict=False):
            factor = SPAN ** (2 * place / max(1, steps - 1) - 1)
            set_rates(optimiser, factor)
            try:
                loss = train_step(model, batches, optimiser, objective)
            except NotFinite:  # The end of the test, not an error.
                if not losses:
                    raise
                break
            if config.optim.loss == "sum":  # Of images of any size: by their pixels, they can be compared.
                loss /= sum(step_size(batches, by_pixel).divisors.values())
            if not loss:  # No pixel was labelled.
                continue
            losses.append(loss)
            rates.append(config.optim.rate * factor)
            smoothed.append(_average(losses))
            if smoothed[-1] > EXPLODED * min(smoothed):
                break
    if not rates:
        raise DataError(f"{source.root}: in {steps} steps no pixel was labelled; label more of the train split")
    return RateTest(tuple(rates), tuple(losses), tuple(smoothed), suggested(rates, smoothed))


def suggested(rates: Sequence[float], smoothed: Sequence[float]) -> float:
    """Return a tenth of the rate at which the loss was lowest, to two digits.

    >>> suggested([1e-4, 1e-3, 1.26e-2, 1e-1], [2.0, 1.5, 1.1, 3.0])
    0.0013
    """
    return float(f"{rates[smoothed.index(min(smoothed))] / 10:.1e}")


def _average(losses: Sequence[float]) -> float:
    weights = [SMOOTHING**age for age in range(len(losses))]
    return math.fsum(w * loss for w, loss in zip(weights, reversed(losses), strict=True)) / math.fsum(weights)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--find-lr draws a picture with matplotlib: pip install 'fullconv[plots]'") from error
    return Figure(figsize=(7, 4), layout="constrained")


def _draw(figure: Any, found: RateTest, used: float) -> None:
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="0.8", label="loss of a step")
    axes.plot(found.rates, found.smoothed, color="C0", label="smoothed")
    axes.axvline(found.suggestion, color="C2", label=f"suggested: {found.suggestion:g}")
    axes.axvline(used, color="C1", linestyle=":", label=f"the recipe's: {used:g}")
    lowest, start = min(found.smoothed), found.smoothed[0]
    axes.set(
        xscale="log", xlabel="optim.rate", ylabel="loss", ylim=(0.9 * min(lowest, start), 1.5 * max(lowest, start))
    )
    axes.legend()
