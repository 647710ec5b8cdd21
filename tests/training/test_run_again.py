"""A run that was begun before, or could not be: what goes on with it, and what is refused."""

import os
import shutil
import signal
import sys
from dataclasses import replace

import pytest
import torch

from fullconv import fcn8s, open_dataset, train
from fullconv.errors import DataError, UsageError
from fullconv.training import budget, loop, run
from fullconv.training.checkpoint import Checkpoints
from fullconv.training.config import load_config
from fullconv.training.feed import names_digest
from fullconv.training.interrupt import Interrupted
from fullconv.training.runlog import RunLog
from fullconv.training.runtime import Runtime
from training.stopped_runs import EPOCHS, TINY, digest_of, stopped


def test_what_cannot_be_resumed(shapes, tmp_path):
    with pytest.raises(UsageError, match=r"holds no config\.yaml, so it is no run to resume"):
        train(resume=tmp_path)
    with pytest.raises(UsageError, match="--resume RUN knows its settings"):
        train(resume=tmp_path / "run", epochs=3)
    with pytest.raises(UsageError, match="give a data set and a folder for the run"):
        train(shapes)
    with pytest.raises(UsageError, match="give a data set and a folder for the run"):
        train(out=tmp_path / "run")


def test_a_run_on_an_opened_data_set_wants_it_again(shapes, tmp_path):
    opened = open_dataset(shapes)
    train(opened, tmp_path / "run", settings=TINY, epochs=1, quiet=True)
    (tmp_path / "run" / "summary.json").unlink()  # As where it was stopped.
    with pytest.raises(UsageError, match="on an opened data set; give it again as data"):
        train(resume=tmp_path / "run", quiet=True)
    assert train(opened, resume=tmp_path / "run", quiet=True).epochs == 1


def test_what_cannot_begin_leaves_nothing(shapes, tmp_path, monkeypatch):
    """Neither where ranks cannot share a step, nor where TensorBoard is not installed."""
    with monkeypatch.context() as patch:
        several = Runtime()
        several.ranks = 3
        patch.setattr(run, "Runtime", lambda *precision: several)
        with pytest.raises(UsageError, match="a step of 2 images cannot be shared by 3 ranks"):
            train(shapes, tmp_path / "run", settings=TINY | {"data.patches": "class"}, epochs=1, quiet=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(UsageError, match=r"tensorboard is not installed: pip install 'fullconv\[tensorboard\]'"):
        train(shapes, tmp_path / "run", settings=TINY | {"tensorboard": True}, epochs=1, quiet=True)
    assert not (tmp_path / "run").exists()
    train(shapes, tmp_path / "run", settings=TINY, epochs=1, quiet=True)


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


def test_a_restart_by_torchrun_keeps_the_precision(shapes, tmp_path, monkeypatch):
    """Also on a machine where another would be faster."""
    settings = TINY | {"optim.precision": "auto"}
    monkeypatch.setattr(Runtime, "bf16_in_hardware", False)
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=settings, epochs=EPOCHS)
    monkeypatch.setattr(Runtime, "bf16_in_hardware", True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train(shapes, tmp_path / "run", settings=settings, epochs=EPOCHS, quiet=True)
    assert load_config(str(tmp_path / "run" / "config.yaml")).optim.precision == "fp32"
    assert (tmp_path / "run" / "summary.json").is_file()


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
    with pytest.warns(UserWarning, match="the val split, or how often it is scored .*, has changed since"):
        train(fewer, resume=run, quiet=True)
    assert seen[0] is None


def test_the_best_is_the_summarys_also_where_evaluations_changed(shapes, tmp_path, monkeypatch):
    """Killed when a better model was written than the kept state knows of, and its epoch is not scored again."""
    run, save, classes = tmp_path / "run", RunLog.save, open_dataset(shapes).labels.num_classes
    matrices = [torch.ones(classes, classes).long() + right * torch.eye(classes).long() for right in (5, 9, 3)]
    scored = iter(matrices)
    monkeypatch.setattr(loop, "validate", lambda *_: next(scored))

    def killed_at_the_second(log, model, name):
        save(log, model, name)
        if name == "best" and (run / "log.jsonl").read_text():
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunLog, "save", killed_at_the_second)
        train(shapes, run, settings=TINY | {"evaluations": 3}, epochs=3, quiet=True)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("evaluations: 3", "evaluations: 1"))
    with pytest.warns(UserWarning, match="how often it is scored"):
        result = train(resume=run, quiet=True)
    assert result.scores.confusion.equal(matrices[2])
    assert len({(run / name / "model.safetensors").read_bytes() for name in ("best", "last")}) == 1


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
