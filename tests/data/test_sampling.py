from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from fullconv.data.sample import Sample, collate
from fullconv.data.sampling import Augmented, CachedDataset, EpochSampler, evenly
from fullconv.data.transforms import TrainingTransform
from fullconv.errors import UsageError


class Counting:
    """Six samples; counts how often each is read."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int, /) -> Sample:
        self.reads.append(index)
        image = torch.arange(3 * 8 * 10).view(3, 8, 10).add(index).to(torch.uint8)
        return Sample(str(index), image, image[0].long() + 300 * (index == 5), 7)


def epoch(seed: int, number: int, **options: bool) -> list[tuple[int, int]]:
    sampler = EpochSampler(50, seed, **options)
    sampler.set_epoch(number)
    assert len(sampler) == 50
    return list(sampler)


@given(st.integers(0, 2**40), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_an_epoch_is_a_permutation_fixed_by_seed_and_number(seed: int, number: int) -> None:
    pairs = epoch(seed, number)
    assert sorted(index for index, _ in pairs) == list(range(50))
    assert pairs == epoch(seed, number)
    assert pairs != epoch(seed, number + 1) and pairs != epoch(seed + 1, number)
    assert len({draw for _, draw in pairs}) == 50


def test_the_draw_belongs_to_the_sample_and_not_to_its_place() -> None:
    assert dict(epoch(3, 4)) == dict(epoch(3, 4, shuffle=False))
    assert [index for index, _ in epoch(3, 4, shuffle=False)] == list(range(50))


def test_with_replacement_repeats_are_drawn_differently() -> None:
    pairs = epoch(0, 0, replacement=True)
    assert len({index for index, _ in pairs}) < 50
    assert len({draw for _, draw in pairs}) == 50


def test_impossible_samplers() -> None:
    with pytest.raises(UsageError, match="cannot draw from 0 samples; give at least one"):
        EpochSampler(0, 0)
    with pytest.raises(UsageError, match="give shuffle=True"):
        EpochSampler(5, 0, shuffle=False, replacement=True)


def batches(workers: int) -> list[torch.Tensor]:
    sampler = EpochSampler(6, seed=5)
    data = Augmented(Counting(), TrainingTransform((6, 6)))
    loader = DataLoader(data, 2, sampler=sampler, num_workers=workers, collate_fn=partial(collate, ignore_index=7))
    return [batch.images for batch in loader]


def test_batches_do_not_depend_on_workers_or_on_the_global_generator() -> None:
    torch.manual_seed(1)
    alone = batches(0)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, batches(2), strict=True))


def test_augmentation_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data = Augmented(Counting(), TrainingTransform((6, 6)))
    first, again, other = data[2, 10], data[2, 10], data[2, 11]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.image, again.image) and not torch.equal(first.image, other.image)


def test_cache_gives_what_it_read_and_reads_once() -> None:
    source, truth = Counting(), Counting()
    cached = CachedDataset(source, 1 << 20)
    # Three times: the first returns what was read, the second what is kept, the third what the second left of it.
    for _ in range(3):
        for index in range(len(cached)):
            kept, read = cached[index], truth[index]
            assert torch.equal(kept.image, read.image) and torch.equal(kept.target, read.target)
            assert (kept.stem, kept.ignore_index, kept.target.dtype) == (read.stem, 7, torch.int64)
            kept.image.zero_()
            kept.target.zero_()
    assert source.reads == list(range(6))
    # 8×10 pixels: three bytes of image, one of target (two where an id exceeds 255).
    assert cached.used == 5 * 80 * 4 + 80 * 5


def test_cache_stays_within_its_budget() -> None:
    source = Counting()
    cached = CachedDataset(source, 2 * 80 * 4)
    for _ in range(2):
        for index in range(6):
            assert cached[index].stem == str(index)
    assert cached.used <= 2 * 80 * 4
    assert source.reads == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5]


@pytest.mark.parametrize("replacement", [False, True])
def test_an_epoch_that_is_gone_on_with_ends_as_it_would_have(replacement: bool) -> None:
    sampler = EpochSampler(50, 0, replacement=replacement)
    whole = list(sampler)
    sampler.set_epoch(0, 20)
    assert list(sampler) == whole[20:]


@pytest.mark.parametrize("count", [1, 2, 15, 1000, 2**24 + 4, 25_000_000, 2**25])
@pytest.mark.parametrize("most", [1, 8, 64])
def test_numbers_are_spread_evenly(count: int, most: int) -> None:
    """Of images as large as a strip may be, too; of less than twice as many as are wanted, not the first alone."""
    numbers = evenly(count, most).double()
    assert len(numbers) == min(count, most) and numbers[0] == 0
    if most > 1:
        assert numbers[-1] == count - 1
        gaps = numbers.diff()
        assert not len(gaps) or (gaps.max() - gaps.min() <= 1 and gaps.min() >= 1)


def test_of_nothing_nothing_is_taken() -> None:
    assert not len(evenly(0, 8))
