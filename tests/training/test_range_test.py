"""The learning-rate range test."""

import json

import numpy as np
import pytest
from PIL import Image

from fullconv.data import write_shapes
from fullconv.errors import NotFinite, UsageError
from fullconv.training import find_rate, range_test
from fullconv.training.range_test import suggested
from fullconv.training.runtime import Runtime

SETTINGS = {"model.trunk": "small", "model.context": "none", "data.crop": 48, "data.batch_size": 4}


def test_finds_a_rate_and_leaves_a_picture(tmp_path):
    write_shapes(tmp_path / "data", count=12, sizes=(48, 64))
    found = find_rate(tmp_path / "data", tmp_path / "rates", settings=SETTINGS, steps=40, seed=0)
    assert 1e-5 < found.suggestion < 0.3
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= 40
    ratios = [after / before for before, after in zip(found.rates, found.rates[1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios)) and ratios[0] > 1
    with Image.open(tmp_path / "rates" / "find-lr.png") as picture:
        assert picture.width > 400
    assert json.loads((tmp_path / "rates" / "find-lr.json").read_text())["suggestion"] == found.suggestion
    assert not list((tmp_path / "rates").glob("**/*.safetensors"))
    with pytest.raises(UsageError, match="already holds files"):
        find_rate(tmp_path / "data", tmp_path / "rates", settings=SETTINGS)


@pytest.mark.parametrize("recipe", ["paper-heavy", "modern"])
def test_images_of_other_sizes_and_of_no_labels_end_no_test(tmp_path, recipe):
    """The sum over a large image is no explosion, and the nothing of an unlabelled one no minimum."""
    source = write_shapes(tmp_path / "data", count=10, sizes=(32, 96))
    for record in source.records("train")[:4]:
        Image.fromarray(np.full(source.image_size(record), 255, np.uint8)).save(record.mask.path)
    settings = SETTINGS | {"data.batch_size": 1, "optim.batch_norm": "frozen", "optim.rate": 1e-15}
    for seed in range(3):
        found = find_rate(source, tmp_path / str(seed), recipe=recipe, settings=settings, steps=12, seed=seed)
        assert 2 <= len(found.rates) < 12 and max(found.losses) < 1.5 * min(found.losses)


def test_a_loss_that_explodes_ends_the_test_without_an_error(tmp_path):
    write_shapes(tmp_path / "data", count=8, sizes=(48, 64))
    settings = SETTINGS | {"optim.optimiser": "sgd", "optim.rate": 1e6}
    found = find_rate(tmp_path / "data", tmp_path / "rates", settings=settings, steps=30)
    assert 1 <= len(found.rates) < 30


@pytest.mark.parametrize(
    ("recipe", "settings", "said"),
    [
        ("staged", {}, "give a recipe without stages"),
        ("modern", {"minutes": 3}, "and no --time"),
        ("modern", {"epochs": 3}, "leave --epochs out"),
        ("modern", SETTINGS | {"data.batch_size": 1, "data.crop": 32}, r"larger crops \(data\.crop\)"),
    ],
)
def test_what_cannot_be_tested_is_said(tmp_path, recipe, settings, said):
    write_shapes(tmp_path / "data", count=6, sizes=(48, 64))
    with pytest.raises(UsageError, match=said):
        find_rate(tmp_path / "data", tmp_path / "rates", recipe=recipe, settings=settings)


def test_a_loss_that_is_not_finite_from_the_first_is_an_error(tmp_path, monkeypatch):
    def explode(*_):
        raise NotFinite("the loss is nan")

    monkeypatch.setattr(range_test, "train_step", explode)
    write_shapes(tmp_path / "data", count=8, sizes=(48, 64))
    with pytest.raises(NotFinite, match="the loss is nan"):
        find_rate(tmp_path / "data", tmp_path / "rates", settings=SETTINGS)


def test_the_precision_is_the_machines(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Runtime, "bf16_in_hardware", True)
    used, real = [], Runtime.autocast
    monkeypatch.setattr(Runtime, "autocast", lambda runtime: used.append(runtime.precision) or real(runtime))
    settings = SETTINGS | {"optim.precision": "auto"}
    find_rate(write_shapes(tmp_path / "data", count=6), tmp_path / "rates", settings=settings, steps=3)
    assert set(used) == {"bf16"} and "in bf16, which the CPU multiplies" in capsys.readouterr().err


def test_the_suggestion_is_a_tenth_of_the_lowest():
    assert suggested([1e-4, 1e-3, 1e-2], [3.0, 1.0, 2.0]) == 1e-4


def test_rates_are_spread_evenly_around_the_recipes(tmp_path, monkeypatch):
    """Which is 1e-3."""
    taken = []

    def noting(model, batches, optimiser, objective):
        taken.append(optimiser.param_groups[0]["lr"])
        return 1.0

    monkeypatch.setattr(range_test, "train_step", noting)
    write_shapes(tmp_path / "data", count=8, sizes=(48, 64))
    found = find_rate(tmp_path / "data", tmp_path / "rates", settings=SETTINGS, steps=5)
    assert found.rates == pytest.approx([1e-7, 1e-5, 1e-3, 1e-1, 1e1]) == taken
