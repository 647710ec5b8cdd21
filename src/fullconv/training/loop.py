"""Training: read :func:`fit` for the loop; one step of it is in ``step.py``."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64

from ..data import DataSource
from ..errors import DataError, ModelError
from ..evaluation import confusion
from ..inference import Predictor
from ..metrics import Scores
from .config import TrainConfig
from .events import Events
from .feed import Feed, build_feed
from .interrupt import Abandoned, Interrupt, interruptible, leaving_passes
from .network import class_pixels, starting_network, tasks
from .progress import TrainingProgress
from .runlog import COLUMNS, CONFIG, SUMMARY, RunLog, resuming
from .runtime import Runtime
from .state import TrainState, check_weights, mean_loss
from .step import Objective, train_step
from .words import (
    balance_in_words,
    describe,
    describe_epoch,
    never_seen,
    nothing_to_score,
    one_class_only,
    trained_and_scored,
)

RARELY = 0.5
"""Minutes between two times that the state is kept only because an epoch ends: those of few images are short."""


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        run: The run folder; it stands for its best model wherever a model is asked for.
        scores: Best scores on the validation split; None where there is none.
        epochs: Passes over the training images.
        seconds: Wall-clock time of training: from where the data set and the network are ready.
    """

    run: Path
    scores: Scores | None
    epochs: float
    seconds: float


class Clock:
    """Time spent on a run, also by the processes before this one.

    Attributes:
        past: Seconds before this process.
    """

    def __init__(self) -> None:
        self.past = 0.0
        self._start = self._kept = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent so far."""
        return self.past + time.monotonic() - self._start

    def due(self, minutes: float) -> bool:
        """Return whether that much time has passed since the state was last kept, or since the start."""
        return time.monotonic() - self._kept >= 60 * minutes

    def kept(self) -> None:
        """Note that the state was kept."""
        self._kept = time.monotonic()


@dataclass(frozen=True)
class Session:
    """A run in progress, where it is kept, and what may end it."""

    state: TrainState
    log: RunLog
    clock: Clock
    runtime: Runtime
    interrupt: Interrupt

    def keep(self) -> None:
        """Write the state from which ``--resume`` goes on, unless it was written as it is; all ranks must ask for it.

        Raises:
            NotFinite: Weights are not.
            UsageError: It cannot be written.
        """
        if self.state.kept != self.state.place:
            self.log.write_checkpoint(self.state.checkpoint(self.clock.seconds))
            self.state.kept = self.state.place
            self.clock.kept()

    def keep_if_due(self, minutes: float) -> bool:
        """Keep the state if that was last done so long ago, and return whether it was."""
        due = bool(self.runtime.largest(self.log.writes and self.clock.due(minutes)))
        if due:
            self.keep()
        return due

    def stop_if_asked(self) -> None:
        """End the run, with its state saved, if a signal came to any rank.

        Raises:
            Interrupted: One did.
        """
        # One that comes to this rank meanwhile stays noted, for the next time.
        if number := self.runtime.largest(self.interrupt.number):
            self.interrupt.number = number
            self.keep()
            self.runtime.wait()  # Once a rank has ended, torchrun ends the others, also one that is still writing.
            self.interrupt.stop(resuming(self.log.run))


def fit(source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> TrainResult:
    """Train a network as ``config`` says, from the newest checkpoint in ``log``; everything that is kept goes there.

    Raises:
        UsageError: The network cannot be built, or what is to be kept cannot be written.
        ModelError: What the network is to start from, or a checkpoint, cannot be used.
        DataError: An image cannot be read or scored.
        NotFinite: A loss, a gradient or a weight is no number.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    model = starting_network(source, config, log, quiet=quiet)
    clock, runtime = Clock(), Runtime(config.optim.precision)
    runtime.prepare(model, config.optim.batch_norm)
    feed = build_feed(source, config, runtime.rank, runtime.ranks)
    pixels = class_pixels(source)
    objective = Objective.of(pixels, config, runtime)
    state = TrainState(model, config, feed.steps_an_epoch, feed.total_steps, runtime)
    clock.past = state.go_on_from(log.checkpoints)
    if not feed.evaluations:
        state.best = None  # Of before the split was no longer to be scored.
    same_step(state, runtime)
    log.rewrite(state.records)
    events = Events(log.folder, len(state.records) + 1) if config.tensorboard and log.writes else None
    progress = TrainingProgress(state.steps, done=state.step, quiet=quiet)
    progress.say(*describe(model, source, feed, config, runtime, begun=state.step > 0))
    progress.say(*trained_and_scored(source))
    for task, part in tasks(source).items():
        progress.say(*never_seen(pixels[task], part.labels.names))
        progress.say(*balance_in_words(objective.class_weights[task].tolist(), part.labels.names, config.optim.balance))
    with (
        progress.running(),
        interruptible() as interrupt,
        nullcontext() if runtime.lockstep else leaving_passes(model, interrupt),
    ):
        session = Session(state, log, clock, runtime, interrupt)
        while not state.finished:
            for batches in feed.steps(state.epoch, len(state.losses)):
                runtime.seed(config.seed, state.step)
                with suppress(Abandoned):
                    state.advance(train_step(model, batches, state.optimiser, objective))
                    progress.step(state, feed.batches.images_a_step, runtime.memory())
                session.stop_if_asked()
                session.keep_if_due(config.checkpoint_minutes)
            end_epoch(session, source, feed)
            if events:
                show_epoch(events, state, source, runtime)
            progress.say(*describe_epoch(state.records[-1], feed.last_epoch))
            session.stop_if_asked()
    if state.best is None:
        log.save(state.average.model, "best")
    scores = None if state.best is None else Scores.from_confusion(state.best, source.labels.names)
    result = TrainResult(log.folder, scores, state.steps / state.steps_an_epoch, clock.seconds)
    log.finish(summary(result))
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


def end_epoch(session: Session, source: DataSource, feed: Feed) -> None:
    """Score the averaged network where it is time to, save it, and write the epoch's line.

    The state is kept before, if it was not just now: nothing is lost where the rest fails, and a signal waits for one
    file.

    Raises:
        NotFinite: Its weights are not.
        DataError: An image cannot be scored.
        Interrupted: A signal came while it was scored or saved; it will be scored again.
    """
    state, log, runtime = session.state, session.log, session.runtime
    model, names, matrix, warnings = state.average.model, source.labels.names, None, list[str]()
    runtime.align(model)
    if feed.evaluates(state.epoch):
        session.keep()
    elif not session.keep_if_due(RARELY):
        check_weights(model.state_dict().values(), runtime)
    session.stop_if_asked()
    # A signal from here on has nothing more to write: the state was kept, and its successor will score again.
    if feed.evaluates(state.epoch):
        matrix, warnings = score(session, source)
    log.save(model, "last")
    session.stop_if_asked()
    record = epoch_record(state, names, matrix, session.clock.seconds)
    if matrix is not None:
        warnings += one_class_only([*state.records, record], names)
    if warnings := [*warnings, *state.dead_scores]:
        record["warnings"] = warnings
    state.close_epoch(record)
    log.rewrite(state.records)


def score(session: Session, source: DataSource) -> tuple[Int64[torch.Tensor, "k k"] | None, list[str]]:
    """Score the averaged network, save it if it is the best, and return its histogram; None, and why, if it has none.

    Raises:
        DataError: An image cannot be scored.
        Interrupted: A signal came.
    """
    state, names = session.state, source.labels.names
    matrix = validate(session, source)
    session.stop_if_asked()
    if warnings := nothing_to_score(matrix):
        return None, warnings
    if state.best is None or mean_iu(matrix, names) >= mean_iu(state.best, names):
        state.best = matrix
        session.log.save(state.average.model, "best")
        session.stop_if_asked()
    return matrix, []


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


def validate(session: Session, source: DataSource) -> Int64[torch.Tensor, "k k"]:
    """Return the histogram [truth, prediction] of the averaged network on ``val``, whose images the ranks share.

    It ends early when a signal comes.

    Raises:
        DataError: An image cannot be read, or is too large for the memory.
    """
    model, runtime, interrupt = session.state.average.model, session.runtime, session.interrupt
    samples = source.dataset("val")
    mine = takewhile(lambda _: not interrupt.number, range(runtime.rank, len(samples), runtime.ranks))
    with saying_how_to_do_without(session.log.run):
        matrix = confusion(Predictor(model, device=runtime.device), (samples[index] for index in mine))
    return runtime.summed(matrix)


@contextmanager
def saying_how_to_do_without(run: Path) -> Iterator[None]:
    """Say how to do without scores where an image of the validation split cannot be scored.

    Raises:
        DataError: It cannot.
    """
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error}; or do without scores of the val split: evaluations: 0 in {run / CONFIG}, and then "
            f"{resuming(run)}"
        ) from error


def summary(result: TrainResult) -> dict[str, Any]:
    """Return what a run writes at its end, in plain values."""
    return {
        "seconds": result.seconds,
        "epochs": result.epochs,
        "scores": result.scores.to_dict() if result.scores else None,
        "confusion": result.scores.confusion.tolist() if result.scores else None,
    }


def finished(log: RunLog, source: DataSource) -> TrainResult | None:
    """Return what a finished run ended with; None where it is not finished."""
    if not (log.folder / SUMMARY).is_file():
        return None
    log.clear()
    summary = json.loads((log.folder / SUMMARY).read_text())
    matrix = summary["confusion"]
    scores = Scores.from_confusion(torch.tensor(matrix), source.labels.names) if matrix else None
    return TrainResult(log.folder, scores, summary["epochs"], summary["seconds"])
