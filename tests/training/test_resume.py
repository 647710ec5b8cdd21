"""A run that was killed ends as one that was not: same weights, same metrics."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from commands import WARM, call, start
from fullconv import fcn8s, open_dataset, train
from fullconv.data import write_shapes
from fullconv.errors import DataError, ModelError, UsageError
from fullconv.files import atomic
from fullconv.inference import Predictor
from fullconv.models import FCN
from fullconv.training import budget, loop, run, runlog, runtime, state
from fullconv.training import step as training_step
from fullconv.training.checkpoint import Checkpoints
from fullconv.training.config import load_config
from fullconv.training.feed import names_digest
from fullconv.training.interrupt import Interrupted
from fullconv.training.network import build_model
from fullconv.training.runlog import RunLog
from fullconv.training.runtime import Runtime
from fullconv.training.state import TrainState

TINY = {
    "model.trunk": "small",
    "model.context": 8,
    "model.dropout": 0.3,
    "data.crop": 32,
    "data.batch_size": 2,
    "optim.average": 0.9,
    "evaluations": 2,
}
EPOCHS = 2.5


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, count=12, sizes=(40, 48))
    return folder


def stopped(monkeypatch, name, *arguments, **options):
    """Train until the loop calls its function ``name``: then SIGTERM comes."""
    real = getattr(loop, name)

    def stopping(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, name, stopping)
        with pytest.raises(Interrupted):
            train(*arguments, quiet=True, **options)


def digests(run):
    """SHA-256 of the weights and the table of metrics, and the log without times."""
    names = ("best/model.safetensors", "last/model.safetensors", "metrics.csv")
    files = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return files, [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(shapes, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)
    return digests(run)


def hold(run, held):
    with RunLog(run).held():
        held.touch()
        time.sleep(300)


def settings(**changes):
    return [word for key, value in (TINY | changes).items() for word in ("--set", f"{key}={value}")]


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


def test_a_signal_to_the_whole_group_does_not_kill_the_workers(shapes, tmp_path):
    """As a terminal, torchrun and most schedulers send it; workers that die would be an error of the run's."""
    words = ["train", shapes, "--out", tmp_path / "run", "--epochs", 1000, *settings(**{"data.workers": 2})]
    process = subprocess.Popen(
        [sys.executable, "-m", "fullconv", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        began = time.monotonic()
        while not (tmp_path / "run" / "last" / "model.safetensors").is_file():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() - began < 120
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143, output
    assert "SIGTERM: saved" in output and list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


def test_workers_end_with_a_process_that_has_forgotten_them(shapes):
    """As after an error in a notebook, whose traceback holds them to the end."""
    program = (
        "from fullconv import open_dataset; from fullconv.training.feed import build_feed; "
        "from fullconv.training.config import load_config; "
        "changes = {'data.workers': 2, 'data.crop': 32, 'data.batch_size': 2, 'model.trunk': 'small'}; "
        f"feed = build_feed(open_dataset({str(shapes)!r}), load_config('modern', changes)); "
        "batches = iter(feed.loader); next(batches)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


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


def test_a_state_that_is_on_the_disk_is_not_written_again(shapes, tmp_path, monkeypatch):
    """A signal while a checkpoint is written ends the run as soon as that is done."""
    written, real = [], Checkpoints.write

    def stopping(self, checkpoint):
        real(self, checkpoint)
        written.append(checkpoint.step)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "write", stopping)
    with pytest.raises(Interrupted):
        train(shapes, tmp_path / "run", settings=TINY | {"checkpoint_minutes": 0}, epochs=EPOCHS, quiet=True)
    assert written == [1, 2]


def test_resumed_from_elsewhere_without_the_files_it_began_with(shapes, tmp_path, monkeypatch):
    """A model to start from, named by a relative path."""
    monkeypatch.chdir(tmp_path)
    train(shapes, "first", settings=TINY, epochs=1, quiet=True)
    sources = {"model.init": "first"}
    train(shapes, "whole", settings=TINY | sources, epochs=EPOCHS, quiet=True)
    real = loop.train_step

    def stopping(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    for name in ("there", "gone"):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", stopping)
            with pytest.raises(Interrupted):
                train(shapes, name, settings=TINY | sources, epochs=EPOCHS, quiet=True)
    # As if it had not come to a checkpoint yet.
    shutil.rmtree(tmp_path / "there" / "checkpoints")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(resume=tmp_path / "there", quiet=True)
    (tmp_path / "first").rename(tmp_path / "moved")
    train(resume=tmp_path / "gone", quiet=True)
    assert digests(tmp_path / "there") == digests(tmp_path / "gone") == digests(tmp_path / "whole")


def test_resumed_without_the_weights_of_the_trunk(shapes, tmp_path, monkeypatch):
    """GoogLeNet's say how an image is normalised; a link to them, as in a cache of downloads, stays one."""
    torch.manual_seed(0)
    weights = torchvision.models.googlenet(aux_logits=False, init_weights=False).state_dict()
    save_file(weights, tmp_path / "blob")
    (tmp_path / "trunk.safetensors").symlink_to(tmp_path / "blob")
    settings = {
        **TINY,
        "model.trunk": "googlenet",
        "model.trunk_weights": str(tmp_path / "trunk.safetensors"),
        "data.crop": 64,
        "stages": [{"model.finest_stride": 32}, {"model.finest_stride": 16}],
        "model.input_scale": 1,
    }
    train(shapes, tmp_path / "whole", settings=settings, epochs=0.4, quiet=True)
    stopped(monkeypatch, "train_step", shapes, tmp_path / "run", settings=settings, epochs=0.4)
    assert load_config(str(tmp_path / "run" / "config.yaml")).model.trunk_weights == str(tmp_path / "trunk.safetensors")
    (tmp_path / "trunk.safetensors").unlink()
    train(resume=tmp_path / "run", quiet=True)
    for name in ("best", "stage-1-32s/last"):
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / "run" / name / file).read_bytes() == (tmp_path / "whole" / name / file).read_bytes()
    assert FCN.from_pretrained(tmp_path / "run" / "best").config.normalisation == ((127.5,) * 3, (127.5,) * 3)


def test_a_finished_run_that_is_started_again_by_torchrun_is_finished(shapes, tmp_path, monkeypatch):
    """A rank died after the last line was written."""
    result = train(shapes, tmp_path / "run", settings=TINY, epochs=1, quiet=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(UsageError, match="holds another run"):
        train(shapes, tmp_path / "run", settings=TINY | {"seed": 1}, epochs=1, quiet=True)
    for words in (
        {"data": shapes, "out": tmp_path / "run", "settings": TINY, "epochs": 1},
        {"resume": tmp_path / "run"},
    ):
        again = train(**words, quiet=True)
        assert again.scores.to_dict() == result.scores.to_dict() and again.epochs == result.epochs


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


def test_what_a_killed_process_left_half_written_is_removed(shapes, tmp_path, monkeypatch, uninterrupted):
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    (run / "best").mkdir()
    left = [".tmpAb12Cd", ".000000002.half-1a2b3c4d.ckpt", "../best/.model.half-1a2b3c4d.safetensors"]
    for name in [*left, "../.notes-20261127.txt"]:
        (run / "checkpoints" / name).write_bytes(b"half")
    train(resume=run, quiet=True)
    assert {path.name for path in run.rglob(".*")} == {".notes-20261127.txt"}, "not ours stay"
    assert digests(run) == uninterrupted


def test_one_process_at_a_time_trains_in_a_run(shapes, tmp_path, monkeypatch, uninterrupted):
    """Another was thought dead, or started twice."""
    run, held = tmp_path / "run", tmp_path / "held"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    other = WARM.Process(target=hold, args=(run, held))
    other.start()
    while not held.is_file():
        assert other.is_alive()
        time.sleep(0.01)
    with pytest.raises(UsageError, match="run: another process trains in it; wait until it has ended"):
        train(resume=run, quiet=True)
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="run: another process trains in it"):
        patch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)
    other.kill()
    other.join()
    (run / ".lock").unlink()  # As a killed process leaves it.
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    train(resume=run, quiet=True)
    assert digests(run) == uninterrupted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_on_a_gpu(shapes, tmp_path, monkeypatch, precision):
    """Its sums are not always in the same order, so that it ends near the run that was not stopped."""
    settings = TINY | {"optim.precision": precision, "model.dropout": 0}
    whole = train(shapes, tmp_path / "whole", settings=settings, epochs=EPOCHS, quiet=True)
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=settings, epochs=EPOCHS)
    again = train(resume=tmp_path / "run", quiet=True)
    assert again.scores.pixel_accuracy == pytest.approx(whole.scores.pixel_accuracy, abs=0.02)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(shapes, tmp_path, monkeypatch):
    """Edited by hand, or on another data set."""
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    other = shutil.copytree(shapes, tmp_path / "other")
    (other / "classes.txt").write_text((shapes / "classes.txt").read_text().replace("disc", "plate"))
    with pytest.raises(ModelError, match="of a run on other classes; resume it on its own data set"):
        train(other, resume=run, quiet=True)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("optimiser: adamw", "optimiser: sgd"))
    with pytest.raises(ModelError, match=r"of a run with AdamW, not SGD; put optim\.optimiser back"):
        train(resume=run, quiet=True)
    (run / "config.yaml").write_text(config.replace("trunk_rate: 1.0", "trunk_rate: 0"))
    with pytest.raises(ModelError, match=r"other weights \(not trunk\.body\.\S+ in both\); put the settings back"):
        train(resume=run, quiet=True)
    (run / "config.yaml").write_text(config.replace("epochs: 2.5", "epochs: 4.0"))
    with pytest.raises(ModelError, match="of a run of 12 steps, 5 an epoch; the data set or the settings have changed"):
        train(resume=run, quiet=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_momenta_go_to_the_weights_that_they_are_of(shapes, tmp_path, monkeypatch, layout):
    """Also where an edited setting lists the weights in another order, and however weights lie here, they as these."""
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    kept = RunLog(run).checkpoints.latest()
    source = open_dataset(shapes)
    config = load_config(str(run / "config.yaml"), {"optim.layer_decay": 0.9})
    model = build_model(source, config).to(memory_format=layout)
    state = TrainState(model, config, *reversed(kept.facts["steps"]), Runtime(), names_digest(source, "val"))
    state.restore(kept)
    names = [name for name, _ in state.model.named_parameters()]
    order = [id(p) for group in state.optimiser.param_groups for p in group["params"]]
    assert order != [id(p) for p in state.model.parameters()]
    for name, parameter in state.model.named_parameters():
        torch.testing.assert_close(
            state.optimiser.state[parameter]["exp_avg"], kept.tensors[f"optimiser.{name}.exp_avg"]
        )
        assert state.optimiser.state[parameter]["exp_avg"].stride() == parameter.stride()
    assert len(names) > 10


@pytest.mark.parametrize(("ranks", "lockstep", "pieces"), [(2, False, 1), (2, True, 2), (3, False, 2)])
def test_ranks_that_wait_for_each_other_part_batches_alike(shapes, tmp_path, monkeypatch, ranks, lockstep, pieces):
    """Where the memory of one did not suffice before they did so; and other ranks than those before."""
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    kept, source = RunLog(run).checkpoints.latest(), open_dataset(shapes)
    kept.facts["pieces"] = [1, 2]
    config, first = load_config(str(run / "config.yaml")), Runtime()
    steps, scored_on = reversed(kept.facts["steps"]), names_digest(source, "val")
    state = TrainState(build_model(source, config), config, *steps, first, scored_on)
    first.ranks, first.lockstep = ranks, lockstep
    state.restore(kept)
    assert first.pieces == pieces


@pytest.mark.parametrize("layouts", [("contiguous_format", "channels_last"), ("channels_last", "contiguous_format")])
def test_resumed_on_a_machine_where_weights_lie_otherwise(shapes, tmp_path, monkeypatch, uninterrupted, layouts):
    """Its sums are in another order, so that it ends near the run that was not stopped."""
    first, second = (getattr(torch, layout) for layout in layouts)
    monkeypatch.setattr(runtime, "fastest_layout", lambda *_: first)
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS)
    monkeypatch.setattr(runtime, "fastest_layout", lambda *_: second)
    train(resume=tmp_path / "run", quiet=True)
    for line, twin in zip(digests(tmp_path / "run")[1], uninterrupted[1], strict=True):
        assert line["loss"] == pytest.approx(twin["loss"], rel=0.01)


def test_a_run_without_a_checkpoint_starts_anew(shapes, tmp_path, uninterrupted):
    train(shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS, quiet=True)
    for name in ("summary.json", "log.jsonl"):
        (tmp_path / "run" / name).unlink()
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == uninterrupted


def test_what_cannot_be_resumed(shapes, tmp_path):
    with pytest.raises(UsageError, match=r"holds no config\.yaml, so it is no run to resume"):
        train(resume=tmp_path)
    with pytest.raises(UsageError, match="--resume RUN knows its settings"):
        train(resume=tmp_path / "run", epochs=3)
    with pytest.raises(UsageError, match="give a data set and a folder for the run"):
        train(shapes)


def test_a_restart_by_torchrun_goes_on_with_no_other_run(shapes, tmp_path, monkeypatch):
    """The folder was refused at first, the rank started again: the run that lies there is not its own."""
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    done = Checkpoints(tmp_path / "run" / "checkpoints").latest().step
    before = digest_of(tmp_path / "run" / "checkpoints")
    shutil.copytree(shapes, tmp_path / "data")
    for data, epochs in ((shapes, 3), (tmp_path / "data", EPOCHS)):
        with pytest.raises(UsageError, match="run: holds another run; choose another --out"):
            train(data, tmp_path / "run", settings=TINY, epochs=epochs, quiet=True)
    assert digest_of(tmp_path / "run" / "checkpoints") == before
    steps, real = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *arguments: steps.append(real(*arguments)) or steps[-1])
    train(shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS, quiet=True)
    assert (tmp_path / "run" / "summary.json").is_file() and 0 < len(steps) == 12 - done < 12


@pytest.mark.parametrize("stages", [False, True])
def test_a_restart_by_torchrun_knows_what_a_time_has_chosen(shapes, tmp_path, monkeypatch, stages):
    """Before it had chosen, and after; also where the model is gone that the run began with."""
    fcn8s("small", 5, context=8).save_pretrained(tmp_path / "model")
    settings = {key: value for key, value in TINY.items() if key not in ("model.trunk", "model.context")}
    settings |= {"minutes": 1e-5, "model.init": str(tmp_path / "model")}
    if stages:
        settings["stages"] = [{"seed": 1, "data.scale": (0.8, 1.25)}, {"seed": 2}]
    for owner in (budget, loop):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "train_step", killed)
            with pytest.raises(Killed):
                train(shapes, tmp_path / "run", settings=settings, quiet=True)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    (tmp_path / "model").rename(tmp_path / "gone")
    for other in ({"optim.rate": 1e-5}, {"model.input_scale": 2}):
        with pytest.raises(UsageError, match="holds another run"):
            train(shapes, tmp_path / "run", settings=settings | other, quiet=True)
    (tmp_path / "gone").rename(tmp_path / "model")
    result = train(shapes, tmp_path / "run", settings=settings, quiet=True)
    kept = load_config(str(tmp_path / "run" / "config.yaml"))
    assert [stage["epochs"] for stage in kept.stages or [{"epochs": kept.epochs}]] == [0.01] * (1 + stages)
    assert result.epochs == 0.2 * (1 + stages), "a step of each"


class Killed(BaseException):
    """A process that ends at once."""


def killed(*_):
    raise Killed


def digest_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_killed_before_it_had_begun_it_may_be_started_again(shapes, tmp_path):
    """``config.yaml`` comes last: without it there is no run. Anything else is somebody's."""
    for name in ("env.json", ".config.yaml.tmp"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("{}")
    train(shapes, tmp_path / "run", settings=TINY, epochs=1, quiet=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other: already holds files"):
        train(shapes, tmp_path / "other", settings=TINY, epochs=1, quiet=True)


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


def test_a_run_that_has_not_ended_is_not_to_be_removed(shapes, tmp_path, monkeypatch):
    """Whoever types the same command again wants to go on; and with a space in its name, too."""
    run = tmp_path / "my run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    with pytest.raises(UsageError, match=rf"holds a run that has not ended; go on with it by .*--resume '{run}'"):
        train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)


def test_a_run_that_ends_while_another_process_looks_at_its_data_is_finished(shapes, tmp_path, monkeypatch):
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)

    def looked_at(*data, **options):
        patch.undo()
        ends.append(train(resume=run, quiet=True))
        return open_dataset(shapes)

    ends = []
    with monkeypatch.context() as patch:
        patch.setattr("fullconv.training.run.open_checked", looked_at)
        again = train(resume=run, quiet=True)
    assert again.scores.to_dict() == ends[0].scores.to_dict()


@pytest.mark.parametrize("evaluations", [1, 0])
def test_killed_as_it_finished(shapes, tmp_path, monkeypatch, capsys, evaluations):
    """Resumed, it is what it ended with, without its data; its checkpoints are large, and of no use."""
    run, changes = tmp_path / "run", {"evaluations": evaluations, "checkpoint_minutes": 0}
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "remove", lambda self: None)
        ended = train(shapes, run, settings=TINY | changes, epochs=1, quiet=True)
    before = digests(run)
    assert (run / "checkpoints").is_dir()
    again = train(resume=run)
    assert capsys.readouterr().err == (
        f"{run}: this run is finished; to train on from its weights: fullconv train DATA --out OTHER "
        f"--set model.init={run}\n"
    )
    assert (again.run, again.epochs, again.seconds) == (run, ended.epochs, ended.seconds)
    assert (again.scores and again.scores.to_dict()) == (ended.scores and ended.scores.to_dict())
    assert digests(run) == before and not (run / "checkpoints").exists()


def test_dead_scores_are_said_after_a_stop_as_well(shapes, tmp_path, monkeypatch):
    """They show in gradients of a step that another process took."""

    def dead(model):
        return ["warning: dead"] if any(parameter.grad is not None for parameter in model.parameters()) else []

    monkeypatch.setattr(state, "dead_scores", dead)
    train(shapes, tmp_path / "whole", settings=TINY, epochs=EPOCHS, quiet=True)
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS)
    train(resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert "warning: dead" in (tmp_path / "run" / "log.jsonl").read_text()


def test_what_cannot_begin_leaves_nothing(shapes, tmp_path, monkeypatch):
    """Neither where ranks cannot share a step, nor where TensorBoard is not installed."""
    with monkeypatch.context() as patch:
        patch.setattr(run, "Runtime", lambda: SimpleNamespace(rank=0, ranks=3))
        with pytest.raises(UsageError, match="a step of 2 images cannot be shared by 3 ranks"):
            train(shapes, tmp_path / "run", settings=TINY | {"data.patches": "class"}, epochs=1, quiet=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(UsageError, match="tensorboard is not installed"):
        train(shapes, tmp_path / "run", settings=TINY | {"tensorboard": True}, epochs=1, quiet=True)
    assert not (tmp_path / "run").exists()
    train(shapes, tmp_path / "run", settings=TINY, epochs=1, quiet=True)


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


def test_resumed_where_the_data_set_was_moved(shapes, tmp_path, monkeypatch, uninterrupted):
    shutil.copytree(shapes, tmp_path / "data")
    stopped(monkeypatch, "validate", tmp_path / "data", tmp_path / "run", settings=TINY, epochs=EPOCHS)
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"data: the data set of .*run is gone; .*fullconv train DATA --resume"):
        train(resume=tmp_path / "run", quiet=True)
    train(tmp_path / "moved", resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == uninterrupted


def test_where_it_goes_on_is_remembered(shapes, tmp_path, monkeypatch):
    """Where its data set was moved to, and in what environment: nothing is said of one that is the same."""
    run = tmp_path / "run"
    shutil.copytree(shapes, tmp_path / "data")
    stopped(monkeypatch, "validate", tmp_path / "data", run, settings=TINY, epochs=EPOCHS)
    begun = json.loads((run / "env.json").read_text())
    (tmp_path / "data").rename(tmp_path / "moved")
    monkeypatch.setattr(runlog, "__version__", "0.0.7")
    stopped(monkeypatch, "end_epoch", tmp_path / "moved", resume=run)
    kept = json.loads((run / "env.json").read_text())
    assert kept["data"] == str(tmp_path / "moved")
    (more,) = kept["resumed"]
    assert {name for name in more if more[name] != begun[name]} == {"fullconv"}
    assert {"torch", "timm", "instructions", "ranks", "threads"} <= begun.keys()
    monkeypatch.setattr(runlog, "__version__", "0.0.8")
    assert RunLog(run).note_environment() == ["goes on with fullconv 0.0.8, not 0.0.7"]
    assert RunLog(run).note_environment() == []
    train(resume=run, quiet=True)


def test_other_images_than_it_was_begun_on(shapes, tmp_path, monkeypatch):
    """As many of other names are refused, as those of another fold; of others to score the best begins anew."""
    run, source = tmp_path / "run", open_dataset(shapes)
    first, *others = source.splits["train"]
    stopped(monkeypatch, "end_epoch", source, run, settings=TINY | {"evaluations": 3}, epochs=EPOCHS)
    exchanged = replace(source, splits={**source.splits, "train": (*others, replace(first, stem="other"))})
    with pytest.raises(DataError, match=r"images to train on are not those that .*run was begun on"):
        train(exchanged, resume=run, quiet=True)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(RunLog, "rewrite", after(2, RunLog.rewrite))
        train(source, resume=run, quiet=True)
    assert RunLog(run).checkpoints.latest().tensors["best"].any()
    real, seen = loop.score, []

    def scoring(session, *rest):
        seen.append(session.state.best)
        return real(session, *rest)

    monkeypatch.setattr(loop, "score", scoring)
    fewer = replace(source, splits={**source.splits, "val": source.splits["val"][1:]})
    with pytest.warns(UserWarning, match="the val split has changed since"):
        train(fewer, resume=run, quiet=True)
    assert seen[0] is None


def test_other_images_for_a_stage_that_has_no_checkpoint(shapes, tmp_path, monkeypatch):
    run, source, real = tmp_path / "run", open_dataset(shapes), RunLog.finish
    stages = TINY | {"stages": [{"epochs": 0.5}, {"epochs": 0.5}]}

    def killed(log, result):
        real(log, result)
        raise OSError("killed")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(RunLog, "finish", killed)
        train(source, run, settings=stages, quiet=True)
    assert [path.name for path in run.glob("stage-*")] == ["stage-1-8s"]
    fewer = replace(source, splits={**source.splits, "train": source.splits["train"][1:]})
    with pytest.raises(DataError, match="are not those that"):
        train(fewer, resume=run, quiet=True)
    train(source, resume=run, quiet=True)
    log = RunLog(run / "stage-2-8s")
    monkeypatch.chdir(run / "stage-2-8s")
    assert log.run == RunLog(".").run == run
    assert RunLog(run / "stage-2").run == run / "stage-2", "is called otherwise"
    assert log.images_digest() == RunLog(run).images_digest() == names_digest(source, "train")


def after(times, real):
    """Return a function that is called as ``real`` is, after which SIGTERM comes at the last of so many times."""
    calls = []

    def calling(*arguments):
        calls.append(real(*arguments))
        if len(calls) == times:
            os.kill(os.getpid(), signal.SIGTERM)

    return calling


@pytest.mark.parametrize("name", ["write_checkpoint", "save", "rewrite"])
def test_a_run_that_was_moved_while_it_trained_is_not_made_anew(shapes, tmp_path, monkeypatch, uninterrupted, name):
    run, moved, real = tmp_path / "run", tmp_path / "moved", getattr(RunLog, name)

    def moving(log, *arguments):
        if (run / "log.jsonl").exists() and (run / "checkpoints").is_dir() and not moved.exists():
            run.rename(moved)
        real(log, *arguments)

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="run: was moved or removed while it trained"):
        patch.setattr(RunLog, name, moving)
        train(shapes, run, settings=TINY | {"checkpoint_minutes": 0}, epochs=EPOCHS, quiet=True)
    assert not run.exists()
    train(resume=moved, quiet=True)
    assert digests(moved) == uninterrupted


@pytest.mark.parametrize("ended", [False, True])
def test_another_run_in_the_place_of_one_that_trains_is_left_alone(shapes, tmp_path, monkeypatch, ended):
    run, real = tmp_path / "run", RunLog.write_checkpoint

    def replaced(log, checkpoint):
        monkeypatch.setattr(RunLog, "write_checkpoint", real)
        shutil.rmtree(run)
        run.mkdir()
        (run / "config.yaml").touch()
        (run / ("summary.json" if ended else ".lock")).touch()
        real(log, checkpoint)

    monkeypatch.setattr(RunLog, "write_checkpoint", replaced)
    with pytest.raises(UsageError, match="run: was moved or removed while it trained"):
        train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)
    assert len(list(run.iterdir())) == 2


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


@pytest.mark.parametrize("text", ["{", "[]", '{"data": 5}', None])
def test_on_what_it_was_trained_can_be_said_again(shapes, tmp_path, monkeypatch, text):
    """Where env.json was edited, or is gone."""
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    (run / "env.json").unlink() if text is None else (run / "env.json").write_text(text)
    with pytest.raises(UsageError, match=r"env\.json: does not say on what data .*; fullconv train DATA --resume"):
        train(resume=run, quiet=True)
    assert train(shapes, resume=run, quiet=True).scores is not None


def test_a_table_that_another_program_holds_stops_no_run(shapes, tmp_path, monkeypatch):
    """As a spreadsheet does, on Windows."""
    run, real = tmp_path / "run", Path.replace

    def refused(path, target):
        if target == run / "metrics.csv":
            raise PermissionError(13, "The process cannot access the file")
        return real(path, target)

    monkeypatch.setattr(atomic, "_WAITS", ())
    monkeypatch.setattr(Path, "replace", refused)
    with pytest.warns(UserWarning, match=r"metrics\.csv: cannot be written: .*log\.jsonl holds the same numbers"):
        train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)
    assert len((run / "log.jsonl").read_text().splitlines()) == 3 and not (run / "metrics.csv").exists()


def test_a_folder_on_a_drive_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(UsageError, match=r"cannot be written \(there is no such drive\); choose another --out"):
        RunLog.new(tmp_path / "run")
