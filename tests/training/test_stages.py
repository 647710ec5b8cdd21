"""Staged training: each stage starts from the one before, and the whole is one run."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file

from fullconv import LabelSet, fcn8s, load, train
from fullconv.data import open_dataset, write_shapes
from fullconv.errors import ModelError, UsageError
from fullconv.models import FCN
from fullconv.training import loop, runlog, stages
from fullconv.training.config import load_config
from fullconv.training.interrupt import Interrupted
from fullconv.training.loop import fit
from fullconv.training.runlog import RunLog

SETTINGS = {
    "model.trunk": "small",
    "model.context": "none",
    "model.padding": "same",
    "epochs": 1,
    "evaluations": 1,
    "stages": [{"model.finest_stride": 32, "optim.rate": 1e-7}, {"model.finest_stride": 16, "optim.rate": 1e-30}],
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, count=8, sizes=(40, 48))
    return folder


def test_a_stage_starts_from_the_one_before(shapes, tmp_path):
    """The second stage's rate is too small to change anything: what it took over is what it ends with."""
    result = train(shapes, tmp_path / "run", recipe="staged", settings=SETTINGS | {"data.crop": "auto"}, quiet=True)
    coarse = FCN.from_pretrained(tmp_path / "run" / "stage-1-32s" / "best").state_dict()
    fine = FCN.from_pretrained(result.run / "best").state_dict()
    shared = [name for name in coarse if name in fine and "running" not in name and "num_batches" not in name]
    assert len(shared) > 20 and all(torch.equal(coarse[name], fine[name]) for name in shared)
    assert fine["heads.semantic.score.stage4.weight"].abs().max() < 1e-20, "a new score layer starts at zero"
    report = json.loads((tmp_path / "run" / "stage-2-16s" / "transplant.json").read_text())
    assert "heads.semantic.score.stage4.weight" in report["left_new"]
    summary = json.loads((result.run / "summary.json").read_text())
    assert summary["scores"]["mean_iu"] == result.scores.mean_iu
    assert summary["epochs"] == result.epochs == 2, "of both"
    kept = load_config(str(tmp_path / "run" / "stage-1-32s" / "config.yaml"))
    assert kept.data.crop == (64, 64), "what auto stands for"


def test_an_interrupted_stage_is_resumed_and_a_finished_one_kept(shapes, tmp_path, monkeypatch):
    train(shapes, tmp_path / "whole", recipe="staged", settings=SETTINGS, quiet=True)

    def stopping(source, config, log, **options):
        if config.model.finest_stride == 16:
            raise Interrupted(2, "stopped")
        return fit(source, config, log, **options)

    monkeypatch.setattr(stages, "fit", stopping)
    with pytest.raises(Interrupted):
        train(shapes, tmp_path / "run", recipe="staged", settings=SETTINGS, quiet=True)
    monkeypatch.undo()
    first = tmp_path / "run" / "stage-1-32s" / "best" / "model.safetensors"
    before = first.stat().st_mtime_ns
    train(resume=tmp_path / "run", quiet=True)
    assert first.stat().st_mtime_ns == before
    files = [tmp_path / name / "best" / "model.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_all_stages_are_checked_before_the_first(shapes, tmp_path):
    wrong = {"stages": [SETTINGS["stages"][0], {"model.finest_stride": 16, "optim.rtae": 1e-5}]}
    with pytest.raises(UsageError, match=r"unknown setting 'optim\.rtae'; did you mean 'optim\.rate'"):
        train(shapes, tmp_path / "run", recipe="staged", settings=SETTINGS | wrong, quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        ({"model.finest_stride": 12}, UsageError, "finest stride 12 is not one of"),
        ({"model": {"init": "nowhere"}}, ModelError, "nowhere: no such model"),
        ({"minutes": 1}, UsageError, "minutes is for the whole run"),
        ({"stages": []}, UsageError, "stages is for the whole run"),
        ({"model.trunk": "resnet18"}, UsageError, "number 2 starts from the network of the stage before"),
        ({"model.normalisation": "half"}, UsageError, "number 2 starts from the network of the stage before"),
        ({"model.trunk_weights": "w.pth"}, UsageError, "number 2 starts from the network of the stage before"),
        ({"model.init": "a", "model.trunk_weights": "w.pth"}, UsageError, "model.init brings the trunk's weights"),
        ({"data.patches": "class", "data.crop": "none"}, UsageError, "patches need a size"),
    ],
)
def test_what_cannot_be_built_is_said_before_the_first_stage(shapes, tmp_path, second, error, message):
    """And the folder may be used again."""
    with pytest.raises(error, match=message):
        train(
            shapes,
            tmp_path / "run",
            recipe="staged",
            settings=SETTINGS | {"stages": [SETTINGS["stages"][0], second]},
            quiet=True,
        )
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_what_every_stage_sets_itself_cannot_be_set_for_all(shapes, tmp_path):
    with pytest.raises(UsageError, match=r"every stage of recipe staged has its own optim\.rate"):
        train(shapes, tmp_path / "run", recipe="staged", settings=SETTINGS | {"optim.rate": 1e-4}, quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def saved(shapes, tmp_path_factory):
    """A model of classes of which one is none of the data set's."""
    names = open_dataset(shapes).labels.names
    model = fcn8s("small", num_classes=len(names), context="none")
    model.labels["semantic"] = LabelSet.of(["cup", *names[1:]])
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def test_which_classes_start_anew_is_said(shapes, saved, tmp_path, capsys):
    settings = {key: value for key, value in SETTINGS.items() if key != "stages"} | {"model.init": str(saved)}
    run = train(shapes, tmp_path / "run", settings=settings).run
    assert f"semantic: scores of 5 classes from {saved}; anew: background" in capsys.readouterr().err
    assert json.loads((run / "transplant.json").read_text())["new_classes"] == {"semantic": ["background"]}


def test_what_the_run_starts_from_is_for_the_first_stage(shapes, saved, tmp_path):
    """The second has its own model to start from, so that the run's is for the first alone."""
    settings = SETTINGS | {"stages": [*SETTINGS["stages"], {"model.finest_stride": 8, "model.init": str(saved)}]}
    save_file(fcn8s("small", 2, context="none").trunk.body.state_dict(), tmp_path / "trunk.safetensors")
    config = load_config("staged", settings | {"model.trunk_weights": str(tmp_path / "trunk.safetensors")})
    starts = [(stage.model.init, stage.model.trunk_weights) for stage in stages.stage_configs(config)]
    assert starts == [(None, str(tmp_path / "trunk.safetensors")), (None, None), (str(saved), None)]
    with pytest.raises(UsageError, match="brings the trunk's weights"):
        first = {"stages": [{"model.init": str(saved)}], "model.trunk_weights": "w.pth"}
        train(shapes, tmp_path / "run", recipe="staged", settings=SETTINGS | first, quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.trunk_weights": "imagenet"}, "model.init brings the trunk's weights"),
        ({"model.normalisation": "caffe"}, "was trained with another normalisation"),
    ],
)
def test_what_a_model_brings_cannot_be_set_beside_it(shapes, saved, tmp_path, changes, message):
    settings = {key: value for key, value in SETTINGS.items() if key != "stages"} | {"model.init": str(saved)}
    with pytest.raises(UsageError, match=message):
        train(shapes, tmp_path / "run", settings=settings | changes, quiet=True)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_which_stage_it_is_is_said_and_what_can_be_used_meanwhile(shapes, tmp_path, monkeypatch, capsys):
    """A run has models once its stages have ended. A stage keeps the settings that it was trained with."""

    def stopping(source, config, log, **options):
        if config.model.finest_stride == 16:
            raise Interrupted(2, "stopped")
        return fit(source, config, log, **options)

    run = tmp_path / "run"
    monkeypatch.setattr(stages, "fit", stopping)
    with pytest.raises(Interrupted):
        train(shapes, run, recipe="staged", settings=SETTINGS)
    assert re.findall(r"stage \d .*", capsys.readouterr().err) == ["stage 1 of 2", "stage 2 of 2"]
    with pytest.raises(ModelError, match=r"run: not all of its stages have ended; give one: .*run/stage-1-32s$"):
        load(run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("checkpoint_minutes: 5.0", "checkpoint_minutes: 7.0"))
    shutil.rmtree(run / "stage-2-16s")  # As if killed before it had begun.
    monkeypatch.undo()
    monkeypatch.setattr(runlog, "__version__", "0.0.7")
    train(resume=run)
    said = capsys.readouterr().err
    assert re.findall(r"stage \d .*", said) == ["stage 1 of 2: finished before", "stage 2 of 2"]
    assert "goes on with fullconv 0.0.7, not " in said
    kept = [load_config(str(run / name / "config.yaml")).checkpoint_minutes for name in ("stage-1-32s", "stage-2-16s")]
    assert kept == [5, 7]
    load(run)


def test_a_run_that_is_moved_between_two_stages_is_not_made_anew(shapes, tmp_path, monkeypatch):
    run, moved, real = tmp_path / "run", tmp_path / "moved", RunLog.finish

    def moving(log, result):
        real(log, result)
        run.rename(moved)

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="run: was moved or removed while it trained"):
        patch.setattr(RunLog, "finish", moving)
        train(shapes, run, recipe="staged", settings=SETTINGS, quiet=True)
    assert not run.exists()
    train(resume=moved, quiet=True)


def test_a_stage_that_is_resumed_alone_keeps_others_from_the_run(shapes, tmp_path):
    run = tmp_path / "run"
    train(shapes, run, recipe="staged", settings=SETTINGS, quiet=True)
    for folder in (run, run / "stage-2-16s"):
        with RunLog(folder).held():
            assert (run / ".lock").is_file() and not (run / "stage-2-16s" / ".lock").exists()
    alone = (run / "stage-1-32s").rename(tmp_path / "stage-1-32s")
    with RunLog(alone).held():
        assert (alone / ".lock").is_file(), "of no run any more"


def test_what_a_resumed_run_began_with_is_not_said_or_written_again(shapes, saved, tmp_path, monkeypatch, capsys):
    settings = {key: value for key, value in SETTINGS.items() if key != "stages"} | {"model.init": str(saved)}
    run = tmp_path / "run"

    def stopping(*_):
        raise Interrupted(2, "stopped")

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "validate", stopping)
        train(shapes, run, settings=settings)
    assert "semantic: scores of 5 classes" in capsys.readouterr().err
    (run / "transplant.json").write_text("{}")
    train(resume=run)
    assert "scores of" not in capsys.readouterr().err
    assert (run / "transplant.json").read_text() == "{}"
