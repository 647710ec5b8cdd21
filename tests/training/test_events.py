"""What TensorBoard is given is what the log says."""

import json
import os
import signal

import pytest

from commands import call
from fullconv import fcn8s, open_dataset, train
from fullconv.errors import UsageError
from fullconv.training.events import Events
from fullconv.training.interrupt import Interrupted
from fullconv.training.runlog import RunLog

SETTINGS = {"model.trunk": "small", "model.context": "none", "data.crop": 32, "evaluations": 2, "tensorboard": True}


def test_curves_and_pictures(shapes, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs an extra")
    # In a process of its own: what is not written before it ends is lost.
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    done = call("train", shapes, "--out", tmp_path / "run", "--epochs", 3, *settings)
    assert done.returncode == 0, done.stderr
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for name in ("loss", "mean_iu"):
        curve = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(line["epoch"], line[name]) for line in lines if name in line]
        assert [step for step, _ in curve] == [step for step, _ in expected]
        assert [value for _, value in curve] == pytest.approx([value for _, value in expected])
    assert len(events.Scalars("rate")) == 3
    picture = events.Images(events.Tags()["images"][0])[-1]
    assert picture.step == 3 and picture.width > 4 * 40


def test_a_disk_that_is_full_is_named(shapes, tmp_path, monkeypatch):
    events = Events(tmp_path, 1)

    def full(*arguments):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(events._writer, "flush", full)
    message = r"tensorboard: cannot be written: Disk quota exceeded; make room, and go on with fullconv train --resume"
    with pytest.raises(UsageError, match=message):
        events.epoch({"epoch": 1, "loss": 3.0}, 0.1, fcn8s("small", 2, context="none"), open_dataset(shapes))
    events.close()


def test_what_a_killed_process_wrote_too_much_is_taken_back(shapes, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs an extra")
    model, source = fcn8s("small", 2, context="none"), open_dataset(shapes)
    for first, loss in ((1, 3.0), (2, 2.0)):
        events = Events(tmp_path, first)
        for epoch in (first, first + 1):
            events.epoch({"epoch": epoch, "loss": loss}, 0.1, model, source)
    curve = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in curve] == [(1, 3.0), (2, 2.0), (3, 2.0)]


def test_curves_of_a_resumed_run_are_whole(shapes, tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs an extra")
    save, epochs = RunLog.save, []

    def stopping(log, model, name):
        save(log, model, name)
        epochs.append(name)
        if epochs.count("last") == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "save", stopping)
        with pytest.raises(Interrupted):
            train(shapes, tmp_path / "run", settings=SETTINGS, epochs=3, quiet=True)
    train(resume=tmp_path / "run", quiet=True)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
