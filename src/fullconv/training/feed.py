"""What the loop is fed: which samples, in which order, changed how, and how many times."""

import hashlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.data import DataLoader, Sampler

from ..data import Augmented, Batch, CachedDataset, DataSource, EpochSampler, Patches, TrainingTransform, collate
from ..data.sample import FILL
from ..errors import FullconvError, UsageError, in_one_line
from ..files import CellImage, ImageFile, Picture
from .config import TrainConfig, changed
from .interrupt import deaf_to_signals

CROP_MULTIPLE, LARGEST_CROP = 32, 512
LARGE_SIDE, LARGEST_SCALE = 384, 2
PASSES, FEWEST_EPOCHS, MOST_EPOCHS = 1000, 4, 200


class StepBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one rank: of every step's samples, which do not depend on the ranks, its equal share.

    Args:
        order: Of an epoch's samples.
        batch_size: Most samples of a batch.
        images_a_step: Samples of a step, over all ranks.
        rank: Number of this rank, from 0.
        ranks: How many there are.

    Raises:
        UsageError: The samples of a step cannot be shared equally.
    """

    def __init__(self, order: EpochSampler, batch_size: int, images_a_step: int, rank: int, ranks: int) -> None:
        if images_a_step % ranks:
            raise UsageError(
                f"a step of {images_a_step} images cannot be shared by {ranks} ranks: "
                f"let data.batch_size × data.accumulate, and the number of images if that is less, be a multiple of "
                f"{ranks} (--set data.accumulate={ranks})"
            )
        self.order, self.batch_size, self.images_a_step = order, batch_size, images_a_step
        self.share = images_a_step // ranks
        self.first = rank * self.share

    @property
    def batches_a_step(self) -> int:
        """Number of batches that make this rank's share of a step."""
        return math.ceil(self.share / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        keys = list(self.order)
        for start in range(0, len(keys) - self.images_a_step + 1, self.images_a_step):
            first = start + self.first
            mine = keys[first : first + self.share]
            for at in range(0, self.share, self.batch_size):
                yield mine[at : at + self.batch_size]


@dataclass(frozen=True)
class Feed:
    """Batches of a run.

    Attributes:
        loader: Batches of one epoch.
        sampler: Decides which samples they hold.
        epochs: Passes over the training images.
        crop: Height and width of the crops, or None for whole images.
        evaluations: How many times at most the validation split is scored; no epoch has more than one.
    """

    loader: DataLoader[Batch]
    sampler: StepBatches
    epochs: float
    crop: tuple[int, int] | None
    evaluations: int

    @property
    def samples(self) -> int:
        """Images of an epoch, or patches of them."""
        return len(self.sampler.order)

    @property
    def steps_an_epoch(self) -> int:
        """Steps that the samples of an epoch make; what is left over is not used in that epoch."""
        return self.samples // self.sampler.images_a_step

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, at least one."""
        return max(1, round(self.epochs * self.steps_an_epoch))

    @property
    def last_epoch(self) -> int:
        """Number of the last epoch, from 1; it may be a part of one."""
        return math.ceil(self.total_steps / self.steps_an_epoch)

    def steps(self, number: int, done: int = 0, leave: Callable[[], bool] = lambda: False) -> Iterator[list[Batch]]:
        """Yield the batches of each step of epoch ``number``, from 1, that comes after the first ``done``.

        Once ``leave`` says so, the rest of a step is not read: it will not be taken.
        """
        left = self.total_steps - (number - 1) * self.steps_an_epoch
        yield from self._steps(number, done, min(left, self.steps_an_epoch), leave)

    def endless(self) -> Iterator[list[Batch]]:
        """Yield the batches of each step of one epoch after the other: for trials."""
        for number in itertools.count(1):
            yield from self._steps(number, 0, self.steps_an_epoch)

    def _steps(
        self, number: int, first: int, end: int, leave: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Batch]]:
        self.sampler.order.set_epoch(number, first * self.sampler.images_a_step)
        batches = iter(self.loader)
        for _ in range(first, end):
            try:
                step = [next(batches)]
                while len(step) < self.sampler.batches_a_step and not leave():
                    step.append(next(batches))
                yield step
            except FullconvError as error:
                # A worker's comes with its traceback before it.
                raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from error

    def evaluates(self, number: int) -> bool:
        """Return whether the validation split is scored after epoch ``number``."""
        return number in evaluated_epochs(self.last_epoch, self.evaluations)


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Say what to do where a process that reads images is ended: torch raises that at any point of this one.

    Raises:
        UsageError: A worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise UsageError(
            f"a process that reads images was ended, often for want of memory: fewer of them (data.workers), less kept "
            f"by each (data.cache_mb), or in a container more shared memory (docker run --shm-size 2g) "
            f"({in_one_line(error)})"
        ) from error


def build_feed(source: DataSource, config: TrainConfig, rank: int = 0, ranks: int = 1) -> Feed:
    """Return the feed for a data set's ``train`` split, or a rank's share of it.

    Raises:
        UsageError: The ranks cannot share the samples of a step equally, or whole images are to be scaled
            (``model.input_scale``).
        DataError: An image cannot be read, from all of which the mean is taken where they are no colours.
    """
    data = config.data
    samples = source.dataset("train")
    enlarged = input_scale(source, config)
    crop = derived_crop(median_side(source), enlarged) if data.crop == "auto" else _pair(data.crop)
    # About zero, once normalised.
    fill = FILL if in_colours(samples.records[0].image) else source.channel_moments("train")[0]
    transform = TrainingTransform(
        crop,
        scale=(data.scale[0] * enlarged, data.scale[1] * enlarged),
        flip=data.flip,
        colour=data.colour,
        fill=fill,
        ignore_index=source.labels.ignore_index,
        keep=data.keep,
        cell=config.model.finest_stride,
    )
    if data.patches == "none":
        # Every worker has a cache of its own.
        cache = CachedDataset(samples, (data.cache_mb << 20) // max(1, data.workers))
        drawn: Augmented | Patches = Augmented(cache, transform)
    else:
        drawn = Patches(source, samples.records, transform, data.patches, enlarged)
    epochs = float(derived_epochs(len(drawn))) if config.epochs == "auto" else config.epochs
    order = EpochSampler(len(drawn), config.seed, replacement=data.replacement)
    sampler = StepBatches(order, data.batch_size, min(data.batch_size * data.accumulate, len(drawn)), rank, ranks)
    loader: DataLoader[Batch] = DataLoader(
        drawn,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=data.workers,
        persistent_workers=data.workers > 0,
        # The server that Python 3.14 starts them from by default dies at a signal, and they with it.
        multiprocessing_context="fork" if data.workers and sys.platform == "linux" else None,
        worker_init_fn=partial(deaf_to_signals, os.getpid()),
        collate_fn=partial(collate, ignore_index=source.labels.ignore_index, fill=fill),
        # Of its own: starting to iterate draws from it, and a resumed run starts more often.
        generator=torch.Generator(),
    )
    return Feed(loader, sampler, epochs, crop, config.evaluations if "val" in source.splits else 0)


def in_colours(image: Picture) -> bool:
    """Return whether an image is red, green, blue as a picture file is, also in a table, and not bands of its own."""
    return isinstance(image, (ImageFile, CellImage))


def names_digest(source: DataSource, split: str) -> str:
    """Return a digest of the names of a split's images, in their order: by it a run knows them again."""
    stems = "\n".join(record.stem for record in source.splits.get(split, ()))
    return hashlib.sha256(stems.encode(errors="surrogatepass")).hexdigest()


def resolved(source: DataSource, config: TrainConfig, rank: int = 0, ranks: int = 1) -> TrainConfig:
    """Return a configuration with what ``auto`` stands for on a data set.

    Raises:
        UsageError: As :func:`build_feed`.
    """
    # Where patches lie does not matter here, and takes a look at all masks.
    plain = config if config.data.patches == "none" else changed(config, {"data.patches": "uniform"})
    feed = build_feed(source, plain, rank, ranks)
    derived = {
        "epochs": feed.epochs,
        "minutes": None,
        "data.crop": feed.crop or "none",
        "model.input_scale": input_scale(source, config),
    }
    return changed(config, derived)


def derived_epochs(images: int) -> int:
    """Return how often a set of this many images is seen by default: 1000 / √images, at least 4, at most 200.

    Larger sets get more steps, but fewer passes.

    >>> derived_epochs(572), derived_epochs(2486)
    (42, 20)
    """
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(PASSES / math.sqrt(images))))


def median_side(source: DataSource) -> int:
    """Return the median shorter side of the training images, in pixels."""
    shorter = sorted(min(source.image_size(record)) for record in source.records("train"))
    return shorter[len(shorter) // 2]


def mean_area(source: DataSource) -> float:
    """Return the mean area of the training images, in pixels."""
    areas = [math.prod(source.image_size(record)) for record in source.records("train")]
    return sum(areas) / len(areas)


def input_scale(source: DataSource, config: TrainConfig) -> float:
    """Return how many times as large the trunk sees an image.

    Raises:
        UsageError: Whole images are to be scaled.
    """
    scale, whole = config.model.input_scale, config.data.crop == "none"
    if scale == "auto":
        return 1.0 if whole else derived_input_scale(median_side(source))
    if whole and scale != 1:
        raise UsageError(
            f"model.input_scale={scale:g} is for crops: whole images (data.crop=none) stay as large as they are"
        )
    return scale


def derived_input_scale(side: int) -> float:
    """Return by how much images of this shorter side are enlarged by default: to about 384, at most twice, in quarters.

    In small pictures things are small, and the taps of a trunk made for photos lie far apart.

    >>> [derived_input_scale(side) for side in (96, 240, 256, 375, 1080)]
    [2.0, 1.5, 1.5, 1.0, 1.0]
    """
    return max(1.0, min(float(LARGEST_SCALE), 4 * LARGE_SIDE // side / 4))


def derived_crop(side: int, scale: float) -> tuple[int, int]:
    """Return a square crop: the shorter side, as the trunk sees it, up to a multiple of 32, at most 512.

    >>> derived_crop(240, 1.5)
    (384, 384)
    """
    return (min(math.ceil(side * scale / CROP_MULTIPLE) * CROP_MULTIPLE, LARGEST_CROP),) * 2


def evaluated_epochs(epochs: int, evaluations: int) -> frozenset[int]:
    """Return after which epochs to score: evenly spread, the last among them.

    >>> sorted(evaluated_epochs(10, 4))
    [3, 5, 8, 10]
    """
    count = min(epochs, evaluations)
    return frozenset(math.ceil(epochs * (index + 1) / count) for index in range(count))


def _pair(crop: int | tuple[int, int] | str) -> tuple[int, int] | None:
    if isinstance(crop, str):
        return None
    return (crop, crop) if isinstance(crop, int) else crop
