"""What a run refuses before it begins, what it remembers, and what it leaves alone."""

import gc
import os
import signal
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

from fullconv import fcn8s, train
from fullconv.data import open_dataset, write_shapes
from fullconv.errors import DataError, NotFinite, UsageError
from fullconv.training import loop, range_test
from fullconv.training.config import load_config
from fullconv.training.feed import derived_crop, derived_epochs, median_side, resolved
from fullconv.training.interrupt import Interrupted
from fullconv.training.runtime import Runtime
from training.short_runs import TINY, opened_shapes, run, same, weights

shapes = pytest.fixture(opened_shapes, scope="module")


@pytest.mark.parametrize("recipe", ["paper-heavy", "paper-accumulate", "at-once", "modern"])
def test_recipes_run(shapes, tmp_path, recipe):
    settings = {"model.trunk": "small", "model.context": "none", "model.padding": "same"}
    result = train(shapes, tmp_path / "run", recipe=recipe, quiet=True, epochs=1, settings=settings)
    assert (result.run / "best" / "model.safetensors").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_data_is_found_before_the_first_step(tmp_path, split):
    mask = write_shapes(tmp_path / "data", count=6, sizes=(40, 48)).records(split)[0].mask.path
    mask.write_bytes(b"")
    with pytest.raises(DataError, match=mask.name):
        run(open_dataset(tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_without_a_train_split(shapes, tmp_path):
    source = replace(shapes, splits={"test": shapes.splits["test"]})
    with pytest.raises(DataError, match="has no split 'train'"):
        run(source, tmp_path / "run")


def test_a_task_of_one_class_is_refused(shapes, tmp_path):
    """Its softmax is 1 everywhere: nothing is learned, and every score is perfect."""
    write_shapes(tmp_path / "data", count=6, sizes=(48, 64))
    names = "{0: void, 1: void, 2: disc, 3: void}"
    (tmp_path / "data" / "dataset.yaml").write_text(f"classes: {names}")
    with pytest.raises(DataError, match=r"dataset\.yaml: the task semantic has the one class 'disc', so there"):
        run(tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_in_use_is_refused(shapes, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="already holds files"):
        run(shapes, tmp_path / "run")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_run_folder_that_cannot_be_is_refused_at_once(shapes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(loop, "train_step", None)
    for find in (run, partial(range_test.find_rate, settings=TINY)):
        with pytest.raises(UsageError, match=r"file/run: cannot be written .*; choose another --out"):
            find(shapes, tmp_path / "file" / "run")


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


@pytest.mark.parametrize("more", [{}, {"stages": [{"seed": 1}, {"seed": 2}]}, {"minutes": 1e-5}])
def test_the_precision_is_that_of_the_first_machine(shapes, tmp_path, monkeypatch, capsys, more):
    """Settled before the first step, of all stages, and kept where another machine goes on."""
    used, autocast, end_epoch = [], Runtime.autocast, loop.end_epoch
    monkeypatch.setattr(Runtime, "autocast", lambda runtime: used.append(runtime.precision) or autocast(runtime))
    monkeypatch.setattr(Runtime, "bf16_in_hardware", True)

    def stopping(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        end_epoch(*arguments)

    settings = TINY | {"optim.precision": "auto", "epochs": "auto" if "minutes" in more else 1} | more
    with monkeypatch.context() as patch:
        patch.setattr(loop, "end_epoch", stopping)
        with pytest.raises(Interrupted):
            train(shapes, tmp_path / "run", settings=settings)
    said = capsys.readouterr().err
    assert said.startswith("in bf16, which the CPU multiplies in hardware (optim.precision)\n")
    monkeypatch.setattr(Runtime, "bf16_in_hardware", False)
    train(shapes, resume=tmp_path / "run")
    assert capsys.readouterr().err.startswith("warning: the CPU has no hardware for bf16")
    for path in (tmp_path / "run").rglob("config.yaml"):
        assert load_config(str(path)).optim.precision == "bf16"
    assert set(used) == {"bf16"}


def test_a_stage_has_no_precision_of_the_machine(shapes, tmp_path):
    with pytest.raises(UsageError, match=r"stages: optim\.precision=auto is for a whole run"):
        run(shapes, tmp_path / "run", settings={"stages": [{"optim.precision": "auto"}]})


def test_what_a_run_remembers_makes_the_same_run(shapes, tmp_path):
    """Also where another context was set than the model's that it began with."""
    fcn8s("small", shapes.labels.num_classes, context=24).save_pretrained(tmp_path / "saved")
    settings = {**TINY, "model.init": str(tmp_path / "saved"), "model.context": 8}
    run(shapes, tmp_path / "one", settings=settings)
    train(shapes, tmp_path / "again", recipe=str(tmp_path / "one" / "config.yaml"), quiet=True)
    assert same(weights(tmp_path / "one" / "last"), weights(tmp_path / "again" / "last"))


def test_the_callers_chance_is_left_alone(shapes, tmp_path):
    """Or all points of a random search would be one."""
    before = torch.get_rng_state()
    run(shapes, tmp_path / "run")
    range_test.find_rate(shapes, tmp_path / "rates", settings=TINY, steps=3)
    assert torch.get_rng_state().equal(before)


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


def test_how_to_go_on_with_what_was_opened_in_python(shapes, tmp_path, monkeypatch):
    def stopping(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    monkeypatch.setattr(loop, "train_step", stopping)
    with pytest.raises(Interrupted, match=r"SIGTERM: saved; fullconv\.train\(source, resume='.*run'\)$"):
        run(shapes, tmp_path / "run")
