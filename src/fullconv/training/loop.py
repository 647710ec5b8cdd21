"""Training: read :func:`fit` for the loop; one step of it is in ``step.py``."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Int64

from ..data import DataSource
from ..errors import DataError, FullconvError, ModelError
from ..evaluation import confusion
from ..inference import Predictor
from ..metrics import METRICS, Scores
from ..models import FCN
from .config import TrainConfig, changed
from .events import Events
from .feed import Feed, build_feed, names_digest
from .interrupt import Abandoned, interruptible, leaving_passes
from .network import build_model, initialised, without_fresh_layer_warning
from .progress import (
    TrainingProgress,
    describe,
    describe_data,
    nothing_to_score,
    one_class_only,
    say,
    taken_over,
)
from .runlog import CONFIG, TRANSPLANT, RunLog, TrainResult
from .runtime import Runtime
from .state import EPOCH_END_MINUTES, Clock, Session, TrainState, check_weights, mean_loss
from .step import Objective, train_step


def fit(source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> TrainResult:
    """Train a network as ``config`` says, from the newest checkpoint in ``log``; everything that is kept goes there.

    Raises:
        UsageError: The network cannot be built, or what is to be kept cannot be written.
        ModelError: What the network is to start from, or a checkpoint, cannot be used.
        DataError: An image cannot be read or scored.
        NotFinite: A loss, a gradient or a weight is no number.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state was saved.
    """
    model = starting_network(source, config, log, quiet=quiet)
    clock, runtime = Clock(), Runtime(config.optim.precision)
    runtime.prepare(model, config.optim.batch_norm)
    feed = build_feed(source, config, runtime.rank, runtime.ranks)
    objective = Objective.of(source, config, runtime)
    scored_on = f"{feed.evaluations} times {names_digest(source, 'val')}"
    state = TrainState(model, config, feed.steps_an_epoch, feed.total_steps, runtime, scored_on)
    clock.past = state.go_on_from(log.checkpoints)
    check_same_step(state, runtime)
    log.rewrite(state.records)
    events = Events(log.folder, len(state.records) + 1) if config.tensorboard and log.writes else None
    progress = TrainingProgress(state, quiet=quiet)
    progress.say(*log.note_environment())
    progress.say(*describe(model, source, feed, config, runtime, begun=state.step > 0))
    progress.say(*describe_data(source, objective.class_weights, config.optim.balance))
    with (
        progress.running(),
        closing(events) if events else nullcontext(),
        interruptible() as interrupt,
        nullcontext() if runtime.lockstep else leaving_passes(model, interrupt),
    ):
        session = Session(state, log, clock, runtime, interrupt)
        while not state.finished:
            for batches in feed.steps(state.epoch, len(state.losses), session.leaves_steps):
                runtime.seed(config.seed, state.step)
                with suppress(Abandoned):
                    state.advance(train_step(model, batches, state.optimiser, objective))
                    progress.step(feed.sampler.images_a_step, runtime.memory())
                session.stop_if_asked()
                session.keep_if_due(config.checkpoint_minutes)
            end_epoch(session, source, feed)
            if events:
                rate = max(group["lr"] for group in state.optimiser.param_groups)
                events.epoch(state.records[-1], rate, state.average.model, source)
            progress.epoch(state.records[-1], feed.last_epoch)
            session.stop_if_asked()
    if state.best is None:
        log.save(state.average.model, "best")
    scores = None if state.best is None else Scores.from_confusion(state.best, source.labels.names)
    result = TrainResult(log.folder, scores, state.steps / state.steps_an_epoch, clock.seconds)
    log.finish(result)
    runtime.wait()
    return result


def starting_network(source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> FCN:
    """Return the network to train, and leave a report of what it took over from ``model.init``.

    Where the files are gone that it started from, but a checkpoint is there, it comes without their weights.

    Raises:
        UsageError: It cannot be built, or the report cannot be written.
        ModelError: What it is to start from cannot be used.
        DataError: An image cannot be read.
    """
    try:
        # Checkpoints hold what a file of weights lacks.
        with without_fresh_layer_warning() if log.checkpoints.exist() else nullcontext():
            model, report = initialised(source, config)
    except FullconvError:
        if log.checkpoints.latest() is None:
            raise
        return build_model(source, changed(config, {"model.trunk_weights": None}))
    if report is not None and not log.checkpoints.exist():
        log.write_json(TRANSPLANT, {"from": config.model.init} | asdict(report))
        say(*taken_over(report, str(config.model.init)), quiet=quiet)
    return model


def check_same_step(state: TrainState, runtime: Runtime) -> None:
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
        NotFinite: An averaged weight is not finite.
        DataError: An image cannot be scored.
        UsageError: What is to be kept cannot be written.
        Interrupted: A signal came while it was scored or saved; it will be scored again.
    """
    state, log, runtime = session.state, session.log, session.runtime
    model, names = state.average.model, source.labels.names
    scores, warnings = None, list[str]()
    runtime.align(model)
    if feed.evaluates(state.epoch):
        session.keep()
    elif not session.keep_if_due(EPOCH_END_MINUTES):
        check_weights(model.state_dict().values(), runtime)
    session.stop_if_asked()
    # A signal while it is scored has nothing more to write: the state was kept; the resumed run scores again.
    if feed.evaluates(state.epoch):
        scores, warnings = score(session, source)
    log.save(model, "last")
    session.stop_if_asked()
    record = epoch_record(state, scores, session.clock.seconds)
    if scores is not None:
        warnings += one_class_only([*state.records, record], names)
    if warnings := [*warnings, *state.dead_scores]:
        record["warnings"] = warnings
    state.close_epoch(record)
    log.rewrite(state.records)


def score(session: Session, source: DataSource) -> tuple[Scores | None, list[str]]:
    """Score the averaged network, and save it if it is the best so far; without a labelled pixel return None, and why.

    Raises:
        DataError: An image cannot be scored.
        Interrupted: A signal came.
    """
    state, names = session.state, source.labels.names
    matrix = validate(session, source)
    session.stop_if_asked()
    if warnings := nothing_to_score(matrix):
        return None, warnings
    scores = Scores.from_confusion(matrix, names)
    if state.best is None or scores.mean_iu >= Scores.from_confusion(state.best, names).mean_iu:
        state.best = matrix
        session.log.save(state.average.model, "best")
        session.stop_if_asked()
    return scores, []


def epoch_record(state: TrainState, scores: Scores | None, seconds: float) -> dict[str, Any]:
    """Return the log line of the epoch in progress; ``predicted`` are the classes that occur in any prediction."""
    record: dict[str, Any] = {"epoch": state.epoch, "loss": mean_loss(state.losses), "seconds": round(seconds, 1)}
    if scores is not None:
        record |= {name: scores[name] for name in METRICS}
        record["predicted"] = scores.confusion.sum(0).nonzero().flatten().tolist()
    return record


def validate(session: Session, source: DataSource) -> Int64[torch.Tensor, "k k"]:
    """Return the confusion matrix [truth, prediction] of the averaged network on ``val``, whose images the ranks share.

    It ends early when a signal comes.

    Raises:
        DataError: An image cannot be read, or is too large for the memory.
    """
    model, runtime, interrupt = session.state.average.model, session.runtime, session.interrupt
    mine = takewhile(lambda _: not interrupt.number, source.records("val")[runtime.rank :: runtime.ranks])
    with suggesting_no_evaluations(session.log):
        matrix = confusion(Predictor(model, device=runtime.device), map(source.read_sample, mine))
    return runtime.summed(matrix)


@contextmanager
def suggesting_no_evaluations(log: RunLog) -> Iterator[None]:
    """Say how to do without scores where an image of the validation split cannot be scored.

    Raises:
        DataError: A validation image cannot be scored.
    """
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error}; or do without scores of the val split: evaluations: 0 in {log.run / CONFIG}, and then "
            f"{log.going_on()}"
        ) from error
