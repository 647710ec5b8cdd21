"""A run that was stopped or killed ends as one that was not: same weights, same metrics."""

import os
import random
import shutil
import signal
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from commands import call, start
from fullconv import open_dataset, train
from fullconv.errors import DataError, UsageError
from fullconv.inference import Predictor
from fullconv.models import FCN
from fullconv.training import loop
from fullconv.training import step as training_step
from fullconv.training.checkpoint import Checkpoints
from fullconv.training.interrupt import Interrupted
from fullconv.training.runlog import RunLog
from training.stopped_runs import EPOCHS, TINY, digest_of, digests, settings, stopped


@pytest.mark.parametrize("place", [1, 4, 5, 9, 12])
def test_interrupted_after_any_step(shapes, tmp_path, monkeypatch, uninterrupted, place):
    """Two epochs of five steps and a part of two. A signal is sent to this process after step ``place``."""
    steps, real = [], loop.train_step

    def stopping(*arguments):
        loss = real(*arguments)
        steps.append(loss)
        if len(steps) == place:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(loop, "train_step", stopping)
    with pytest.raises(Interrupted, match="SIGTERM: saved; fullconv train --resume") as stopped:
        train(shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS, quiet=True)
    assert stopped.value.exit_code == 143
    monkeypatch.setattr(loop, "train_step", lambda *arguments: steps.append(real(*arguments)) or steps[-1])
    train(resume=tmp_path / "run", quiet=True)
    assert len(steps) == 12, "none is taken twice"
    assert digests(tmp_path / "run") == uninterrupted
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "more", [{"data.patches": "class", "data.keep": 0.5}, {"data.replacement": True, "data.crop": "none"}]
)
def test_what_is_drawn_by_chance_is_drawn_again(shapes, tmp_path, monkeypatch, more):
    """Places of patches, cells that are left out, and images."""
    settings = TINY | more | {"optim.batch_norm": "frozen"}
    train(shapes, tmp_path / "whole", settings=settings, epochs=EPOCHS, quiet=True)
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=settings, epochs=EPOCHS)
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_what_bf16_rounds_is_rounded_again(shapes, tmp_path, monkeypatch):
    """Also by gradients of our own (see :mod:`fullconv.training.kernels`)."""
    pytest.importorskip("timm")
    settings = TINY | {"model.trunk": "timm:mobilenetv3_small_050", "data.crop": 64, "optim.precision": "bf16"}
    train(shapes, tmp_path / "whole", settings=settings, epochs=1, quiet=True)
    stopped(monkeypatch, "end_epoch", shapes, tmp_path / "run", settings=settings, epochs=1)
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "time", "end"),
    [("last", 1, "state"), ("state", 1, "state"), ("best", 1, "best"), ("last", 2, "last"), ("state", 2, "state")],
)
def test_interrupted_while_an_epoch_is_ended(shapes, tmp_path, monkeypatch, uninterrupted, name, time, end):
    """While something large is written, after which nothing is, but for the state if it was not just before.

    Of three epochs, the second and the third are scored.
    """
    save, keep, written = RunLog.save, RunLog.write_checkpoint, []

    def stopping(what):
        written.append(what)
        if what == name and written.count(name) == time:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "save", lambda log, model, what: stopping(what) or save(log, model, what))
        patch.setattr(RunLog, "write_checkpoint", lambda log, state: stopping("state") or keep(log, state))
        with pytest.raises(Interrupted, match="SIGTERM: saved"):
            train(shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS, quiet=True)
    assert written[-1] == end and written.count(name) == time
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == uninterrupted


def test_interrupted_while_a_stage_is_ended(shapes, tmp_path, monkeypatch):
    """The next one does not begin. A stage may be resumed alone, too."""
    settings = TINY | {"epochs": 1, "stages": [{"seed": 1}, {"seed": 2}]}
    train(shapes, tmp_path / "whole", settings=settings, quiet=True)
    real = RunLog.save

    def stopping(self, model, name):
        real(self, model, name)
        if name == "last":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "save", stopping)
        with pytest.raises(Interrupted, match=r"fullconv train --resume .*run$"):
            train(shapes, tmp_path / "run", settings=settings, quiet=True)
    assert not (tmp_path / "run" / "stage-2-8s").exists()
    train(resume=tmp_path / "run" / "stage-1-8s", quiet=True)
    train(resume=tmp_path / "run", quiet=True)
    assert digest_of(tmp_path / "run" / "best") == digest_of(tmp_path / "whole" / "best")


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (training_step, "upsampled_cross_entropy", 2),
        (training_step, "upsampled_cross_entropy", 7),
        (torch.nn.Conv2d, "forward", 30),
        (Predictor, "labels", 3),
    ],
)
def test_interrupted_in_the_middle(shapes, tmp_path, monkeypatch, owner, name, call):
    """In a step of three batches, between its passes or in one; or in scoring four images: left, and done again."""
    source = open_dataset(shapes)
    records = source.splits["train"]
    source = replace(source, splits={"train": records[4:], "val": records[:4]})
    settings = TINY | {"data.batch_size": 1, "data.accumulate": 3, "data.crop": 64}
    train(source, tmp_path / "whole", settings=settings, epochs=EPOCHS, quiet=True)
    calls, real = [], getattr(owner, name)

    def stopping(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    # Called as the training begins: to build a network is to call its layers, too.
    monkeypatch.setattr(loop, "check_same_step", lambda *arguments: monkeypatch.setattr(owner, name, stopping))
    with pytest.raises(Interrupted) as stopped:
        train(source, tmp_path / "run", settings=settings, epochs=EPOCHS, quiet=True)
    assert stopped.value.exit_code == 130
    assert len(calls) == call, "nothing was begun after the signal"
    monkeypatch.undo()
    train(source, resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_resumed_after_memory_ran_out(shapes, tmp_path, monkeypatch):
    """Batches go on in their parts, though there would be enough memory now."""
    real, passes, larger = FCN.coarse, [], TINY | {"data.crop": 64}

    def short_of_memory(model, images):
        passes.append(len(images))
        if len(passes) == 3:
            raise RuntimeError("can't allocate memory")
        return real(model, images)

    def stopping(*arguments):
        loss = real_step(*arguments)
        if loss and len(passes) > 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(FCN, "coarse", short_of_memory)
    with pytest.warns(UserWarning, match="out of memory: batches are now taken in 2 parts"):
        train(shapes, tmp_path / "whole", settings=larger, epochs=EPOCHS, quiet=True)
    passes.clear()
    real_step = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.warns(UserWarning), pytest.raises(Interrupted):
            train(shapes, tmp_path / "run", settings=larger, epochs=EPOCHS, quiet=True)
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "times"), [(0, 5), (2, 4)])
def test_killed_at_random_moments(shapes, tmp_path, uninterrupted, workers, times):
    """Each time after a step that was not there before."""
    chance, run, kills = random.Random(workers), tmp_path / "run", 0
    words = [shapes, "--out", run, "--epochs", EPOCHS]
    words += settings(**{"data.workers": workers, "checkpoint_minutes": 0})

    def newest():
        return max((path.name for path in run.glob("checkpoints/0*.ckpt")), default="")

    while kills < times:
        process, before = start("train", *words), newest()
        while process.exitcode is None and newest() <= before:
            time.sleep(0.005)
        process.join(chance.uniform(0, 0.05))
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        process.kill()
        process.join()
        words = ["--resume", run]
        kills += 1
    if not (run / "summary.json").is_file():
        assert call("train", *words).returncode == 0
    assert kills > 1
    assert digests(run) == uninterrupted


def test_a_run_without_a_checkpoint_starts_anew(shapes, tmp_path, uninterrupted):
    train(shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS, quiet=True)
    for name in ("summary.json", "log.jsonl"):
        (tmp_path / "run" / name).unlink()
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == uninterrupted


def test_an_image_that_cannot_be_scored_costs_no_step(shapes, tmp_path, monkeypatch, uninterrupted):
    """It is named, and the state is kept: where there is more memory the run goes on."""

    def short_of_memory(model, image, scale=1.0):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(FCN, "logits", short_of_memory)
        message = r"image .*: \d+×\d+ pixels are too much for the memory .*: evaluations: 0 in .*/config\.yaml"
        with pytest.raises(DataError, match=message):
            train(shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS, quiet=True)
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    other = shutil.copytree(tmp_path / "run", tmp_path / "other")
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == uninterrupted
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("evaluations: 2", "evaluations: 0"))
    assert train(resume=other, quiet=True).scores is None
    assert digests(other)[0]["last/model.safetensors"] == uninterrupted[0]["last/model.safetensors"]


def test_a_damaged_checkpoint_costs_only_time(shapes, tmp_path, monkeypatch, uninterrupted):
    """The one before it is of an epoch ago: what was written since is written again."""
    run, real = tmp_path / "run", loop.validate

    def stopping(*arguments):
        if len(list((run / "log.jsonl").read_text().splitlines())) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "validate", stopping)
        train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)
    kept = sorted((run / "checkpoints").iterdir())
    assert (run / "best").is_dir() and len(kept) == 2
    kept[-1].write_bytes(kept[-1].read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        train(resume=run, quiet=True)
    assert digests(run) == uninterrupted


def test_a_disk_that_is_full_says_how_to_go_on(shapes, tmp_path, monkeypatch, small_files, uninterrupted):
    """The checkpoint before is there, and from it the run ends as it would have."""
    real, written = Checkpoints.write, []

    def full_at_the_second(self, checkpoint):
        written.append(checkpoint.step)
        with small_files(50_000) if len(written) == 2 else nullcontext():
            real(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", full_at_the_second)
        message = r"000000002\.ckpt: cannot be written: .*make room, and go on with fullconv train --resume"
        with pytest.raises(UsageError, match=message):
            train(shapes, tmp_path / "run", settings=TINY | {"checkpoint_minutes": 0}, epochs=EPOCHS, quiet=True)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000001.ckpt"]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", lambda *arguments: None)
        message = r"model\.safetensors: cannot be written: .*; make room, and go on with fullconv train --resume"
        with small_files(50_000), pytest.raises(UsageError, match=message):
            train(resume=tmp_path / "run", quiet=True)
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == uninterrupted


def test_what_is_no_longer_scored_has_no_best_of_before(shapes, tmp_path, monkeypatch):
    """Or the best would be of an early epoch."""
    run, real, calls = tmp_path / "run", loop.validate, []

    def short_of_memory(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise DataError("too much for the memory")
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(DataError):
        patch.setattr(loop, "validate", short_of_memory)
        train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)
    assert (run / "best").is_dir()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("evaluations: 2", "evaluations: 0"))
    assert train(resume=run, quiet=True).scores is None
    best, last = ((run / name / "model.safetensors").read_bytes() for name in ("best", "last"))
    assert best == last
