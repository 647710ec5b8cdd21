"""Order and chance: they depend on seed, epoch and sample alone, not on how many workers there are."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..errors import UsageError
from .sample import Sample


@runtime_checkable
class Samples(Protocol):
    """Anything that gives samples by position."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """Return one."""
        ...


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (index, seed of the draw) for an epoch's samples; made for a loader over :class:`Augmented`.

    Args:
        length: Number of samples.
        seed: Of order and draws, together with the epoch.
        shuffle: False keeps the order of the data set.
        replacement: Draw each sample uniformly from all, so that some come twice and others not at all.

    Raises:
        UsageError: ``length`` is below 1, or ``replacement`` is asked for without ``shuffle``.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True, replacement: bool = False) -> None:
        if length < 1:
            raise UsageError(f"cannot draw from {length} samples; give at least one")
        if replacement and not shuffle:
            raise UsageError("replacement=True draws at random; give shuffle=True with it")
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.replacement = replacement
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch of the next iteration, 0, 1, …, and how many of its samples to leave out at its start."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, start, seen = self.epoch, self.start, Counter[int]()
        for place, index in enumerate(self._order(epoch)):
            # A sample drawn again in the same epoch is changed differently.
            if place >= start:
                yield index, _mix(self.seed, epoch, index, seen[index])
            seen[index] += 1

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.length))
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        if self.replacement:
            order: list[int] = torch.randint(self.length, (self.length,), generator=generator).tolist()
        else:
            order = torch.randperm(self.length, generator=generator).tolist()
        return order


def _mix(*numbers: int) -> int:
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Augmented(Dataset[Sample]):
    """Samples changed by ``transform``, seeded by what comes with the index; torch's generator is left alone.

    Args:
        dataset: The samples.
        transform: Draws from torch's default CPU generator, such as
            :class:`~fullconv.data.TrainingTransform`.
    """

    def __init__(self, dataset: Samples, transform: Callable[[Sample], Sample]) -> None:
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, draw_seed = key
        sample = self.dataset[index]
        with seeded(draw_seed):
            return self.transform(sample)


def evenly(count: int, most: int) -> Int64[Tensor, "p"]:
    """Return at most ``most`` of the numbers below ``count``, evenly spread, the first and the last among them."""
    # In float32 the last would be rounded up to ``count`` where that is beyond 2²⁴.
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64).long()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's default CPU generator for a block, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reseed the GPUs, whose state is not restored here.
        torch.default_generator.manual_seed(seed)
        yield


class CachedDataset(Dataset[Sample]):
    """Keeps decoded samples in memory, compactly, as long as they fit; the rest is read anew each time.

    Every loader worker has a cache of its own, so divide the budget by their number.

    Args:
        dataset: The samples.
        budget: Bytes of images and targets to keep at most.
    """

    def __init__(self, dataset: Samples, budget: int) -> None:
        self.dataset = dataset
        self.budget = budget
        self.used = 0
        self._kept: dict[int, tuple[str, Tensor, int, list[Tensor], tuple[str, ...]]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            sample = self.dataset[index]
            self._keep(index, sample)
            return sample
        stem, image, ignore_index, (target, *further), tasks = self._kept[index]
        # Copies, so that a transform that works in place does not change what is kept.
        others = {task: other.long() for task, other in zip(tasks, further, strict=True)}
        return Sample(stem, image.clone(), target.long(), ignore_index, others)

    def _keep(self, index: int, sample: Sample) -> None:
        small = [_compact(target) for target in (sample.target, *sample.further.values())]
        size = sample.image.nbytes + sum(target.nbytes for target in small)
        if self.used + size <= self.budget:
            self._kept[index] = sample.stem, sample.image.clone(), sample.ignore_index, small, tuple(sample.further)
            self.used += size


def _compact(target: Tensor) -> Tensor:
    low, high = (int(bound) for bound in target.aminmax())
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return target.to(dtype)
    return target.clone()
