"""What the loop is fed: how much of it, in which order, changed how, and by which processes."""

import math
import multiprocessing
import os
import signal
import statistics
import sys
from pathlib import Path

import pytest
import torch

from fullconv.data import open_dataset, write_shapes
from fullconv.errors import DataError, UsageError
from fullconv.files import Bands, CellImage, ImageFile, Stack
from fullconv.training import loop
from fullconv.training.config import load_config
from fullconv.training.feed import (
    EpochSampler,
    StepBatches,
    build_feed,
    derived_crop,
    derived_epochs,
    evaluated_epochs,
    in_colours,
    input_scale,
    median_side,
)
from training.short_runs import TINY, opened_shapes, run, same, weights

shapes = pytest.fixture(opened_shapes, scope="module")


def test_defaults_are_derived_from_the_data(shapes):
    assert [derived_epochs(count) for count in (1, 572, 2486, 10**6)] == [200, 42, 20, 4]
    sides = [min(shapes.image_size(record)) for record in shapes.records("train")]
    assert median_side(shapes) == statistics.median_high(sides)
    assert derived_crop(median_side(shapes), 1.0) == (64, 64)
    assert derived_crop(400, 2.0) == (512, 512)
    assert evaluated_epochs(5, 8) == {1, 2, 3, 4, 5}
    assert evaluated_epochs(5, 0) == set()
    assert max(evaluated_epochs(40, 8)) == 40


def test_whole_images_stay_as_large_as_they_are(shapes, tmp_path):
    whole = {"data.crop": "none", "data.batch_size": 1}
    assert input_scale(shapes, load_config("modern", whole)) == 1
    with pytest.raises(UsageError, match=r"model\.input_scale=2 is for crops"):
        run(shapes, tmp_path / "run", settings={**whole, "model.input_scale": 2})


def test_crops_are_cut_from_enlarged_images(shapes):
    """A crop as large as the enlarged images is filled by them to the last row and column."""
    still = {"data.scale": [1, 1], "data.colour": 0, "data.batch_size": 1, "data.crop": 192}
    config = load_config("modern", {**still, "model.input_scale": 3})
    for (batch,) in build_feed(shapes, config).steps(1):
        height, width = next(shapes.image_size(r) for r in shapes.records("train") if r.stem == batch.stems[0])
        rows, columns = (batch.targets[0] != batch.ignore_index).nonzero().max(0).values.tolist()
        assert (rows, columns) == (min(192, 3 * height) - 1, min(192, 3 * width) - 1)


def test_an_epoch_of_patches_is_all_of_them(shapes):
    """So that their number decides how often they are seen."""
    feed = build_feed(shapes, load_config("modern", {"data.patches": "uniform", "data.crop": 32}))
    assert feed.samples > 2 * len(shapes.records("train"))
    assert feed.epochs == derived_epochs(feed.samples)


@pytest.mark.parametrize("choice", ["uniform", "class", "foreground"])
def test_patches_are_as_many_as_there_is_room_for_and_chosen_as_asked(shapes, choice):
    config = load_config("modern", {**TINY, "data.patches": choice, "data.crop": 32, "model.input_scale": 2})
    drawn = build_feed(shapes, config).loader.dataset
    assert drawn.choice == choice
    sizes = [shapes.image_size(record) for record in shapes.records("train")]
    assert len(drawn) == sum(math.ceil(2 * height / 32) * math.ceil(2 * width / 32) for height, width in sizes)


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_cells_that_are_left_out_have_no_target(shapes, keep):
    config = load_config("modern", {**TINY, "data.keep": keep, "data.scale": [1, 1], "model.finest_stride": 16})
    batches = [batch for step in build_feed(shapes, config).steps(1) for batch in step]
    ignored = torch.cat([(batch.targets == 255).reshape(-1, 3, 16, 3, 16).float() for batch in batches])
    share = float((ignored.mean((2, 4)) == 1).float().mean())
    assert (share < 0.1) if keep == 1 else (0.3 < share < 0.7)


def test_padding_is_void_whatever_id_that_has(tmp_path):
    """Of 300 classes 255 is one."""
    write_shapes(tmp_path, count=4, sizes=(40, 48))
    (tmp_path / "classes.txt").write_text("\n".join(f"class {number}" for number in range(300)))
    settings = TINY | {"data.crop": 64, "data.scale": [1, 1], "model.input_scale": 1, "data.batch_size": 1}
    for (batch,) in build_feed(open_dataset(tmp_path), load_config("modern", settings)).steps(1):
        assert batch.ignore_index == 65535
        assert (batch.targets[:, 48:] == 65535).all() and (batch.targets[:, :40, :40] < 300).all()


@pytest.mark.parametrize(
    ("image", "coloured"),
    [
        (ImageFile(Path("a.png")), True),
        (CellImage(Path("a.parquet"), "image", 0, 0), True),
        (Bands(Path("a.png")), False),
        (Stack((ImageFile(Path("a.png")),)), False),
    ],
)
def test_what_is_normalised_and_padded_as_colours(image, coloured):
    assert in_colours(image) == coloured


def test_every_epoch_and_every_seed_has_an_order_and_changes_of_its_own(shapes):
    def drawn(seed, epoch):
        feed = build_feed(shapes, load_config("modern", {**TINY, "data.batch_size": 1, "seed": seed}))
        return [(*batch.stems, float(batch.images.sum())) for (batch,) in feed.steps(epoch)]

    first = drawn(0, 1)
    assert first == drawn(0, 1)
    for other in (drawn(0, 2), drawn(1, 1)):
        assert [stem for stem, _ in other] != [stem for stem, _ in first]
        assert set(other).isdisjoint(first), "no image is cropped, mirrored and coloured as before"


@pytest.mark.parametrize(
    ("epochs", "steps"), [(0.01, 1), (0.5, 5), (1, 10), (1.26, 13), (2.5, 25), (2.51, 25), (3, 30)]
)
def test_a_part_of_an_epoch_is_its_beginning(shapes, epochs, steps):
    whole, part = (
        build_feed(shapes, load_config("modern", {**TINY, "data.batch_size": 1, "epochs": passes}))
        for passes in (3, epochs)
    )

    def seen(feed):
        numbers = range(1, feed.last_epoch + 1)
        return [batch.stems for number in numbers for (batch,) in feed.steps(number)]

    assert whole.steps_an_epoch == 10
    assert part.total_steps == steps
    assert seen(part) == seen(whole)[:steps]
    assert part.evaluates(part.last_epoch)


@pytest.mark.parametrize(("batch_size", "accumulate", "ranks"), [(4, 1, 2), (4, 2, 2), (3, 2, 3), (5, 2, 1), (4, 3, 2)])
def test_ranks_share_every_step_without_overlap(batch_size, accumulate, ranks):
    def batches(rank, number):
        sampler = EpochSampler(50, seed=1)
        sampler.set_epoch(3)
        return StepBatches(sampler, batch_size, batch_size * accumulate, rank, number)

    alone = batches(0, 1)
    step = batch_size * accumulate
    order = [key for batch in alone for key in batch]
    assert len(order) == 50 // step * step and all(len(batch) <= batch_size for batch in alone)
    shares = [[key for batch in batches(rank, ranks) for key in batch] for rank in range(ranks)]
    share = step // ranks
    for number in range(50 // step):
        together = [key for keys in shares for key in keys[number * share : (number + 1) * share]]
        assert together == order[number * step : (number + 1) * step]


def test_a_step_that_cannot_be_shared():
    with pytest.raises(UsageError, match="a step of 5 images cannot be shared by 2 ranks"):
        StepBatches(EpochSampler(50, seed=1), 5, 5, 1, 2)


def test_workers_do_not_change_the_result(shapes, tmp_path):
    assert build_feed(shapes, load_config("modern", {**TINY, "data.workers": 2})).loader.num_workers == 2
    run(shapes, tmp_path / "here")
    run(shapes, tmp_path / "there", settings={"data.workers": 2})
    assert same(weights(tmp_path / "here" / "last"), weights(tmp_path / "there" / "last"))


def test_workers_keep_what_they_read(tmp_path):
    """The files are gone in the second epoch."""
    source = write_shapes(tmp_path / "data", count=6, sizes=(40, 48))
    feed = build_feed(source, load_config("modern", {**TINY, "data.workers": 1, "data.batch_size": 2}))
    first = [batch.stems for (batch,) in feed.steps(1)]
    for path in (tmp_path / "data" / "images").iterdir():
        path.unlink()
    assert sorted(sum(first, ())) == sorted(sum([batch.stems for (batch,) in feed.steps(2)], ()))


@pytest.mark.parametrize(("workers", "share"), [(0, 1), (1, 1), (2, 2)])
def test_workers_share_what_may_be_kept(shapes, workers, share):
    feed = build_feed(shapes, load_config("modern", TINY | {"data.workers": workers, "data.cache_mb": 64}))
    assert feed.loader.dataset.dataset.budget == (64 << 20) // share


def test_processes_that_read_are_forked_on_linux(shapes):
    """Not by a server that signals end, as is Python 3.14's way."""
    for workers, kinds in ((0, {None}), (2, {"fork"} if sys.platform == "linux" else {None, "spawn"})):
        loader = build_feed(shapes, load_config("modern", TINY | {"data.workers": workers})).loader
        context = loader.multiprocessing_context
        assert (context and context.get_start_method()) in kinds


def test_what_a_worker_cannot_read_is_said_in_one_line(tmp_path):
    """Not with its traceback."""
    source = write_shapes(tmp_path / "data", count=6, sizes=(48, 64))
    for path in (tmp_path / "data" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    said = []
    for workers in (0, 1):
        with pytest.raises(DataError) as raised:
            run(source, tmp_path / f"run{workers}", settings={"data.workers": workers, "data.batch_size": 1})
        said.append(str(raised.value))
    assert said[0] == said[1] and "Traceback" not in said[0]


forked = pytest.mark.skipif(
    multiprocessing.get_all_start_methods()[0] != "fork", reason="what is patched here reaches forked processes alone"
)


@forked
def test_what_goes_wrong_in_a_process_that_reads_images_is_not_hidden(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(type(shapes), "read_sample", lambda *_: torch.zeros(2, 3) @ torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(shapes, tmp_path / "run", settings={"data.workers": 1})


@forked
def test_a_process_that_reads_images_and_dies_is_no_bug_of_ours(shapes, tmp_path, monkeypatch):
    """The system ends one where memory is short."""

    def dies(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(type(shapes), "read_sample", dies)
    with pytest.raises(
        UsageError, match=r"reads images was ended, often for want of memory: fewer of them \(data.work"
    ):
        run(shapes, tmp_path / "run", settings={"data.workers": 1})


def test_one_that_dies_while_this_one_computes_is_none_either(shapes, tmp_path, monkeypatch):
    """Torch says so wherever this process is just then."""

    def told(*arguments):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(loop, "train_step", told)
    with pytest.raises(UsageError, match=r"reads images was ended, often for want of memory: .*worker \(pid 7\) is ki"):
        run(shapes, tmp_path / "run")


def test_of_a_step_that_is_left_no_more_is_read(shapes):
    feed = build_feed(shapes, load_config("modern", {**TINY, "data.batch_size": 1, "data.accumulate": 4}))
    asked = iter([False, True])
    assert len(next(feed.steps(1, 0, lambda: next(asked)))) == 2
    assert len(next(feed.steps(1))) == 4
