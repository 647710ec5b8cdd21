"""``train``: from a data set and settings to a run folder, begun or resumed, in one stage or several."""

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..data import DataSource, open_dataset
from ..doctor import refuse_bad
from ..errors import DataError, FullconvError, UsageError, out_of_memory
from ..inference import model_folder
from ..models.folder import read_config
from .budget import as_chosen, fitted
from .config import TrainConfig, all_settings, changed, load_config, recipe_names
from .events import summary_writer
from .feed import names_digest, naming_dead_workers, resolved
from .loop import fit
from .progress import precision_in_words, say
from .runlog import RunLog, TrainResult, is_run, starting_from, with_absolute_paths
from .runtime import Runtime, is_restarted, naming_lost_ranks
from .stages import check_networks, fit_stages, stage_configs

MANY_MASKS = 2000
"""From so many masks on, a line says that they are looked at."""

BROUGHT = ("trunk", "context")
"""Settings that come from the model a network starts from."""


@torch.random.fork_rng(devices=[])
def train(
    data: str | Path | DataSource | None = None,
    out: str | Path | None = None,
    *,
    recipe: str = "modern",
    settings: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    quiet: bool = False,
    **named: Any,
) -> TrainResult:
    """Train on a data set's ``train`` split and leave a run folder behind, and torch's CPU generator as it was.

    The best weights on the ``val`` split are kept in ``best/``; without scores, the last ones.

    Args:
        data: A data set folder, a ``dataset.yaml``, or an opened data set.
        out: Folder to create for the run.
        recipe: Name of a recipe, or a YAML file.
        settings: Dotted settings on top of it, such as ``{"optim.rate": 1e-3}``.
        resume: Instead of ``out``: a run to go on with from its newest checkpoint, or from its beginning where none
            was written yet; of one that is finished, what it ended with is returned. It knows its settings; ``data``
            is only needed where it has moved, or was an opened data set.
        quiet: Print nothing.
        named: The settings that have an option of their own: ``trunk``, ``trunk_weights``, ``epochs``, ``minutes``,
            ``seed``.

    Raises:
        DataError: The data set is unusable: what shows without decoding every image is said before the first step.
        UsageError: A setting is unknown or wrong, or the run folder cannot be written or resumed.
        ModelError: The trunk's weight file cannot be used, or the checkpoint is of another run.
        NotFinite: A loss, a gradient or a weight is no number; the last checkpoint stays.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state was saved.
    """
    began = time.monotonic()
    if resume is not None:
        if out is not None or recipe != "modern" or settings or any(value is not None for value in named.values()):
            raise UsageError(
                "--resume RUN knows its settings: give it alone, or with DATA where the data set has moved; what may "
                "change in a begun run, such as data.workers, is edited in its config.yaml"
            )
        return _resumed(data, resume, began, quiet)
    if data is None or out is None:
        raise UsageError(
            "give a data set and a folder for the run (DATA --out RUN), or a run to go on with (--resume RUN)"
        )
    changes = all_settings(settings, named)
    kept = RunLog(out).config() if is_restarted() and is_run(out) else None
    config = asked_config(recipe, changes, kept)
    _check_stages(config, changes)
    if kept is not None:
        return _run_again(data, config, kept, RunLog(out), began, quiet)
    source, log = open_checked(data, quiet=quiet), RunLog.new(out)
    config = settled(config, quiet=quiet)
    # What is wrong with a network or with what it would be fed is said before there is a run.
    remembered = _remembered(source, config)
    check_networks(source, config)
    with log.held():
        log.start(remembered, None if isinstance(data, DataSource) else data, names_digest(source, "train"))
        return _run(source, config, log, began, quiet)


def _resumed(data: str | Path | DataSource | None, run: str | Path, began: float, quiet: bool) -> TrainResult:
    log = RunLog.resumed(run)
    if result := log.result():
        say(f"{run}: this run is finished; to train on from its weights: {starting_from(run)}", quiet=quiet)
        return result
    source = open_checked(data if data is not None else log.data(), quiet=quiet)
    if data is not None and not isinstance(data, DataSource):
        log.moved_to = Path(data).resolve()
    _check_same_images(source, log)
    with log.held():
        return _run(source, settled(log.config(), quiet=quiet), log, began, quiet)


def _run_again(
    data: str | Path | DataSource, config: TrainConfig, kept: TrainConfig, log: RunLog, began: float, quiet: bool
) -> TrainResult:
    """Go on with a run after a rank had failed; where that was after its end, return what it ended with.

    Raises:
        UsageError: It is another run, with other settings or on other data.
    """
    source = open_checked(data, quiet=quiet)
    if config.minutes is not None and kept.minutes is None:
        config = as_chosen(config, kept)
    if config.optim.precision == "auto":  # Here it may be another.
        config = changed(config, {"optim.precision": kept.optim.precision})
    same = with_absolute_paths(_remembered(source, config)) == kept
    if not same or not (isinstance(data, DataSource) or log.data() == Path(data).resolve()):
        raise UsageError(f"{log.folder}: holds another run; choose another --out, or remove it first")
    _check_same_images(source, log)
    with log.held():
        return _run(source, kept, log, began, quiet)


def _check_same_images(source: DataSource, log: RunLog) -> None:
    """Refuse to go on with other images: it might be with what was held out.

    Raises:
        DataError: They have other names, or another order.
    """
    if log.images_digest() not in (None, names_digest(source, "train")):
        raise DataError(
            f"{source.root}: its images to train on are not those that {log.folder} was begun on; resume it on its own "
            f"data set, as it was, or start another run from this one's weights (model.init)"
        )


def asked_config(recipe: str, changes: Mapping[str, Any], kept: TrainConfig | None = None) -> TrainConfig:
    """Return the configuration that was asked for; where a model to start from is named, with its trunk and context.

    What the caller sets, or a recipe file of the caller's names, comes before those.

    Args:
        recipe: As for :func:`train`.
        changes: Dotted settings.
        kept: What the run remembers, if it has begun: the model that it started from may be gone.

    Raises:
        UsageError: A setting is unknown or wrong.
        ModelError: There is no such model.
    """
    config = load_config(recipe, changes)
    if config.model.init is None:
        return config
    told = {name for name in BROUGHT if f"model.{name}" in changes}
    if recipe not in recipe_names():
        told |= config.model.model_fields_set
    saved = read_config(model_folder(config.model.init))[0] if kept is None else kept.model
    return changed(config, {f"model.{name}": getattr(saved, name) for name in BROUGHT if name not in told})


def settled(config: TrainConfig, *, quiet: bool = False) -> TrainConfig:
    """Return a configuration with the precision of the whole run, and say why it is that. Collective.

    Raises:
        FullconvError: Another rank has ended.
    """
    asked = config.optim.precision
    with naming_lost_ranks():
        runtime = Runtime(asked)
    say(*precision_in_words(asked, runtime), quiet=quiet)
    return changed(config, {"optim.precision": runtime.precision})


def _check_stages(config: TrainConfig, changes: Mapping[str, Any]) -> None:
    """Check all stages before the first begins, and that what the caller set has an effect in one of them."""
    stage_configs(config)
    for name in changes:
        if config.stages and all(name in stage for stage in config.stages):
            raise UsageError(
                f"every stage of recipe {config.recipe} has its own {name}: set stages=[{{{name}: …}}, …], or copy the "
                f"recipe and change it there"
            )


def _remembered(source: DataSource, config: TrainConfig) -> TrainConfig:
    """Check that every stage can be fed and logged, and return the settings that ``config.yaml`` is to hold.

    They are those that ``auto`` stands for, unless there are stages, or a time is yet to choose.

    Raises:
        UsageError: The ranks cannot share the steps of a stage, or TensorBoard is asked for and not installed.
    """
    runtime = Runtime()
    stages = [resolved(source, stage, runtime.rank, runtime.ranks) for stage in stage_configs(config)]
    if any(stage.tensorboard for stage in stages):
        summary_writer()
    return config if config.stages or config.minutes is not None else stages[0]


def open_checked(data: str | Path | DataSource, *, quiet: bool = False) -> DataSource:
    """Return a data set whose masks and images have passed the cheap checks.

    Raises:
        DataError: A mask or an image is unusable, or a task has a single class.
    """
    source = data if isinstance(data, DataSource) else open_dataset(data)
    for task, part in source.tasks.items():
        if part.labels.num_classes == 1:
            raise DataError(
                f"{part.table.where}: the task {task} has the one class {part.labels.names[0]!r}, so there is nothing "
                f"to tell apart; name what else there is, such as background"
            )
    splits = ["train", *(["val"] if "val" in source.splits else [])]
    if (masks := sum(len(source.records(split)) for split in splits)) >= MANY_MASKS:
        say(f"looking at {masks} masks", quiet=quiet)
    refuse_bad(source, splits)
    return source


@contextmanager
def _freeing_what_errors_hold() -> Iterator[None]:
    """Free the network, the images and the workers of a run that ends in the block: notebooks keep the last error."""
    try:
        yield
    except BaseException as error:
        # Of a bug of ours, the frames tell more.
        expected = isinstance(error, (FullconvError, KeyboardInterrupt)) or out_of_memory(error)
        cause: BaseException | None = error if expected else None
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        raise


def _run(source: DataSource, config: TrainConfig, log: RunLog, began: float, quiet: bool) -> TrainResult:
    if result := log.result():  # It ended while this process waited for it, or looked at the data.
        return result
    with _freeing_what_errors_hold(), naming_dead_workers(), naming_lost_ranks():
        if config.minutes is not None:
            config = fitted(source, config, config.minutes, log.folder, began=began, quiet=quiet)
            log.remember(_remembered(source, config))
        if config.stages:
            return fit_stages(source, config, log, quiet=quiet)
        return fit(source, config, log, quiet=quiet)
