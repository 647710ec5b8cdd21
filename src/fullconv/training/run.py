"""``train``: from a data set and settings to a run folder, begun or resumed, in one stage or several."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import DataSource, open_dataset
from ..doctor import refuse_bad
from ..errors import UsageError
from ..inference import model_folder
from ..models.folder import read_config
from .budget import epochs_within
from .config import TrainConfig, all_settings, changed, load_config
from .events import summary_writer
from .feed import build_feed, input_scale, resolved
from .loop import TrainResult, fit
from .network import build_model
from .progress import TrainingProgress
from .runlog import RunLog, is_run, with_absolute_paths
from .runtime import Runtime, is_first, is_restarted
from .stages import check_networks, finished, fit_stages, stage_configs, started

ENOUGH = 1 / 3
"""The share of the derived epochs from which enlarged images are worth their time (measured: docs/results.md)."""


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
    """Train a network on a data set's ``train`` split and leave a run folder behind.

    The best weights on the ``val`` split are kept in ``best/``; without such a split, the last ones.

    Args:
        data: A data set folder, a ``dataset.yaml``, or an opened data set.
        out: Folder to create for the run.
        recipe: Name of a recipe, or a YAML file.
        settings: Dotted settings on top of it, such as ``{"optim.rate": 1e-3}``.
        resume: Instead of ``out``: a run to go on with from its newest checkpoint, or from its beginning where none
            was written yet. It knows its settings; ``data`` is only needed where it was an opened data set.
        quiet: Print nothing.
        named: The settings that have an option of their own: ``trunk``, ``trunk_weights``, ``epochs``, ``minutes``,
            ``seed``.

    Raises:
        DataError: The data set is unusable: what shows without decoding every image is said before the first step.
        UsageError: A setting is unknown or wrong, or the run folder cannot be written or resumed.
        ModelError: The trunk's weight file cannot be used, or the checkpoint is of another run.
        NotFinite: A loss, a gradient or a weight is no number; the last checkpoint stays.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    if resume is not None:
        if out is not None or recipe != "modern" or settings or any(value is not None for value in named.values()):
            raise UsageError("a resumed run has its settings already: give resume (and data, if need be) alone")
        log = RunLog.begun(resume) if is_restarted() and is_run(resume) else RunLog.resumed(resume)
        source = opened(data if data is not None else log.data())
        return _run(source, log.config(), log, quiet)
    if data is None or out is None:
        raise UsageError("give a data set and the folder of the run, or resume")
    changes = all_settings(settings, named)
    config = asked(recipe, changes)
    _check_stages(config, changes)
    if is_restarted() and is_run(out):
        return _run_again(data, config, RunLog.begun(out), quiet)
    source, log = opened(data), RunLog(out)
    if config.minutes is not None:
        config = _fitted(config, source, config.minutes, quiet)
    # What is wrong with a network or with what it would be fed is said before there is a run.
    kept = _resolved(config, source)
    path = None if isinstance(data, DataSource) else data
    if config.stages:
        check_networks(source, config)
        log.start(kept, path)
        return fit_stages(source, config, log, quiet=quiet)
    model = started(source, config, log, quiet=quiet)
    log.start(kept, path)
    return fit(model, source, config, log, quiet=quiet)


def _run_again(data: str | Path | DataSource, config: TrainConfig, log: RunLog, quiet: bool) -> TrainResult:
    """Go on with a run after a rank had failed; where that was after its end, return what it ended with.

    Raises:
        UsageError: It is another run, with other settings or on other data.
    """
    kept, source = log.config(), opened(data)
    if config.minutes is not None:  # Which have chosen these.
        chosen = {"epochs": kept.epochs, "model.input_scale": kept.model.input_scale}
        config = changed(config, {"minutes": None} | chosen)
    same = with_absolute_paths(_resolved(config, source)) == kept
    if not same or not (isinstance(data, DataSource) or log.data() == Path(data).resolve()):
        raise UsageError(f"{log.folder}: holds another run; choose another --out, or remove it first")
    return _run(source, kept, log, quiet)


def asked(recipe: str, changes: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration that was asked for; where a model to start from is named and no trunk, with its trunk.

    Raises:
        UsageError: A setting is unknown or wrong.
        ModelError: There is no such model.
    """
    config = load_config(recipe, changes)
    if config.model.init is None or "trunk" in config.model.model_fields_set:
        return config
    saved, _ = read_config(model_folder(config.model.init))
    return changed(config, {"model.trunk": saved.trunk})


def _check_stages(config: TrainConfig, changes: Mapping[str, Any]) -> None:
    """Check all stages before the first begins, and that what the caller set has an effect in one of them."""
    stage_configs(config)
    for name in changes:
        if config.stages and all(name in stage for stage in config.stages):
            raise UsageError(
                f"every stage of recipe {config.recipe} has its own {name}: set stages=[{{{name}: …}}, …], or copy the "
                f"recipe and change it there"
            )


def _resolved(config: TrainConfig, source: DataSource) -> TrainConfig:
    """Return what a run is to remember of its configuration: what ``auto`` stands for; stages remember each their own.

    Raises:
        UsageError: The ranks cannot share the steps of a stage, or TensorBoard is asked for and not installed.
    """
    runtime = Runtime(config.optim.precision)
    stages = [resolved(stage, source, runtime.rank, runtime.ranks) for stage in stage_configs(config) or [config]]
    if any(stage.tensorboard for stage in stages):
        summary_writer()
    return config if config.stages else stages[0]


def opened(data: str | Path | DataSource) -> DataSource:
    """Return a data set whose masks and images have passed the cheap checks.

    Raises:
        DataError: They have not.
    """
    source = data if isinstance(data, DataSource) else open_dataset(data)
    refuse_bad(source, ["train", *(["val"] if "val" in source.splits else [])])
    return source


def _fitted(config: TrainConfig, source: DataSource, minutes: float, quiet: bool) -> TrainConfig:
    """Return the configuration with as many epochs as fit into the time, and say how many that are."""
    if config.stages or config.epochs != "auto":
        raise UsageError(
            "minutes (--time) chooses the epochs of one stage: leave out epochs, and give a recipe without stages"
        )
    start, said = time.monotonic(), []
    epochs = _epochs_within(60 * minutes, source, config)
    derived, larger = build_feed(source, config).epochs, input_scale(config, source)
    if config.model.input_scale == "auto" and larger > 1 and epochs < ENOUGH * derived:
        said.append(
            f"images are not enlarged: {minutes:g} minutes hold {epochs:g} epochs of them {larger:g} times as large, "
            f"less than a third of {derived:g}"
        )
        config = changed(config, {"model.input_scale": 1})
        epochs = _epochs_within(60 * minutes - (time.monotonic() - start), source, config)
    line = f"{minutes:g} minutes hold {epochs:g} epochs, by trial steps"
    said.append(line if epochs >= 1 else f"warning: {line}: not every image will be seen")
    TrainingProgress(0, quiet=quiet or not is_first()).say(*said)
    return changed(config, {"epochs": epochs, "minutes": None})


def _epochs_within(seconds: float, source: DataSource, config: TrainConfig) -> float:
    torch.manual_seed(config.seed)
    return epochs_within(seconds, build_model(config, source), source, config)


def _run(source: DataSource, config: TrainConfig, log: RunLog, quiet: bool) -> TrainResult:
    if result := finished(log, source):
        return result
    if config.stages:
        return fit_stages(source, config, log, quiet=quiet)
    return fit(started(source, config, log, quiet=quiet), source, config, log, quiet=quiet)
