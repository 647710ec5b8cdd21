"""Stages: a recipe such as FCN-32s → 16s → 8s as one run, each stage starting from the weights of the one before."""

import json
from dataclasses import asdict

import torch

from ..data import DataSource
from ..errors import FullconvError
from ..inference import model_folder
from ..metrics import Scores
from ..models import FCN, start_from
from .config import TrainConfig, changed
from .loop import TrainResult, build_model, fit
from .runlog import SUMMARY, RunLog


def stage_configs(config: TrainConfig) -> list[TrainConfig]:
    """Return the configuration of every stage.

    Raises:
        UsageError: A stage has an unknown setting, or a wrong value.
    """
    return [changed(config, {"stages": (), **changes}) for changes in config.stages]


def fit_stages(source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> TrainResult:
    """Train the stages of ``config`` one after the other; the last one's models become the run's.

    Every stage is a run folder of its own inside the run, with its report of what was taken over and what is new. A
    stage that is finished is not repeated, one that has begun is resumed.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the state was saved.

    Source: Long, Shelhamer & Darrell 2015, section 4.2: finer nets start from the coarser one, at a lower rate.
    """
    seconds, result = 0.0, None
    for number, (stage, changes) in enumerate(zip(stage_configs(config), config.stages, strict=True), start=1):
        if result is not None and "model.init" not in changes:
            stage = changed(stage, {"model.init": str(result.run)})
            if not {"model.trunk", "model.trunk_weights"} & changes.keys():
                stage = changed(stage, {"model.trunk_weights": None})
        folder = log.folder / f"stage-{number}-{stage.model.finest_stride}s"
        stage_log = log.stage(folder, stage)
        result = finished(stage_log, source)
        if result is None:
            result = fit(started(source, stage, stage_log), source, stage, stage_log, quiet=quiet)
        seconds += result.seconds
    assert result is not None
    for name in ("best", "last"):
        log.save(FCN.from_pretrained(result.run / name), name)
    log.finish(json.loads((result.run / SUMMARY).read_text()) | {"seconds": seconds})
    return TrainResult(log.folder, result.scores, result.epochs, seconds)


def started(source: DataSource, config: TrainConfig, log: RunLog) -> FCN:
    """Return the network to train, and leave a report of what it took over from ``model.init``.

    Where the files are gone that it started from, but a checkpoint is there, it comes without their weights.
    """
    try:
        return _started(source, config, log)
    except FullconvError:
        checkpoint = log.checkpoints.latest()
        if checkpoint is None:
            raise
        model = build_model(changed(config, {"model.trunk_weights": None}), source)
        mean, std = checkpoint.facts["normalisation"]  # Without weights, a trunk may have another.
        model.normalise_as((tuple(mean), tuple(std)))
        return model


def _started(source: DataSource, config: TrainConfig, log: RunLog) -> FCN:
    torch.manual_seed(config.seed)
    model = build_model(config, source)
    if config.model.init is not None:
        report = start_from(model, model_folder(config.model.init))
        log.write_json("transplant.json", {"from": config.model.init} | asdict(report))
    return model


def finished(log: RunLog, source: DataSource) -> TrainResult | None:
    """Return what a finished run ended with; None where it is not finished."""
    if not (log.folder / SUMMARY).is_file():
        return None
    summary = json.loads((log.folder / SUMMARY).read_text())
    matrix = summary["confusion"]
    scores = Scores.from_confusion(torch.tensor(matrix), source.labels.names) if matrix else None
    return TrainResult(log.folder, scores, summary["epochs"], summary["seconds"])
