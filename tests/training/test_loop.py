import json
import os
import signal
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from fullconv import load, train
from fullconv.data import open_dataset, write_shapes
from fullconv.errors import NotFinite
from fullconv.evaluation import evaluate
from fullconv.training import loop, progress
from fullconv.training.checkpoint import Checkpoints
from fullconv.training.config import load_config
from fullconv.training.interrupt import Interrupted
from fullconv.training.loop import starting_network
from fullconv.training.optim import rate_factor
from fullconv.training.runlog import RunLog
from fullconv.training.stages import check_networks
from training.short_runs import TINY, opened_shapes, run, same, weights

shapes = pytest.fixture(opened_shapes, scope="module")


def test_the_same_seed_gives_the_same_weights(shapes, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(shapes, tmp_path / name, seed=seed)
    one, again, other = (weights(tmp_path / name / "last") for name in "abc")
    assert same(one, again)
    assert not same(one, other)


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
def test_a_setting_makes_a_difference(shapes, tmp_path, settings):
    """Each of them alone, on top of those before it, ends elsewhere; but for the cache, which must not."""
    none = {"optim.precision": "fp32"}
    folders = [run(shapes, tmp_path / "none", settings=none).run]
    for count, name in enumerate(settings, 1):
        some = none | dict(list(settings.items())[:count])
        folders.append(run(shapes, tmp_path / name, settings=some).run)
        assert same(weights(folders[-1] / "last"), weights(folders[-2] / "last")) == (name == "data.cache_mb"), name


def test_without_evaluations_nothing_is_scored(shapes, tmp_path, monkeypatch):
    """Where whole images are too much for the memory."""
    monkeypatch.setattr(loop, "validate", None)
    result = run(shapes, tmp_path / "run", settings={"evaluations": 0})
    assert result.scores is None
    assert same(weights(tmp_path / "run" / "best"), weights(tmp_path / "run" / "last"))


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


def test_a_run_may_end_within_an_epoch(shapes, tmp_path):
    result = run(shapes, tmp_path / "run", epochs=1.5, settings={"data.batch_size": 1})
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert "mean_iu" in lines[-1]
    assert result.epochs == json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 1.5


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


def test_what_is_left_out_differs_from_step_to_step_and_from_seed_to_seed(shapes, tmp_path, monkeypatch):
    real, seen = loop.train_step, []

    def noting(*arguments):
        seen.append(torch.initial_seed())
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", noting)
    for seed in (0, 1):
        run(shapes, tmp_path / str(seed), settings={"data.batch_size": 1}, seed=seed)
    assert len(set(seen)) == len(seen) > 10


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
