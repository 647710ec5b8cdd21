import gc
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import statistics
import sys
import warnings
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

from fullconv import fcn8s, load, train
from fullconv.data import DataSource, open_dataset, write_shapes
from fullconv.errors import DataError, ModelError, NotFinite, UsageError
from fullconv.evaluation import evaluate
from fullconv.files import Bands, CellImage, ImageFile, Stack
from fullconv.files.masks import MaskFile
from fullconv.models import FCN
from fullconv.training import loop, progress, range_test
from fullconv.training.checkpoint import Checkpoints
from fullconv.training.config import load_config
from fullconv.training.feed import (
    build_feed,
    derived_crop,
    derived_epochs,
    evaluated_epochs,
    in_colours,
    input_scale,
    median_side,
    resolved,
)
from fullconv.training.interrupt import Interrupt, Interrupted
from fullconv.training.loop import check_same_step, starting_network
from fullconv.training.network import build_model, initialised
from fullconv.training.optim import rate_factor
from fullconv.training.progress import describe
from fullconv.training.runlog import RunLog
from fullconv.training.runtime import Runtime
from fullconv.training.stages import check_networks
from fullconv.training.state import Clock, Session, TrainState

TINY = {"model.trunk": "small", "model.context": "none", "data.crop": 48, "data.batch_size": 4}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), count=12, sizes=(48, 64))


def run(source, folder, **options):
    settings = {**TINY, **options.pop("settings", {})}
    return train(source, folder, quiet=True, settings=settings, **{"epochs": 1, **options})


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_same_seed_gives_the_same_weights(shapes, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(shapes, tmp_path / name, seed=seed)
    one, again, other = (weights(tmp_path / name / "last") for name in "abc")
    assert same(one, again)
    assert not same(one, other)


def test_workers_do_not_change_the_result(shapes, tmp_path):
    assert build_feed(shapes, load_config("modern", {**TINY, "data.workers": 2})).loader.num_workers == 2
    run(shapes, tmp_path / "here")
    run(shapes, tmp_path / "there", settings={"data.workers": 2})
    assert same(weights(tmp_path / "here" / "last"), weights(tmp_path / "there" / "last"))


@pytest.mark.parametrize("larger", [1, 1.5])
def test_four_images_are_learned_by_heart(tmp_path, larger):
    """The user's path at its smallest: overfit to mean IU above 0.95."""
    source = write_shapes(tmp_path / "data", count=6, sizes=(64, 64), seed=3)
    few = replace(source, splits={"train": source.splits["train"][:4], "val": source.splits["train"][:4]})
    settings = {
        **TINY,
        "data.crop": round(64 * larger),
        "data.scale": [1, 1],
        "data.flip": 0,
        "data.colour": 0,
        "model.finest_stride": 4,
        "model.input_scale": larger,
        "model.dropout": 0,
        "optim.rate": 5e-3,
        "evaluations": 1,
    }
    result = train(few, tmp_path / "run", quiet=True, epochs=75, settings=settings)
    assert result.scores.mean_iu > 0.95


def test_a_run_stands_for_its_best_model(shapes, tmp_path):
    result = run(shapes, tmp_path / "run")
    scores = evaluate(result.run, shapes, "val")
    assert scores.mean_iu == pytest.approx(result.scores.mean_iu)
    assert load(result.run).label_set == shapes.labels
    summary = json.loads((result.run / "summary.json").read_text())
    assert summary["scores"]["mean_iu"] == pytest.approx(scores.mean_iu)


def test_without_validation_the_last_weights_are_the_best(shapes, tmp_path):
    source = replace(shapes, splits={"train": shapes.splits["train"]})
    result = run(source, tmp_path / "run")
    assert result.scores is None
    assert same(weights(tmp_path / "run" / "best"), weights(tmp_path / "run" / "last"))


@pytest.mark.parametrize("recipe", ["paper-heavy", "paper-accumulate", "at-once", "modern"])
def test_recipes_run(shapes, tmp_path, recipe):
    settings = {"model.trunk": "small", "model.context": "none", "model.padding": "same"}
    result = train(shapes, tmp_path / "run", recipe=recipe, quiet=True, epochs=1, settings=settings)
    assert (result.run / "best" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"optim.optimiser": "sgd", "optim.schedule": "onecycle", "optim.rate": 0.01, "optim.momentum": 0.5},
        {"optim.precision": "bf16"},
        {"optim.balance": 0.5, "optim.label_smoothing": 0.1},
        {"optim.loss": "sum", "optim.rate": 1e-6, "optim.clip": 1.0},
        {"model.scaled_skips": True, "model.learnable_upsampling": True},
        {"model.finest_stride": 4},
        {"data.crop": "none", "data.cache_mb": 0, "data.replacement": True},
        {"optim.average": 0, "optim.jaccard": 0, "optim.momentum": 0.5, "data.flip": 0, "data.colour": 0},
        {"data.scale": [1, 1], "data.accumulate": 2, "optim.batch_norm": "frozen"},
    ],
)
def test_every_setting_is_followed(shapes, tmp_path, settings):
    """Each of them alone, on top of those before it, ends elsewhere; but for the cache, which must not."""
    folders = [run(shapes, tmp_path / "none").run]
    for count, name in enumerate(settings, 1):
        some = dict(list(settings.items())[:count])
        folders.append(run(shapes, tmp_path / name, settings=some).run)
        assert same(weights(folders[-1] / "last"), weights(folders[-2] / "last")) == (name == "data.cache_mb"), name


def test_without_evaluations_nothing_is_scored(shapes, tmp_path, monkeypatch):
    """Where whole images are too much for the memory."""
    monkeypatch.setattr(loop, "validate", None)
    result = run(shapes, tmp_path / "run", settings={"evaluations": 0})
    assert result.scores is None
    assert same(weights(tmp_path / "run" / "best"), weights(tmp_path / "run" / "last"))


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


def test_epochs_are_those_that_were_trained(shapes, tmp_path):
    steps = len(shapes.records("train")) // 2
    assert run(shapes, tmp_path / "run", epochs=0.01, settings={"data.batch_size": 2}).epochs == 1 / steps


def test_what_was_restored_does_not_stay_in_memory(shapes, tmp_path, monkeypatch):
    kept = []
    real = Checkpoints.latest

    def remembered(checkpoints):
        checkpoint = real(checkpoints)
        kept.append(weakref.ref(checkpoint))
        return checkpoint

    def stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", stop)
        with pytest.raises(Interrupted):
            run(shapes, tmp_path / "run", epochs=2)
    monkeypatch.setattr(Checkpoints, "latest", remembered)
    seen = []
    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *words: (seen.append(kept[-1]()), step(*words))[1])
    train(shapes, resume=tmp_path / "run", quiet=True)
    assert seen and not any(seen)


def test_a_val_split_without_a_labelled_pixel_is_not_scored(tmp_path, capsys):
    source = write_shapes(tmp_path / "data", count=12, sizes=(48, 64))
    for record in source.records("val"):
        path = tmp_path / "data" / "masks" / f"{record.stem}.png"
        Image.fromarray(np.full_like(np.array(Image.open(path)), 255)).save(path)
    settings = {**TINY, "evaluations": 4}
    result = train(open_dataset(tmp_path / "data"), tmp_path / "run", settings=settings, epochs=4)
    assert capsys.readouterr().err.count("no pixel of the val split is labelled") == 4
    assert result.scores is None and "NaN" not in (result.run / "log.jsonl").read_text()
    assert same(weights(result.run / "best"), weights(result.run / "last"))


def test_the_rate_is_said_for_the_pixels_that_count(shapes):
    """With ``keep``, and for whole images of other sizes, as many as there are in the mean."""
    samples = shapes.dataset("train")
    mean = sum(samples[index].target.numel() for index in range(len(samples))) / len(samples)
    sgd = {**TINY, "optim.optimiser": "sgd", "data.keep": 0.25}
    for crop, stride, area in ((48, 1, 48 * 48), ("none", 1, mean), (48, 4, 12 * 12)):
        config = load_config("modern", {**sgd, "data.crop": crop, "optim.loss_stride": stride})
        lines = describe(build_model(shapes, config), shapes, build_feed(shapes, config), config, Runtime(device="cpu"))
        assert f"{4 * area / 4:,.0f} pixels a step" in lines[-1]


@pytest.mark.parametrize("error", [NotFinite("nan"), KeyboardInterrupt(), Interrupted(15, ""), MemoryError()])
def test_the_error_that_ends_a_run_holds_none_of_it(shapes, tmp_path, monkeypatch, error):
    """Notebooks keep the last error."""
    held = []

    def step(model, batches, optimiser, objective):
        held.extend(weakref.ref(kept) for kept in (model, optimiser, batches[0].images))
        raise error

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(type(error)):
        run(shapes, tmp_path / "run")
    gc.collect()
    assert held and not any(kept() is not None for kept in held)


def test_a_loss_that_explodes_stops_the_run_and_keeps_nothing_of_it(shapes, tmp_path):
    """After each step a checkpoint is written, after each second one an epoch ends."""
    settings = {"optim.optimiser": "sgd", "optim.warmup": 0, "checkpoint_minutes": 0}
    with pytest.raises(NotFinite, match=r"lower optim\.rate"):
        run(shapes, tmp_path / "run", epochs=30, settings=settings | {"optim.rate": 1e10})
    assert not (tmp_path / "run" / "best").exists()
    kept = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert kept is not None and all(bool(torch.isfinite(tensor).all()) for tensor in kept.tensors.values())


@pytest.mark.parametrize(("often", "epochs"), [(0, 1), (5, 1), (5, 2)])
def test_weights_that_explode_in_the_last_step_are_not_kept(shapes, tmp_path, often, epochs):
    """Of an epoch, whether it is scored or not."""
    settings = {"optim.optimiser": "sgd", "optim.rate": 1e300, "data.batch_size": 12, "checkpoint_minutes": often}
    with pytest.raises(NotFinite, match="the norm of the weights is"):
        run(shapes, tmp_path / "run", epochs=epochs, settings=settings | {"evaluations": 1})
    assert not list((tmp_path / "run").rglob("*.safetensors")) and not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_data_is_found_before_the_first_step(tmp_path, split):
    mask = write_shapes(tmp_path / "data", count=6, sizes=(40, 48)).records(split)[0].mask.path
    mask.write_bytes(b"")
    with pytest.raises(DataError, match=mask.name):
        run(open_dataset(tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_small_images_are_enlarged_and_that_is_said(shapes, tmp_path, capsys):
    settings = {"model.trunk": "small", "model.context": "none", "data.batch_size": 4}
    result = train(shapes, tmp_path / "run", epochs=1, settings=settings)
    said = capsys.readouterr().err
    side = median_side(shapes)
    assert f"images seen 2 times as large: median shorter side {side}, to about 384, at most 2 times" in said
    assert "crops of 128×128: the median shorter side as seen" in said
    model = FCN.from_pretrained(result.run / "best")
    assert model.input_scale == 2
    assert load(result.run).predict(np.zeros((31, 17), np.uint8)).labels.shape == (31, 17)


def test_crops_are_cut_from_enlarged_images(shapes):
    """A crop as large as the enlarged images is filled by them to the last row and column."""
    still = {"data.scale": [1, 1], "data.colour": 0, "data.batch_size": 1, "data.crop": 192}
    config = load_config("modern", {**still, "model.input_scale": 3})
    for (batch,) in build_feed(shapes, config).steps(1):
        height, width = next(shapes.image_size(r) for r in shapes.records("train") if r.stem == batch.stems[0])
        rows, columns = (batch.targets[0] != batch.ignore_index).nonzero().max(0).values.tolist()
        assert (rows, columns) == (min(192, 3 * height) - 1, min(192, 3 * width) - 1)


def test_whole_images_stay_as_large_as_they_are(shapes, tmp_path):
    whole = {"data.crop": "none", "data.batch_size": 1}
    assert input_scale(shapes, load_config("modern", whole)) == 1
    with pytest.raises(UsageError, match=r"model\.input_scale=2 is for crops"):
        run(shapes, tmp_path / "run", settings={**whole, "model.input_scale": 2})


def test_an_epoch_of_patches_is_all_of_them(shapes):
    """So that their number decides how often they are seen."""
    feed = build_feed(shapes, load_config("modern", {"data.patches": "uniform", "data.crop": 32}))
    assert feed.samples > 2 * len(shapes.records("train"))
    assert feed.epochs == derived_epochs(feed.samples)


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


def test_what_was_derived_is_said_with_its_reason(shapes):
    source = replace(shapes, splits={"train": shapes.splits["train"][:2]})
    config = load_config("modern", {**TINY, "data.batch_size": 40, "data.crop": "none"})
    said = describe(build_model(source, config), source, build_feed(source, config), config, Runtime(device="cpu"))
    assert "200 epochs of 2 images (1000 / √2 passes, at least 4, at most 200), 1 steps of 2 an epoch" in said
    assert "whole images, as large as they are (data.scale is for crops)" in said
    assert f"{source.labels.num_classes} classes; no val split: the last weights will be the best" in said
    (line,) = (line for line in said if line.startswith("the trunk starts from random weights: --trunk-weights takes"))
    assert "may hardly learn" not in line


@pytest.mark.parametrize(("trunk", "warned"), [("small", True), ("alexnet", False)])
def test_frozen_statistics_of_random_weights_are_warned_of(shapes, trunk, warned):
    settings = {**TINY, "model.trunk": trunk, "model.context": "none", "optim.batch_norm": "frozen"}
    config = load_config("modern", settings)
    said = describe(build_model(shapes, config), shapes, build_feed(shapes, config), config, Runtime(device="cpu"))
    assert any("may hardly learn" in line for line in said) == warned


@pytest.mark.parametrize(("crop", "larger", "room"), [(8, 1, "48"), (8, 2, "192"), (16, 1, None)])
def test_large_images_are_said_to_have_room_for_patches(shapes, monkeypatch, crop, larger, room):
    """Here of 48×64 pixels each."""
    monkeypatch.setattr(progress, "mean_area", lambda source: 48 * 64)
    config = load_config("modern", {**TINY, "data.crop": crop, "model.input_scale": larger})
    feed = build_feed(shapes, config)
    said = "\n".join(describe(build_model(shapes, config), shapes, feed, config, Runtime(device="cpu")))
    assert ("data.patches=uniform" in said) == (room is not None)
    assert room is None or f"an image has room for {room} crops" in said


def test_what_rare_classes_count_is_said(shapes, tmp_path, capsys):
    train(shapes, tmp_path / "run", epochs=0.01, settings={**TINY, "optim.balance": 0.2})
    line = re.search(r"a pixel counts from ([\d.]+) \(\w+\) to ([\d.]+) \(\w+\): rare", capsys.readouterr().err)
    assert float(line[1]) < 1 < float(line[2])


def test_data_without_a_train_split(shapes, tmp_path):
    source = replace(shapes, splits={"test": shapes.splits["test"]})
    with pytest.raises(DataError, match="has no split 'train'"):
        run(source, tmp_path / "run")


def test_a_run_folder_in_use_is_refused(shapes, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="already holds files"):
        run(shapes, tmp_path / "run")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_defaults_are_derived_from_the_data(shapes):
    assert [derived_epochs(count) for count in (1, 572, 2486, 10**6)] == [200, 42, 20, 4]
    sides = [min(shapes.image_size(record)) for record in shapes.records("train")]
    assert median_side(shapes) == statistics.median_high(sides)
    assert derived_crop(median_side(shapes), 1.0) == (64, 64)
    assert derived_crop(400, 2.0) == (512, 512)
    assert evaluated_epochs(5, 8) == {1, 2, 3, 4, 5}
    assert evaluated_epochs(5, 0) == set()
    assert max(evaluated_epochs(40, 8)) == 40


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


def test_a_run_may_end_within_an_epoch(shapes, tmp_path):
    result = run(shapes, tmp_path / "run", epochs=1.5, settings={"data.batch_size": 1})
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert "mean_iu" in lines[-1]
    assert result.epochs == json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 1.5


class Ranks(Runtime):
    """As if there were another rank that has 0 to say; a signal comes while they ask each other."""

    def __init__(self, interrupt=None):
        super().__init__(device="cpu")
        self.interrupt = interrupt

    def largest(self, number):
        if self.interrupt:
            self.interrupt.number = 15
        return number

    def of_each(self, number):
        return [number, 0]

    def wait(self):
        self.waited = True


def test_a_signal_while_ranks_ask_each_other_is_not_lost():
    interrupt = Interrupt()
    ranks = Ranks(interrupt)
    session = Session(at_step(3), RunLog("run"), Clock(), ranks, interrupt)
    session.stop_if_asked()
    with pytest.raises(Interrupted, match="SIGTERM: saved"):
        session.stop_if_asked()
    assert ranks.waited, "torchrun ends the others as soon as one has ended"


def test_ranks_that_would_go_on_from_different_steps_do_not():
    check_same_step(at_step(0), Ranks())
    with pytest.raises(ModelError, match=r"ranks would go on from different steps \(7, 0\)"):
        check_same_step(at_step(7), Ranks())


def at_step(number):
    """A state of which no more than that is known, and that it was kept."""
    state = TrainState.__new__(TrainState)
    state.step, state.records, state.kept = number, [], (number, 0)
    return state


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


def test_fresh_layers_are_said_as_training_begins_and_not_before(shapes, tmp_path):
    weights = {f"features.{name}": value for name, value in torchvision.models.alexnet().features.state_dict().items()}
    save_file(weights, tmp_path / "features.safetensors")
    settings = TINY | {"model.trunk": "alexnet", "model.trunk_weights": str(tmp_path / "features.safetensors")}
    config = load_config("modern", settings | {"model.context": "fc"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_networks(shapes, config)
    with pytest.warns(UserWarning, match="holds no fc6 and fc7, which start from random weights"):
        starting_network(shapes, config, RunLog(tmp_path / "run"), quiet=True)


def test_a_task_of_one_class_is_refused(shapes, tmp_path):
    """Its softmax is 1 everywhere: nothing is learned, and every score is perfect."""
    write_shapes(tmp_path / "data", count=6, sizes=(48, 64))
    names = "{0: void, 1: void, 2: disc, 3: void}"
    (tmp_path / "data" / "dataset.yaml").write_text(f"classes: {names}")
    with pytest.raises(DataError, match=r"dataset\.yaml: the task semantic has the one class 'disc', so there"):
        run(tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_everywhere_is_said_where_it_is_seen(shapes, tmp_path):
    """Not after epochs that were not scored."""
    settings = {"model.trunk": "small", "data.crop": 32, "optim.rate": 1e-30, "evaluations": 4}
    train(shapes, tmp_path / "run", settings=settings, epochs=8, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    said = [line["epoch"] for line in lines if any("every pixel" in words for words in line.get("warnings", ()))]
    assert said == [6, 8]


def test_best_is_the_best_and_last_the_last(shapes, tmp_path, monkeypatch):
    """Three evaluations: a bad one, a good one, one in between."""
    classes, seen = shapes.labels.num_classes, []
    good = torch.eye(classes, dtype=torch.long) * 9
    scores = [1 - torch.eye(classes, dtype=torch.long), good, good + 1]

    def validate(session, source):
        weights = session.state.average.model.state_dict()
        seen.append({name: tensor.clone() for name, tensor in weights.items()})
        return scores[len(seen) - 1]

    monkeypatch.setattr(loop, "validate", validate)
    result = run(shapes, tmp_path / "run", epochs=3, settings={"evaluations": 3})
    assert same(weights(result.run / "best"), seen[1]) and same(weights(result.run / "last"), seen[2])
    assert not same(seen[1], seen[2])
    assert json.loads((result.run / "summary.json").read_text())["confusion"] == good.tolist()
    assert result.scores.mean_iu == 1


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_cells_that_are_left_out_have_no_target(shapes, keep):
    config = load_config("modern", {**TINY, "data.keep": keep, "data.scale": [1, 1], "model.finest_stride": 16})
    batches = [batch for step in build_feed(shapes, config).steps(1) for batch in step]
    ignored = torch.cat([(batch.targets == 255).reshape(-1, 3, 16, 3, 16).float() for batch in batches])
    share = float((ignored.mean((2, 4)) == 1).float().mean())
    assert (share < 0.1) if keep == 1 else (0.3 < share < 0.7)


def test_a_frozen_trunk_stays_as_it_was(shapes, tmp_path):
    """Its running statistics too."""
    torch.manual_seed(0)
    model = fcn8s("small", shapes.labels.num_classes, context="none")
    model.save_pretrained(tmp_path / "saved")
    settings = {"model.init": str(tmp_path / "saved"), "optim.trunk_rate": 0}
    found, before = weights(run(shapes, tmp_path / "run", settings=settings).run / "last"), model.state_dict()
    changed = {name for name in before if not torch.equal(found[name], before[name])}
    assert changed and all(name.startswith("heads.") for name in changed)


def test_a_model_to_start_from_brings_its_trunk(shapes, tmp_path):
    """Which need not be named; another one, named, is refused."""
    fcn8s("small", shapes.labels.num_classes, context="none").save_pretrained(tmp_path / "saved")
    settings = {key: value for key, value in TINY.items() if key != "model.trunk"}
    settings["model.init"] = str(tmp_path / "saved")
    result = train(shapes, tmp_path / "run", settings=settings, epochs=1, quiet=True)
    assert FCN.from_pretrained(result.run / "best").config.trunk == "small"
    with pytest.raises(ModelError, match="another trunk"):
        train(shapes, tmp_path / "other", trunk="resnet18", settings=settings, epochs=1, quiet=True)


@pytest.mark.parametrize("recompute", [False, True])
def test_less_is_kept_where_that_is_asked_for(shapes, recompute):
    model = build_model(shapes, load_config("modern", {**TINY, "model.recompute": recompute}))
    assert model.trunk.body.recompute == recompute


def test_a_class_without_a_pixel_is_named(shapes, tmp_path, monkeypatch, capsys):
    real = DataSource.class_pixels

    def without_the_last(source, split):
        counts = real(source, split)
        return counts * (torch.arange(len(counts)) < len(counts) - 1)

    monkeypatch.setattr(DataSource, "class_pixels", without_the_last)
    train(shapes, tmp_path / "run", settings=TINY, epochs=1)
    assert f"warning: no training mask holds {shapes.labels.names[-1]}:" in capsys.readouterr().err


def test_every_epoch_and_every_seed_has_an_order_and_changes_of_its_own(shapes):
    def drawn(seed, epoch):
        feed = build_feed(shapes, load_config("modern", {**TINY, "data.batch_size": 1, "seed": seed}))
        return [(*batch.stems, float(batch.images.sum())) for (batch,) in feed.steps(epoch)]

    first = drawn(0, 1)
    assert first == drawn(0, 1)
    for other in (drawn(0, 2), drawn(1, 1)):
        assert [stem for stem, _ in other] != [stem for stem, _ in first]
        assert set(other).isdisjoint(first), "no image is cropped, mirrored and coloured as before"


def test_every_seed_has_weights_of_its_own(shapes):
    def first(seed):
        network, _ = initialised(shapes, load_config("modern", {**TINY, "seed": seed}))
        return next(network.parameters())

    assert first(0).equal(first(0)) and not first(0).equal(first(1))


def test_what_is_left_out_differs_from_step_to_step_and_from_seed_to_seed(shapes, tmp_path, monkeypatch):
    real, seen = loop.train_step, []

    def noting(*arguments):
        seen.append(torch.initial_seed())
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", noting)
    for seed in (0, 1):
        run(shapes, tmp_path / str(seed), settings={"data.batch_size": 1}, seed=seed)
    assert len(set(seen)) == len(seen) > 10


def test_images_that_are_trained_on_and_scored_are_mentioned(shapes, tmp_path, capsys):
    both = shapes.splits["train"][:2]
    again = [replace(record, mask=MaskFile(Path(shutil.copy(record.mask.path, tmp_path)))) for record in both]
    leaky = replace(shapes, splits={"train": shapes.splits["train"], "val": (*shapes.splits["val"], *again)})
    train(leaky, tmp_path / "run", settings=TINY, epochs=1)
    said = f"warning: 2 of the {len(leaky.splits['val'])} val images are trained on, too, such as {both[0].stem}:"
    assert said in capsys.readouterr().err
    train(shapes, tmp_path / "sound", settings=TINY, epochs=1)
    assert "trained on, too" not in capsys.readouterr().err


def test_the_configuration_that_is_kept_says_what_was_derived(shapes, tmp_path):
    """Small images are seen twice as large; epochs and crops go by their number and size."""
    settings = {"model.trunk": "small", "model.context": "none", "data.crop": "auto", "epochs": 0.1}
    train(shapes, tmp_path / "run", settings=settings, quiet=True)
    config = load_config(str(tmp_path / "run" / "config.yaml"))
    side = median_side(shapes)
    assert config.model.input_scale == 2 and config.data.crop == derived_crop(side, 2.0)
    asked = load_config("modern", settings | {"epochs": "auto"})
    assert resolved(shapes, asked).epochs == derived_epochs(len(shapes.splits["train"]))
    assert resolved(shapes, load_config("paper-heavy")).data.crop == "none"


def test_a_model_to_start_from_brings_its_context(shapes, tmp_path):
    """So that its scores are of the same features; another one, asked for, leaves none of them, and that is said."""
    model = fcn8s("small", shapes.labels.num_classes, context=24)
    model.labels["semantic"] = shapes.labels
    model.save_pretrained(tmp_path / "saved")
    settings = {"data.crop": 32, "model.init": str(tmp_path / "saved"), "model.input_scale": 1}
    same = train(shapes, tmp_path / "same", settings=settings, epochs=0.01, quiet=True).run
    assert FCN.from_pretrained(same / "best").config.context == 24
    coarse = {"model.finest_stride": 32, "model.context": 8}
    other = train(shapes, tmp_path / "other", settings=settings | coarse, epochs=0.01, quiet=True).run
    assert FCN.from_pretrained(other / "best").config.context == 8
    reports = [json.loads((run / "transplant.json").read_text()) for run in (same, other)]
    assert [report["classes"]["semantic"] for report in reports] == [list(shapes.labels.names), []]


def test_the_state_is_kept_every_five_minutes_and_as_an_epoch_ends(shapes, tmp_path, monkeypatch):
    """Each step takes two of them, each epoch ten steps."""
    now, steps, kept, real = [0.0], [], [], loop.train_step

    def step(*arguments):
        now[0] += 120
        steps.append(real(*arguments))
        return steps[-1]

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(Checkpoints, "write", lambda self, checkpoint: kept.append(checkpoint.step))
    run(shapes, tmp_path / "run", epochs=2, settings={"data.batch_size": 1})
    assert len(steps) == 20 and kept == [3, 6, 9, 10, 13, 16, 19, 20]


def test_every_step_is_shown(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SILENCE", -1)
    train(shapes, tmp_path / "run", settings={**TINY, "data.batch_size": 5}, epochs=1)
    shown = re.findall(r"step (\d)/2  loss [\d.]+ .*images/s  ([\d.]+) GiB", capsys.readouterr().err)
    assert [step for step, _ in shown] == ["1", "2"] and all(0 < float(memory) < 64 for _, memory in shown)


def test_what_a_run_remembers_makes_the_same_run(shapes, tmp_path):
    """Also where another context was set than the model's that it began with."""
    fcn8s("small", shapes.labels.num_classes, context=24).save_pretrained(tmp_path / "saved")
    settings = {**TINY, "model.init": str(tmp_path / "saved"), "model.context": 8}
    run(shapes, tmp_path / "one", settings=settings)
    train(shapes, tmp_path / "again", recipe=str(tmp_path / "one" / "config.yaml"), quiet=True)
    assert same(weights(tmp_path / "one" / "last"), weights(tmp_path / "again" / "last"))


def test_a_run_folder_that_cannot_be_is_refused_at_once(shapes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(loop, "train_step", None)
    for find in (run, partial(range_test.find_rate, settings=TINY)):
        with pytest.raises(UsageError, match=r"file/run: cannot be written .*; choose another --out"):
            find(shapes, tmp_path / "file" / "run")


def test_the_rate_falls_over_the_whole_run(shapes, tmp_path, monkeypatch):
    """Not within its first epoch."""
    rates, real = [], loop.train_step

    def step(model, batches, optimiser, objective):
        rates.append(optimiser.param_groups[0]["lr"])
        return real(model, batches, optimiser, objective)

    monkeypatch.setattr(loop, "train_step", step)
    run(shapes, tmp_path / "run", epochs=2, settings={"data.batch_size": 1})
    optim = load_config("modern").optim
    assert rates == pytest.approx([optim.rate * rate_factor(optim, number, 20) for number in range(20)])


@pytest.mark.parametrize("choice", ["uniform", "class", "foreground"])
def test_patches_lie_where_they_are_asked_to(shapes, choice):
    config = load_config("modern", {**TINY, "data.patches": choice, "data.crop": 32, "model.input_scale": 2})
    drawn = build_feed(shapes, config).loader.dataset
    assert drawn.choice == choice
    sizes = [shapes.image_size(record) for record in shapes.records("train")]
    assert len(drawn) == sum(math.ceil(2 * height / 32) * math.ceil(2 * width / 32) for height, width in sizes)


def test_time_and_steps_are_counted_from_the_beginning_of_the_run(shapes, tmp_path, monkeypatch, capsys):
    """Each step takes a second; the run is stopped after the fourth of twelve."""
    now, steps, real = [0.0], [], loop.train_step
    source = replace(shapes, splits={"train": shapes.splits["train"][:6]})
    settings = {**TINY, "data.batch_size": 1}

    def step(*arguments):
        now[0] += 1
        steps.append(now[0])
        loss = real(*arguments)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "SILENCE", 0.5)
    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(Interrupted):
        train(source, tmp_path / "run", settings=settings, epochs=2)
    now[0] = 100.0
    capsys.readouterr()
    result = train(source, resume=tmp_path / "run")
    shown = re.findall(r"step (\d+)/12", capsys.readouterr().err)
    assert shown == [str(number) for number in range(5, 13)]
    assert result.seconds == 12


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


def test_processes_that_read_are_forked_on_linux(shapes):
    """Not by a server that signals end, as is Python 3.14's way."""
    for workers, kinds in ((0, {None}), (2, {"fork"} if sys.platform == "linux" else {None, "spawn"})):
        loader = build_feed(shapes, load_config("modern", TINY | {"data.workers": workers})).loader
        context = loader.multiprocessing_context
        assert (context and context.get_start_method()) in kinds


def test_the_callers_chance_is_left_alone(shapes, tmp_path):
    """Or all points of a random search would be one."""
    before = torch.get_rng_state()
    run(shapes, tmp_path / "run")
    range_test.find_rate(shapes, tmp_path / "rates", settings=TINY, steps=3)
    assert torch.get_rng_state().equal(before)


def test_how_to_go_on_with_what_was_opened_in_python(shapes, tmp_path, monkeypatch):
    def stopping(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    monkeypatch.setattr(loop, "train_step", stopping)
    with pytest.raises(Interrupted, match=r"SIGTERM: saved; fullconv\.train\(source, resume='.*run'\)$"):
        run(shapes, tmp_path / "run")


def test_the_best_is_the_best_in_all_classes(shapes, tmp_path, monkeypatch):
    """Not in most pixels, which may all be of one."""
    classes = shapes.labels.num_classes
    even = torch.ones(classes, classes, dtype=torch.long).fill_diagonal_(9)
    frequent = torch.zeros_like(even)
    frequent[:, 0] = 9
    frequent[0, 0] = 1000
    scores = [even, frequent]
    monkeypatch.setattr(loop, "validate", lambda *_: scores.pop(0))
    result = run(shapes, tmp_path / "run", epochs=2, settings={"evaluations": 2})
    assert not scores and result.scores.confusion.equal(even)


def test_what_is_scored_is_what_is_saved(shapes, tmp_path, monkeypatch):
    """The averaged network, not the one that is trained."""
    real, scored = loop.confusion, []

    def noting(predictor, samples):
        scored.append({name: tensor.clone() for name, tensor in predictor.model.state_dict().items()})
        return real(predictor, samples)

    monkeypatch.setattr(loop, "confusion", noting)
    result = run(shapes, tmp_path / "run", settings={"optim.average": 0.9, "evaluations": 1})
    assert len(scored) == 1 and same(weights(result.run / "best"), scored[0])


def test_a_rank_keeps_its_share_of_the_state_when_the_first_does():
    """Whatever its own clock says."""
    ranks = Ranks()
    for minutes, said in ((0.0, 0), (5.0, 1)):
        ranks.largest = lambda number, said=said: said
        session = Session(at_step(3), RunLog("run"), Clock(), ranks, Interrupt())
        assert session.keep_if_due(minutes) == bool(said)


def test_padding_is_void_whatever_id_that_has(tmp_path):
    """Of 300 classes 255 is one."""
    write_shapes(tmp_path, count=4, sizes=(40, 48))
    (tmp_path / "classes.txt").write_text("\n".join(f"class {number}" for number in range(300)))
    settings = TINY | {"data.crop": 64, "data.scale": [1, 1], "model.input_scale": 1, "data.batch_size": 1}
    for (batch,) in build_feed(open_dataset(tmp_path), load_config("modern", settings)).steps(1):
        assert batch.ignore_index == 65535
        assert (batch.targets[:, 48:] == 65535).all() and (batch.targets[:, :40, :40] < 300).all()


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("imagenet", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("caffe", [123.68, 116.779, 103.939], [1, 1, 1]),
        ("half", [127.5, 127.5, 127.5], [127.5, 127.5, 127.5]),
    ],
)
def test_images_are_normalised_as_for_the_weights(shapes, name, mean, std):
    """Torchvision's, times 255; of Caffe's models, VGG's; of TensorFlow's, −1 to 1."""
    model = build_model(shapes, load_config("modern", TINY | {"model.normalisation": name}))
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    assert model.std.flatten().tolist() == pytest.approx(std)
