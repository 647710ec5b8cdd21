"""Stages: a recipe such as FCN-32s → 16s → 8s as one run, each stage starting from the weights of the one before."""

import json
from dataclasses import asdict

import torch

from ..data import DataSource
from ..errors import FullconvError, UsageError
from ..inference import model_folder
from ..metrics import Scores
from ..models import FCN, StartReport, start_from
from .config import TrainConfig, changed
from .feed import resolved
from .loop import TrainResult, fit
from .network import build_model
from .progress import TrainingProgress
from .runlog import SUMMARY, TRANSPLANT, RunLog
from .words import taken_over


def stage_configs(config: TrainConfig) -> list[TrainConfig]:
    """Return the configuration of every stage; a later one that names no ``model.init`` goes on from the one before.

    Raises:
        UsageError: A stage has an unknown setting, a wrong value, what only a whole run can have, or what the stage
            before decides.
    """
    configs = list[TrainConfig]()
    for number, changes in enumerate(config.stages, start=1):
        if wrong := {"stages", "minutes", "recipe"} & changes.keys():
            raise UsageError(f"stages: {min(wrong)} is for the whole run, not for one stage of it")
        # What the run starts from is for the first.
        start = {} if number == 1 else {"model.init": None, "model.trunk_weights": None}
        stage = changed(config, {"stages": (), "minutes": None, **start, **changes})
        if number > 1 and stage.model.init is None:
            _check_goes_on(stage, configs[-1], number)
        configs.append(stage)
    return configs


def _check_goes_on(stage: TrainConfig, before: TrainConfig, number: int) -> None:
    ours, theirs = stage.model, before.model
    same = ours.trunk == theirs.trunk and ours.normalisation == theirs.normalisation
    if not same or ours.trunk_weights is not None:
        raise UsageError(
            f"stages: number {number} starts from the network of the stage before, with its trunk, weights and "
            f"normalisation: leave model.trunk, model.trunk_weights and model.normalisation out, or give model.init"
        )


def fit_stages(source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> TrainResult:
    """Train the stages of ``config`` one after the other; the last one's models become the run's.

    Every stage is a run folder of its own inside the run, with its report of what was taken over and what is new. A
    stage that is finished is not repeated, one that has begun is resumed.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the state was saved.

    Source: Long, Shelhamer & Darrell 2015, section 4.2: finer nets start from the coarser one, at a lower rate.
    """
    seconds, epochs, result = 0.0, 0.0, None
    for number, stage in enumerate(stage_configs(config), start=1):
        if result is not None and stage.model.init is None:
            stage = changed(stage, {"model.init": str(result.run)})
        folder = log.folder / f"stage-{number}-{stage.model.finest_stride}s"
        stage_log = log.stage(folder, resolved(stage, source))
        result = finished(stage_log, source)
        if result is None:
            result = fit(started(source, stage, stage_log, quiet=quiet), source, stage, stage_log, quiet=quiet)
        seconds, epochs = seconds + result.seconds, epochs + result.epochs
    assert result is not None
    for name in ("best", "last"):
        log.save(FCN.from_pretrained(result.run / name), name)
    log.finish(json.loads((result.run / SUMMARY).read_text()) | {"seconds": seconds, "epochs": epochs})
    return TrainResult(log.folder, result.scores, epochs, seconds)


def check_networks(source: DataSource, config: TrainConfig) -> None:
    """Build the network of a run, or of every stage, once, to find what is wrong with one before any is trained.

    Raises:
        UsageError: One cannot be built.
        ModelError: A weight file or a model to start from cannot be used.
    """
    for stage in stage_configs(config) or [config]:
        _started(source, stage)


def started(source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> FCN:
    """Return the network to train, and leave a report of what it took over from ``model.init``.

    Where the files are gone that it started from, but a checkpoint is there, it comes without their weights.
    """
    try:
        model, report = _started(source, config)
    except FullconvError:
        checkpoint = log.checkpoints.latest()
        if checkpoint is None:
            raise
        model = build_model(changed(config, {"model.trunk_weights": None}), source)
        mean, std = checkpoint.facts["normalisation"]  # Without weights, a trunk may have another.
        model.normalise_as((tuple(mean), tuple(std)))
        return model
    if report is not None:
        log.write_json(TRANSPLANT, {"from": config.model.init} | asdict(report))
        TrainingProgress(0, quiet=quiet or not log.writes).say(*taken_over(report, str(config.model.init)))
    return model


def _started(source: DataSource, config: TrainConfig) -> tuple[FCN, StartReport | None]:
    torch.manual_seed(config.seed)
    model, section = build_model(config, source), config.model
    if section.init is None:
        return model, None
    asked = model.config.normalisation if model.config is not None else None
    report = start_from(model, model_folder(section.init))
    if section.normalisation != "trunk" and model.config is not None and model.config.normalisation != asked:
        raise UsageError(
            f"{section.init}: was trained with another normalisation than model.normalisation={section.normalisation}; "
            f"leave it out"
        )
    return model, report


def finished(log: RunLog, source: DataSource) -> TrainResult | None:
    """Return what a finished run ended with; None where it is not finished."""
    if not (log.folder / SUMMARY).is_file():
        return None
    summary = json.loads((log.folder / SUMMARY).read_text())
    matrix = summary["confusion"]
    scores = Scores.from_confusion(torch.tensor(matrix), source.labels.names) if matrix else None
    return TrainResult(log.folder, scores, summary["epochs"], summary["seconds"])
