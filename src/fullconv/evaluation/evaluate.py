"""Scores of a network on a data set: one confusion matrix over every labelled pixel at original resolution."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import torch

from ..data import DataSource, Sample, open_dataset
from ..errors import DataError, UsageError
from ..files import Bands, Stack
from ..inference import Predictor, Views, load
from ..metrics import AbsentClasses, Scores, confusion_matrix
from ..models import FCN
from ..nn.mode import evaluation_mode

Model = str | Path | FCN | Predictor
SPLIT_ORDER = ("test", "val", "train")

_Reading = tuple[tuple[int, ...], tuple[float, float] | None]
_COLOURS: _Reading = (1, 2, 3), None


def evaluate(
    model: Model,
    data: str | Path | DataSource,
    split: str | None = None,
    *,
    task: str | None = None,
    views: Views | None = None,
    absent: AbsentClasses = "exclude",
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Return the paper's four metrics, and each class's, of a model on one split of a data set.

    Args:
        model: A model or run folder, a network, which stays where and in the mode it is, or a predictor.
        data: A data set folder, a ``dataset.yaml``, or an opened data set.
        split: By default the first there is of ``test``, ``val`` and ``train``.
        task: Which of several tasks to score; by default the model's first, or the predictor's.
        views: Versions of every image to predict and average; by default the image alone, or the predictor's.
        absent: What a class counts that does not occur in the truth: see :class:`fullconv.metrics.Scores`.
        progress: Called with (done, total) after every image.

    Raises:
        DataError: The data set cannot be used, has no such split, another number of classes than the model, the
            same classes in another order, or images of other bands or another range of values (the ranges of stacked
            files are not compared).
        ModelError: The model cannot be used.
        UsageError: The model has no such task, or ``absent`` is unknown.

    Source: Long, Shelhamer & Darrell 2015, section 5.
    """
    if absent not in get_args(AbsentClasses):
        raise UsageError(f"absent is {absent!r}; use 'exclude' or 'zero'")
    source = data if isinstance(data, DataSource) else open_dataset(data)
    network = model.model if isinstance(model, Predictor) else model
    with evaluation_mode(network) if isinstance(network, FCN) else nullcontext():
        predictor = as_predictor(model, task, views)
        source = source.tasks.get(predictor.task, source)
        split = split or default_split(source)
        _check_classes(predictor, source)
        _check_bands(predictor, source, split)
        records = source.records(split)
        matrix = confusion(predictor, map(source.read_sample, records), progress, len(records))
    return Scores.from_confusion(matrix, source.labels.names, absent=absent)


def confusion(
    predictor: Predictor,
    samples: Iterable[Sample],
    progress: Callable[[int, int], None] | None = None,
    total: int = 0,
) -> torch.Tensor:
    """Return the k×k confusion matrix [truth, prediction] of a predictor over samples.

    Raises:
        DataError: An image is too large for the memory, or has other channels than the model takes.
    """
    labels = predictor.label_set
    matrix = torch.zeros(labels.num_classes, labels.num_classes, dtype=torch.int64)
    for done, sample in enumerate(samples, 1):
        try:
            predicted = predictor.labels(sample.image).cpu()
        except (DataError, UsageError) as error:
            raise DataError(f"image {sample.stem}: {error}") from error
        matrix += confusion_matrix(sample.target, predicted, labels.num_classes, sample.ignore_index)
        if progress:
            progress(done, total)
    return matrix


def as_predictor(model: Model, task: str | None = None, views: Views | None = None) -> Predictor:
    """Return a predictor of a task, by default the first, for whatever stands for a model.

    Raises:
        UsageError: The model has no such task.
    """
    if isinstance(model, Predictor):
        task, views = task or model.task, views or model.views
        return model if (task, views) == (model.task, model.views) else model.seen_as(task, views)
    if isinstance(model, FCN):
        return Predictor(model, device=model.mean.device, task=task, views=views)
    return load(model, task=task, views=views)


def default_split(source: DataSource) -> str:
    """Return the split that is evaluated where none is named."""
    return next(split for split in (*SPLIT_ORDER, *source.splits) if split in source.splits)


def _check_classes(predictor: Predictor, source: DataSource) -> None:
    ours, theirs = predictor.label_set.names, source.labels.names
    if len(ours) != len(theirs):
        raise DataError(
            f"{source.root}: has {len(theirs)} classes, the model {len(ours)}; evaluate on the data it was trained "
            f"for, or, if its masks mean the same, give it the model's in a dataset.yaml: classes: [{', '.join(ours)}]"
        )
    for place, name in enumerate(theirs):
        if name != ours[place] and name in ours:
            raise DataError(
                f"{source.root}: class {place} is {name}, the model's is {ours[place]}, and {name} its class "
                f"{ours.index(name)}; give the data set the model's classes in their order"
            )


def _check_bands(predictor: Predictor, source: DataSource, split: str) -> None:
    image, config = source.records(split)[0].image, predictor.model.config
    if predictor.channels != (channels := image.channels()) and (predictor.channels, channels) != (1, 3):
        raise DataError(
            f"{source.root}: its images have {channels} channels, the model takes {predictor.channels}; say bands or "
            f"stack in a dataset.yaml, as for the data it was trained on"
        )
    stacked, theirs = isinstance(image, Stack), _COLOURS
    if config is None or (config.bands is None and (stacked or predictor.channels != 3)):
        return  # What the model's channels are made of is not known: those of stacks did not always say so.
    if stacked != (config.bands == ()):
        kinds = "single files", "stacks of files"
        raise DataError(
            f"{source.root}: its images are {kinds[stacked]}, the model was trained on {kinds[not stacked]}; write its "
            f"dataset.yaml as for the data it was trained on"
        )
    if stacked:
        return
    ours = _COLOURS if config.bands is None else (config.bands, config.value_range)
    if isinstance(image, Bands):
        theirs = image.indices(), image.value_range
    if ours != theirs:
        raise DataError(
            f"{source.root}: its images are read as {_described(*theirs)}, the model was trained on "
            f"{_described(*ours)}; say {_described(*ours)} in a dataset.yaml"
        )


def _described(bands: tuple[int, ...], value_range: tuple[float, float] | None) -> str:
    """Return it as a ``dataset.yaml`` says it."""
    limits = "null" if value_range is None else f"[{value_range[0]:.12g}, {value_range[1]:.12g}]"
    return f"bands: {list(bands)} and range: {limits}"
