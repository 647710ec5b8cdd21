"""How many epochs fit into a time: measured, not guessed."""

import copy
import tempfile
import time

import torch

from ..data import DataSource
from ..evaluation import confusion
from ..inference import Predictor
from ..models import FCN
from .config import TrainConfig
from .feed import build_feed
from .interrupt import Interrupt, leaving_passes
from .loop import class_pixels, task_weights, train_step
from .optim import build_optimiser
from .runlog import RunLog
from .runtime import Runtime

TRIAL, LEAST = 0.02, 11
"""Share of the time that trial steps may take, and how many of them are taken even if they take longer …"""

LONGEST, FEWEST = 0.15, 3
"""… up to this share, but for so many."""

MARGIN = 0.95
"""Share of the time that is planned for; the rest is for what was not measured."""


def epochs_within(seconds: float, model: FCN, source: DataSource, config: TrainConfig) -> float:
    """Return how many epochs, with all that ends one, take at most ``seconds``: in hundredths, at least one of them.

    A copy of the network takes some steps on real batches, of which the second half counts: the first are slower. It
    also predicts a few images, and is written once. The network, and torch's generator, are left as they were.

    Args:
        seconds: Wall-clock time for the whole run, from now; where none is left, next to nothing fits.
        model: The network to be trained.
        source: The data set.
        config: How it will be trained.
    """
    start, runtime = time.monotonic(), Runtime(config.optim.precision)
    gpus = [] if runtime.device.type == "cpu" else [runtime.device]
    with torch.random.fork_rng(gpus):
        trial = copy.deepcopy(model)
        runtime.prepare(trial, config.optim.batch_norm)
        before = time.monotonic()
        weights = task_weights(class_pixels(source), config, runtime)
        feed = build_feed(source, config, runtime.rank, runtime.ranks)
        again = time.monotonic() - before  # The run will look at all masks once more.
        optimiser = build_optimiser(trial, config.optim)
        times, before = [], time.monotonic()
        with leaving_passes(trial, Interrupt()):
            for batches in feed.endless():
                train_step(trial, batches, optimiser, config, runtime, weights)
                times.append(time.monotonic() - before)
                before = time.monotonic()
                spent = before - start
                enough = len(times) >= LEAST and spent > TRIAL * seconds
                if runtime.largest(enough or (len(times) >= FEWEST and spent > LONGEST * seconds)):
                    break
        measured = sorted(times[len(times) // 2 :])
        saving = _saving_seconds(trial)
        epoch = feed.steps_an_epoch * measured[len(measured) // 2] + saving
        evaluation = saving + _evaluation_seconds(trial, source) / runtime.ranks if "val" in source.splits else 0.0
    left = MARGIN * (seconds - again - (time.monotonic() - start))
    # Up to so many epochs, each begun one ends with an evaluation; more have no more of them.
    few = [min(number, (left - number * evaluation) / epoch) for number in range(1, config.evaluations)]
    epochs = max(*few, (left - config.evaluations * evaluation) / epoch, 0.01)
    # The slowest rank decides.
    return -runtime.largest(-int(100 * epochs)) / 100


def _saving_seconds(model: FCN) -> float:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(folder)
        log.save(model, "last")
        log.rewrite([{}])
    return time.monotonic() - start


def _evaluation_seconds(model: FCN, source: DataSource) -> float:
    records, predictor = source.records("val"), Predictor(model)
    few = records[:: max(1, len(records) // 4)][:4]
    start = time.monotonic()
    confusion(predictor, (source.read_sample(record) for record in few))
    model.train()
    return (time.monotonic() - start) / len(few) * len(records)
