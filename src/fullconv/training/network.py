"""From a configuration and a data set to the network that is trained."""

from dataclasses import asdict

import torch
from jaxtyping import Int64

from ..data import DataSource
from ..data.labels import DEFAULT_TASK
from ..data.source import Moments
from ..errors import FullconvError, UsageError
from ..files import Bands, ImageFile
from ..inference import model_folder
from ..models import FCN, ModelConfig, StartReport, start_from
from ..models.build import check_scaled_skips
from .config import TrainConfig, changed
from .feed import input_scale
from .progress import say
from .runlog import TRANSPLANT, RunLog
from .words import taken_over

NORMALISATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


def build_model(config: TrainConfig, source: DataSource) -> FCN:
    """Return the network that ``config`` asks for, with the data set's channels and classes.

    A trunk whose rate is 0 is frozen.

    Raises:
        UsageError: It cannot be built, or its normalisation is one of colours, which the images are not.
        ModelError: The trunk's weights cannot be used.
    """
    section = config.model
    image = source.records("train")[0].image
    channels = image.channels()
    normalisation: Moments | None = NORMALISATIONS.get(section.normalisation)
    if normalisation is not None and channels != 3:
        raise UsageError(
            f"model.normalisation={section.normalisation} is of red, green, blue, but the images have {channels} "
            f"channels: leave it out, and mean and deviation are those of the training images"
        )
    if normalisation is None and not isinstance(image, ImageFile):
        normalisation = source.channel_moments("train")
    labels = {task: part.labels for task, part in tasks(source).items()}
    options = section.model_dump(exclude={"trunk_weights", "normalisation", "init", "recompute", "input_scale"})
    model_config = ModelConfig(
        **options,
        input_scale=input_scale(config, source),
        tasks={task: table.num_classes for task, table in labels.items()},
        in_channels=channels,
        bands=image.numbers or tuple(range(1, channels + 1)) if isinstance(image, Bands) else None,
        value_range=image.value_range if isinstance(image, Bands) else None,
        normalisation=normalisation,
    )
    check_scaled_skips(model_config)
    model = FCN.from_config(model_config, section.trunk_weights, labels)
    if section.recompute:
        model.trunk.save_memory()
    if config.optim.trunk_rate == 0:
        model.trunk.body.requires_grad_(False)
    return model


def starting_network(source: DataSource, config: TrainConfig, log: RunLog, *, quiet: bool = False) -> FCN:
    """Return the network to train, and leave a report of what it took over from ``model.init``.

    Where the files are gone that it started from, but a checkpoint is there, it comes without their weights.
    """
    try:
        model, report = built(source, config)
    except FullconvError:
        if log.checkpoints.latest() is None:
            raise
        return build_model(changed(config, {"model.trunk_weights": None}), source)
    if report is not None and not log.checkpoints.exist():
        log.write_json(TRANSPLANT, {"from": config.model.init} | asdict(report))
        say(*taken_over(report, str(config.model.init)), quiet=quiet)
    return model


def built(source: DataSource, config: TrainConfig) -> tuple[FCN, StartReport | None]:
    """Return the network to train as it begins, and what it took over from ``model.init``, if there is one.

    Raises:
        UsageError: It cannot be built.
        ModelError: The trunk's weights, or the model to start from, cannot be used.
    """
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


def tasks(source: DataSource) -> dict[str, DataSource]:
    """Return a data set's tasks by name, that of its own masks first."""
    return {DEFAULT_TASK: source, **source.further}


def class_pixels(source: DataSource) -> dict[str, Int64[torch.Tensor, "_"]]:
    """Return how many training pixels every class has, by task."""
    return {task: part.class_pixels("train") for task, part in tasks(source).items()}
