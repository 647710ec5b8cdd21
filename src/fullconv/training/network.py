"""From a configuration and a data set to the network that is trained."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..data import DataSource
from ..data.source import Moments
from ..errors import UsageError
from ..files import Bands, Picture, Stack
from ..inference import model_folder
from ..models import FCN, ModelConfig, StartReport, start_from
from ..models.build import check_scaled_skips
from ..trunks.base import NORMALISATIONS
from .config import TrainConfig
from .feed import in_colours, input_scale


def build_model(source: DataSource, config: TrainConfig) -> FCN:
    """Return the network that ``config`` asks for, with the data set's channels and classes.

    A trunk whose rate is 0 is frozen.

    Raises:
        UsageError: It cannot be built, or its normalisation is one of colours, which the images are not.
        ModelError: The trunk's weights cannot be used.
        DataError: An image cannot be read, from all of which the mean is taken where they are no colours.
    """
    section = config.model
    image = source.records("train")[0].image
    channels = image.channels()
    named = NORMALISATIONS.get(section.normalisation)
    normalisation: Moments | None = None if named is None else (named.mean, named.std)
    if normalisation is not None and channels != 3:
        raise UsageError(
            f"model.normalisation={section.normalisation} is of red, green, blue, but the images have {channels} "
            f"channels: leave it out, and mean and deviation are those of the training images"
        )
    if normalisation is None and not in_colours(image):
        normalisation = source.channel_moments("train")
    labels = {task: part.labels for task, part in source.tasks.items()}
    options = section.model_dump(exclude={"trunk_weights", "normalisation", "init", "recompute", "input_scale"})
    model_config = ModelConfig(
        **options,
        input_scale=input_scale(source, config),
        tasks={task: table.num_classes for task, table in labels.items()},
        in_channels=channels,
        bands=_bands(image),
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


def _bands(image: Picture) -> tuple[int, ...] | None:
    """Return which bands of a file are the channels: of a stack none, as it is in no file alone."""
    if isinstance(image, Bands):
        return image.indices()
    return () if isinstance(image, Stack) else None


@contextmanager
def without_fresh_layer_warning() -> Iterator[None]:
    """Build a network in the block without the warning of fc6 and fc7, which is given as training begins."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*start from random weights")
        yield


def initialised(source: DataSource, config: TrainConfig) -> tuple[FCN, StartReport | None]:
    """Return the network to train as it begins, and what it took over from ``model.init``, if there is one.

    Raises:
        UsageError: It cannot be built.
        ModelError: The trunk's weights, or the model to start from, cannot be used.
        DataError: As :func:`build_model`.
    """
    torch.manual_seed(config.seed)
    model, section = build_model(source, config), config.model
    if section.init is None:
        return model, None
    asked = model.config
    report = start_from(model, model_folder(section.init))
    if section.normalisation != "trunk" and model.config != asked:
        raise UsageError(
            f"{section.init}: was trained with another normalisation than model.normalisation={section.normalisation}; "
            f"leave it out"
        )
    return model, report
