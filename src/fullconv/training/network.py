"""From a configuration and a data set to the network that is trained."""

import math

import torch

from ..data import DataSource
from ..data.labels import DEFAULT_TASK
from ..errors import UsageError
from ..files import Bands, ImageFile
from ..models import FCN, ModelConfig
from .config import TrainConfig
from .feed import input_scale

Moments = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation, 0–255, of each channel."""

NORMALISATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


def build_model(config: TrainConfig, source: DataSource) -> FCN:
    """Return the network that ``config`` asks for, with the data set's channels and classes.

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
        normalisation = channel_moments(source)
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
    model = FCN.from_config(model_config, section.trunk_weights, labels)
    if section.recompute:
        model.trunk.save_memory()
    return model


def tasks(source: DataSource) -> dict[str, DataSource]:
    """Return a data set's tasks by name, that of its own masks first."""
    return {DEFAULT_TASK: source, **source.further}


def channel_moments(source: DataSource, most: int = 256) -> Moments:
    """Return mean and deviation (0–255) of each channel over the training images, at most so many of them."""
    records = source.records("train")
    chosen = records[:: math.ceil(len(records) / most)]
    pixels = [record.image.read()[:, ::4, ::4].float().flatten(1) for record in chosen]
    mean = torch.stack([part.mean(1) for part in pixels]).mean(0)
    square = torch.stack([part.square().mean(1) for part in pixels]).mean(0)
    std = (square - mean.square()).clamp(min=1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
