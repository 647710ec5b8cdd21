"""What the loop is fed: which samples, in which order, changed how, and how many times."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch.utils.data import DataLoader

from ..data import Augmented, Batch, CachedDataset, DataSource, EpochSampler, Patches, TrainingTransform, collate
from .config import TrainConfig

MULTIPLE, LARGEST_CROP = 32, 512


@dataclass(frozen=True)
class Feed:
    """Batches of a run.

    Attributes:
        loader: Batches of one epoch.
        sampler: Decides the order; a function of seed and epoch.
        epochs: Number of epochs.
        crop: Height and width of the crops, or None for whole images.
        evaluations: Epochs after which the validation split is scored.
    """

    loader: DataLoader[Batch]
    sampler: EpochSampler
    epochs: int
    crop: tuple[int, int] | None
    evaluations: frozenset[int]

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of epoch ``number``, from 1."""
        self.sampler.set_epoch(number)
        yield from self.loader


def build_feed(source: DataSource, config: TrainConfig) -> Feed:
    """Return the feed for a data set's ``train`` split."""
    data = config.data
    samples = source.dataset("train")
    epochs = derived_epochs(len(samples)) if config.epochs == "auto" else config.epochs
    crop = derived_crop(source) if data.crop == "auto" else _pair(data.crop)
    transform = TrainingTransform(
        crop, scale=data.scale, flip=data.flip, colour=data.colour, ignore_index=source.labels.ignore_index
    )
    if data.patches == "none":
        drawn: Augmented | Patches = Augmented(CachedDataset(samples, data.cache_mb << 20), transform)
    else:
        drawn = Patches(source, samples.records, transform, data.patches)
    sampler = EpochSampler(len(drawn), config.seed, replacement=data.replacement)
    loader: DataLoader[Batch] = DataLoader(
        drawn,  # type: ignore[arg-type]
        batch_size=data.batch_size,
        sampler=sampler,
        num_workers=data.workers,
        drop_last=len(drawn) >= data.batch_size,
        collate_fn=partial(collate, ignore_index=source.labels.ignore_index),
    )
    return Feed(loader, sampler, epochs, crop, evaluated_epochs(epochs, config.evaluations, "val" in source.splits))


def derived_epochs(images: int) -> int:
    """Return how often a set of this many images is seen by default: 800 / √images, at least 4, at most 200.

    Larger sets get more steps, but fewer passes.

    >>> derived_epochs(572), derived_epochs(2486)
    (33, 16)
    """
    return min(200, max(4, round(800 / math.sqrt(images))))


def derived_crop(source: DataSource) -> tuple[int, int]:
    """Return a square crop: the median shorter side of the training images, up to a multiple of 32, at most 512."""
    shorter = sorted(min(source.image_size(record)) for record in source.splits["train"])
    side = math.ceil(shorter[len(shorter) // 2] / MULTIPLE) * MULTIPLE
    return (min(side, LARGEST_CROP),) * 2


def evaluated_epochs(epochs: int, evaluations: int, has_validation: bool) -> frozenset[int]:
    """Return after which epochs to score: evenly spread, the last among them.

    >>> sorted(evaluated_epochs(10, 4, True))
    [3, 5, 8, 10]
    """
    if not has_validation:
        return frozenset()
    count = min(epochs, evaluations)
    return frozenset(math.ceil(epochs * (index + 1) / count) for index in range(count))


def _pair(crop: int | tuple[int, int] | str) -> tuple[int, int] | None:
    if crop == "none" or isinstance(crop, str):
        return None
    return (crop, crop) if isinstance(crop, int) else crop
