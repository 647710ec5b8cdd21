"""Staged training: each stage starts from the one before, and the whole is one run."""

import json

import pytest
import torch

from fullconv import train
from fullconv.data import write_shapes
from fullconv.errors import UsageError
from fullconv.models import FCN
from fullconv.training import stages
from fullconv.training.interrupt import Interrupted
from fullconv.training.loop import fit

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
    result = train(shapes, tmp_path / "run", recipe="staged", settings=SETTINGS, quiet=True)
    coarse = FCN.from_pretrained(tmp_path / "run" / "stage-1-32s" / "best").state_dict()
    fine = FCN.from_pretrained(result.run / "best").state_dict()
    shared = [name for name in coarse if name in fine and "running" not in name and "num_batches" not in name]
    assert len(shared) > 20 and all(torch.equal(coarse[name], fine[name]) for name in shared)
    assert fine["heads.semantic.score.stage4.weight"].abs().max() < 1e-20, "a new score layer starts at zero"
    report = json.loads((tmp_path / "run" / "stage-2-16s" / "transplant.json").read_text())
    assert "heads.semantic.score.stage4.weight" in report["left_new"]
    assert json.loads((result.run / "summary.json").read_text())["scores"]["mean_iu"] == result.scores.mean_iu


def test_an_interrupted_stage_is_resumed_and_a_finished_one_kept(shapes, tmp_path, monkeypatch):
    train(shapes, tmp_path / "whole", recipe="staged", settings=SETTINGS, quiet=True)

    def stopping(model, source, config, log, **options):
        if config.model.finest_stride == 16:
            raise Interrupted(2, "stopped")
        return fit(model, source, config, log, **options)

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


def test_what_every_stage_sets_itself_cannot_be_set_for_all(shapes, tmp_path):
    with pytest.raises(UsageError, match=r"every stage of recipe staged has its own optim\.rate"):
        train(shapes, tmp_path / "run", recipe="staged", settings=SETTINGS | {"optim.rate": 1e-4}, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_time_is_for_one_stage(shapes, tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if key != "epochs"} | {"minutes": 1}
    with pytest.raises(UsageError, match="without stages"):
        train(shapes, tmp_path / "run", recipe="staged", settings=settings, quiet=True)
