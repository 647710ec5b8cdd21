"""Epochs that fit into a time, with a clock of our own."""

from dataclasses import replace

import pytest
import torch

from fullconv.data import write_shapes
from fullconv.training import budget, run
from fullconv.training.config import changed, load_config
from fullconv.training.feed import build_feed
from fullconv.training.network import build_model

STEP = 0.5


@pytest.fixture
def clock(monkeypatch):
    """Time passes only while a step is taken: half a second, or as many as the list says of the first ones."""
    now, first = [0.0], []

    def step(*arguments):
        now[0] += first.pop() if first else STEP
        return 1.0

    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(budget, "train_step", step)
    return now, first


@pytest.mark.parametrize(
    ("seconds", "slow"),
    [(60.0, [2.0] * 3), (300.0, [10.0] * 3), (3000.0, [10.0] * 3), (1500.0, [2.0] * 10), (3000.0, [2.0] * 10)],
)
def test_the_epochs_fit_and_no_more_would(tmp_path, clock, seconds, slow):
    now, first = clock
    first += slow
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    model = build_model(config, source)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chance = torch.get_rng_state()
    epochs = budget.epochs_within(seconds, model, source, config)
    steps = len(source.splits["train"]) // 4
    left = seconds - now[0]
    assert epochs * steps * STEP <= left < (epochs + 0.01) * steps * STEP / budget.MARGIN
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), chance)


@pytest.mark.parametrize("seconds", [60.0, 120.0, 180.0, 900.0])
def test_evaluations_are_those_that_will_be(tmp_path, clock, monkeypatch, seconds):
    now, _ = clock
    monkeypatch.setattr(budget, "_evaluation_seconds", lambda *arguments: 20.0)
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    epochs = budget.epochs_within(seconds, build_model(config, source), source, config)
    left = budget.MARGIN * (seconds - now[0])

    def spent(epochs):
        feed = build_feed(source, changed(config, {"epochs": epochs}))
        evaluations = sum(feed.evaluates(number) for number in range(1, feed.last_epoch + 1))
        return feed.total_steps * STEP + 20 * evaluations

    slack = 2 * STEP
    assert spent(epochs) <= left + slack
    assert spent(epochs + 0.2) > left - slack


def test_a_short_time_is_not_spent_on_trials(tmp_path, clock):
    """Of a minute, steps of four seconds may take an eighth or the fewest, not eleven of them."""
    now, first = clock
    first += [4.0] * 20
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    budget.epochs_within(60.0, build_model(config, source), source, config)
    assert now[0] == 4.0 * budget.FEWEST


@pytest.mark.parametrize(("owner", "name"), [(budget.FCN, "save_pretrained"), (budget.RunLog, "rewrite")])
def test_what_is_written_at_the_end_of_an_epoch_is_counted(tmp_path, clock, monkeypatch, owner, name):
    now, _ = clock
    real = getattr(owner, name)

    def slowly(*arguments):
        now[0] += 3.0
        real(*arguments)

    monkeypatch.setattr(owner, name, slowly)
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    source = replace(source, splits={"train": source.splits["train"]})
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    epochs = budget.epochs_within(1000.0, build_model(config, source), source, config)
    steps = len(source.splits["train"]) // 4
    assert epochs == pytest.approx(budget.MARGIN * (1000 - now[0]) / (steps * STEP + 3.0), rel=0.05)


@pytest.mark.parametrize("seconds", [1.0, 0.0, -60.0])
def test_next_to_nothing_may_fit(tmp_path, clock, seconds):
    """Nor may the time be over, as after trial steps of larger images."""
    now, first = clock
    first += [0.01] * 1000 if seconds <= 0 else []  # They must end.
    source = write_shapes(tmp_path, count=20, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32})
    assert budget.epochs_within(seconds, build_model(config, source), source, config) == 0.01
    assert now[0] < 1 or seconds == 1.0


@pytest.mark.parametrize(
    ("epochs", "said"),
    [(2.0, "1.5 minutes hold 2 epochs"), (1.5, "hold 1.5 epochs"), (0.5, "warning: 1.5 minutes hold 0.5 epochs")],
)
def test_what_fits_is_said(tmp_path, monkeypatch, capsys, epochs, said):
    monkeypatch.setattr(run, "epochs_within", lambda *arguments: epochs)
    source = write_shapes(tmp_path / "data", count=20, sizes=(40, 48))
    settings = {"model.trunk": "small", "data.crop": 32, "minutes": 1.5}
    assert run.train(source, tmp_path / "run", settings=settings).epochs == epochs
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "enlarged", "scale"), [("auto", 70.0, "auto"), ("auto", 60.0, 1.0), (2.0, 60.0, 2.0)]
)
def test_images_are_enlarged_where_the_time_holds_a_third_of_the_epochs(
    tmp_path, monkeypatch, capsys, chosen, enlarged, scale
):
    """Of ten training images 200 epochs are derived."""

    def within(seconds, model, source, config):
        return enlarged if model.input_scale == 2 else 4 * enlarged

    monkeypatch.setattr(run, "epochs_within", within)
    source = write_shapes(tmp_path / "data", count=12, sizes=(40, 48))
    settings = {"model.trunk": "small", "model.input_scale": chosen, "epochs": "auto"}
    config = run._fitted(load_config("modern", settings), source, 20.0, quiet=False)
    assert (config.model.input_scale, config.epochs) == (scale, enlarged * (4 if scale == 1 else 1))
    assert ("images are not enlarged" in capsys.readouterr().err) == (scale == 1)


def test_what_the_run_does_once_more_is_counted(tmp_path, clock, monkeypatch):
    """It will read all masks again."""
    now, real = clock[0], budget.class_pixels

    def slowly(source):
        now[0] += 10.0
        return real(source)

    monkeypatch.setattr(budget, "class_pixels", slowly)
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    epochs = budget.epochs_within(60.0, build_model(config, source), source, config)
    steps, left = len(source.splits["train"]) // 4, budget.MARGIN * (50.0 - now[0])
    assert epochs * steps * STEP <= left < (epochs + 0.02) * steps * STEP
