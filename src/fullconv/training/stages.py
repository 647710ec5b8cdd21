"""Stages: a recipe such as FCN-32s → 16s → 8s as one run, each stage starting from the weights of the one before."""

from dataclasses import replace

from ..data import DataSource
from ..errors import UsageError
from ..inference import MODELS
from ..models import FCN
from .config import TrainConfig, changed
from .feed import resolved
from .loop import fit
from .network import initialised, without_fresh_layer_warning
from .progress import say
from .runlog import RunLog, TrainResult


def stage_configs(config: TrainConfig) -> list[TrainConfig]:
    """Return the configuration of every stage, or of a run without stages its own.

    A later stage that names no ``model.init`` goes on from the one before.

    Raises:
        UsageError: A stage has an unknown setting, a wrong value, what only a whole run can have, or what the stage
            before decides.
    """
    if not config.stages:
        return [config]
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
        UsageError: As :func:`~fullconv.training.loop.fit`, and so on.
        ModelError: See there.
        DataError: See there.
        NotFinite: See there.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state was saved.

    Source: Long, Shelhamer & Darrell 2015, section 4.2: finer nets start from the coarser one, at a lower rate.
    """
    seconds, epochs, result = 0.0, 0.0, None
    stages = stage_configs(config)
    for number, stage in enumerate(stages, start=1):
        if result is not None and stage.model.init is None:
            stage = changed(stage, {"model.init": str(result.run)})
        folder = log.folder / f"stage-{number}-{stage.model.finest_stride}s"
        stage_log = log.stage(folder, resolved(source, stage))
        result = stage_log.result()
        say(f"stage {number} of {len(stages)}{': finished before' if result else ''}", quiet=quiet)
        if result is None:
            result = fit(source, stage, stage_log, quiet=quiet)
        seconds, epochs = seconds + result.seconds, epochs + result.epochs
    assert result is not None
    for name in MODELS:
        log.save(FCN.from_pretrained(result.run / name), name)
    whole = replace(result, run=log.folder, epochs=epochs, seconds=seconds)
    log.finish(whole)
    return whole


def check_networks(source: DataSource, config: TrainConfig) -> None:
    """Build the network of a run, or of every stage, once, to find what is wrong with one before any is trained.

    Raises:
        UsageError: One cannot be built.
        ModelError: A weight file or a model to start from cannot be used.
    """
    with without_fresh_layer_warning():
        for stage in stage_configs(config):
            initialised(source, stage)
