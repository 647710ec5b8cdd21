"""The run folder: who may write there, what it remembers, and what is said where it is not there."""

import json
import shutil
import time
from pathlib import Path

import pytest

from commands import WARM
from fullconv import train
from fullconv.errors import UsageError
from fullconv.files import atomic
from fullconv.training import runlog
from fullconv.training.checkpoint import Checkpoints
from fullconv.training.runlog import RunLog
from training.stopped_runs import EPOCHS, TINY, digests, stopped


def test_a_folder_on_a_drive_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(UsageError, match=r"cannot be written \(there is no such drive\); choose another --out"):
        RunLog.new(tmp_path / "run")


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


def test_a_run_that_has_not_ended_is_not_to_be_removed(shapes, tmp_path, monkeypatch):
    """Whoever types the same command again wants to go on; and with a space in its name, too."""
    run = tmp_path / "my run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    with pytest.raises(UsageError, match=rf"holds a run that has not ended; go on with it by .*--resume '{run}'"):
        train(shapes, run, settings=TINY, epochs=EPOCHS, quiet=True)


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


def hold(run, held):
    with RunLog(run).held():
        held.touch()
        time.sleep(300)


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


@pytest.mark.parametrize("text", ["{", "[]", '{"data": 5}', None])
def test_on_what_it_was_trained_can_be_said_again(shapes, tmp_path, monkeypatch, text):
    """Where env.json was edited, or is gone."""
    run = tmp_path / "run"
    stopped(monkeypatch, "validate", shapes, run, settings=TINY, epochs=EPOCHS)
    (run / "env.json").unlink() if text is None else (run / "env.json").write_text(text)
    with pytest.raises(UsageError, match=r"env\.json: does not say on what data .*; fullconv train DATA --resume"):
        train(resume=run, quiet=True)
    assert train(shapes, resume=run, quiet=True).scores is not None


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
