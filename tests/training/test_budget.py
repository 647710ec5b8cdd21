"""Epochs that fit into a time, with a clock of our own."""

import math
import time
from dataclasses import replace

import pytest

from fullconv.cli import train as command
from fullconv.data import write_shapes
from fullconv.errors import DataError, UsageError
from fullconv.inference import Predictor
from fullconv.models import FCN
from fullconv.training import budget, run
from fullconv.training.config import changed, load_config
from fullconv.training.feed import build_feed
from fullconv.training.network import build_model
from fullconv.training.runlog import RunLog
from fullconv.training.stages import stage_configs

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


def epochs_within(seconds, source, config, folder):
    """Of one stage, by a clock that begins at 0."""
    (epochs,) = budget.epochs_within(seconds, source, [config], [1.0], folder)
    return epochs


@pytest.mark.parametrize(
    ("seconds", "slow"),
    [(60.0, [2.0] * 3), (300.0, [10.0] * 3), (3000.0, [10.0] * 3), (1500.0, [2.0] * 10), (3000.0, [2.0] * 10)],
)
def test_the_epochs_fit_and_no_more_would(tmp_path, clock, seconds, slow):
    now, first = clock
    first += slow
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    epochs = epochs_within(seconds, source, config, tmp_path)
    steps = len(source.splits["train"]) // 4
    left = seconds - now[0]
    slowed = 1.1 * STEP  # A machine that is a tenth slower later is still in time.
    more = epochs + 0.011  # Epochs are in hundredths, rounded down, of a share in millionths.
    assert epochs * steps * slowed <= left < more * steps * STEP / budget.MARGIN
    assert not (tmp_path / budget.TRIAL_RUN).exists()


@pytest.mark.parametrize("seconds", [60.0, 120.0, 180.0, 900.0])
def test_evaluations_are_those_that_will_be(tmp_path, clock, monkeypatch, seconds):
    now, _ = clock
    monkeypatch.setattr(budget, "_evaluation_seconds", lambda *arguments: 20.0)
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    epochs = epochs_within(seconds, source, config, tmp_path)
    left = budget.MARGIN * (seconds - now[0])

    def spent(epochs):
        feed = build_feed(source, changed(config, {"epochs": epochs}))
        evaluations = sum(feed.evaluates(number) for number in range(1, feed.last_epoch + 1))
        return feed.total_steps * STEP + 20 * evaluations

    slack = 2 * STEP
    assert spent(epochs) <= left + slack
    assert spent(epochs + 0.2) > left - slack


def test_an_evaluation_is_of_all_images_by_their_pixels(tmp_path, clock, monkeypatch):
    """Of which a few are predicted, here in a second for each ten thousand pixels."""
    now, real = clock[0], Predictor.labels

    def slowly(predictor, image):
        now[0] += image.shape[1] * image.shape[2] / 1e4
        return real(predictor, image)

    monkeypatch.setattr(Predictor, "labels", slowly)
    source = write_shapes(tmp_path, count=100, sizes=(40, 80))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    cost = budget.measured(600.0, build_model(source, config), source, config, tmp_path)
    pixels = [math.prod(source.image_size(record)) for record in source.splits["val"]]
    assert cost.evaluation == pytest.approx(sum(pixels) / 1e4) and len(set(pixels)) > 5


def test_images_too_large_to_be_scored_are_told_in_the_trial(tmp_path, clock, monkeypatch):
    def short_of_memory(predictor, image):
        raise DataError("too much for the memory")

    monkeypatch.setattr(Predictor, "labels", short_of_memory)
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    with pytest.raises(DataError, match=r"image .*: too much .*: evaluations: 0 in .*config\.yaml, and then fullconv"):
        epochs_within(60.0, source, config, tmp_path)


def test_the_time_begins_with_the_command(tmp_path, monkeypatch):
    """A look at many masks takes a while, too."""
    ends, now, real = [], [1000.0], run.refuse_bad
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])

    def slowly(*arguments):
        real(*arguments)
        now[0] += 40.0

    monkeypatch.setattr(run, "refuse_bad", slowly)
    monkeypatch.setattr(budget, "epochs_within", lambda end, *_: ends.append(end) or [0.1])
    source = write_shapes(tmp_path / "data", count=20, sizes=(40, 48))
    settings = {"model.trunk": "small", "data.crop": 32, "minutes": 1.5, "model.input_scale": 1}
    run.train(source, tmp_path / "run", settings=settings, quiet=True)
    assert ends == [1090.0]


def test_what_is_not_to_be_scored_is_not_predicted(tmp_path, clock, monkeypatch):
    """Its images may be too large for that."""
    monkeypatch.setattr(budget, "confusion", None)
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    settings = {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4, "evaluations": 0}
    assert epochs_within(60.0, source, load_config("modern", settings), tmp_path) > 1


def test_a_short_time_is_not_spent_on_trials(tmp_path, clock):
    """Of a minute, steps of four seconds may take an eighth or the fewest, not eleven of them."""
    now, first = clock
    first += [4.0] * 20
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    epochs_within(60.0, source, config, tmp_path)
    assert now[0] == 4.0 * budget.FEWEST_STEPS


@pytest.mark.parametrize(
    ("owner", "name"), [(FCN, "save_pretrained"), (RunLog, "rewrite"), (RunLog, "write_checkpoint")]
)
def test_what_is_written_at_the_end_of_an_epoch_is_counted(tmp_path, clock, monkeypatch, owner, name):
    now, _ = clock
    real = getattr(owner, name)

    def slowly(*arguments, **options):
        now[0] += 3.0
        real(*arguments, **options)

    monkeypatch.setattr(owner, name, slowly)
    source = write_shapes(tmp_path, count=100, sizes=(40, 48))
    source = replace(source, splits={"train": source.splits["train"]})
    for minutes, state in ((5, 1), (0, len(source.splits["train"])), (0.5, 2)):
        now[0] = 0.0
        settings = {"model.trunk": "small", "data.crop": 32, "data.batch_size": 1, "checkpoint_minutes": minutes}
        config = load_config("modern", settings)
        epochs = epochs_within(1000.0, source, config, tmp_path)
        written = state if name == "write_checkpoint" else 1
        spent = len(source.splits["train"]) * STEP + 3.0 * written
        assert epochs == pytest.approx(budget.MARGIN * (1000 - now[0]) / spent, rel=0.05)


def test_whole_images_of_many_sizes_take_the_mean_time(tmp_path, clock):
    now, first = clock
    first += [1.0, 9.0] * 1000
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    source = replace(source, splits={"train": source.splits["train"]})
    settings = {"model.trunk": "small", "data.crop": "none", "data.batch_size": 1, "model.input_scale": 1}
    epochs = epochs_within(10000.0, source, load_config("modern", settings), tmp_path)
    steps = len(source.splits["train"])
    assert epochs == pytest.approx(budget.MARGIN * (10000 - now[0]) / (5.0 * steps), rel=0.05)


@pytest.mark.parametrize("seconds", [1.0, 0.0, -60.0])
def test_next_to_nothing_may_fit(tmp_path, clock, seconds):
    """Nor may the time be over, as after trial steps of larger images."""
    now, first = clock
    first += [0.01] * 1000 if seconds <= 0 else []  # They must end.
    source = write_shapes(tmp_path, count=20, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32})
    assert epochs_within(seconds, source, config, tmp_path) == 0.01
    assert now[0] < 1 or seconds == 1.0


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (2.0, "1.5 minutes hold 2 epochs"),
        (1.5, "hold 1.5 epochs"),
        (0.5, "warning: 1.5 minutes hold 0.5 epochs, by trial steps: not every image will be seen"),
    ],
)
def test_what_fits_is_said(tmp_path, monkeypatch, capsys, epochs, said):
    monkeypatch.setattr(budget, "epochs_within", lambda *arguments: [epochs])
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

    def within(end, source, stages, wanted, folder):
        return [enlarged if stages[0].model.input_scale in ("auto", 2) else 4 * enlarged]

    monkeypatch.setattr(budget, "epochs_within", within)
    source = write_shapes(tmp_path / "data", count=12, sizes=(40, 48))
    settings = {"model.trunk": "small", "model.input_scale": chosen, "epochs": "auto"}
    config = budget.fitted(source, load_config("modern", settings), 20.0, tmp_path)
    assert (config.model.input_scale, config.epochs) == (scale, enlarged * (4 if scale == 1 else 1))
    assert ("images are not enlarged" in capsys.readouterr().err) == (scale == 1)


def test_what_the_run_does_once_more_is_counted(tmp_path, clock, monkeypatch):
    """It will look again for where patches are to lie, for which it reads all masks."""
    now, real = clock[0], budget.build_feed

    def slowly(*arguments):
        now[0] += 10.0
        return real(*arguments)

    monkeypatch.setattr(budget, "build_feed", slowly)
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    epochs = epochs_within(60.0, source, config, tmp_path)
    steps, left = len(source.splits["train"]) // 4, budget.MARGIN * (60.0 - now[0]) - 10
    assert epochs * steps * STEP <= left < (epochs + 0.02) * steps * STEP


@pytest.mark.parametrize(("seconds", "evaluation"), [(900.0, 0.0), (900.0, 20.0), (60.0, 0.0)])
def test_the_epochs_of_stages_stay_in_proportion(tmp_path, clock, monkeypatch, seconds, evaluation):
    """Steps of the second take three times as long."""
    now, _ = clock

    def step(model, batches, optimiser, objective):
        now[0] += STEP * (3 if objective.config.seed else 1)
        return 1.0

    monkeypatch.setattr(budget, "train_step", step)
    monkeypatch.setattr(budget, "_evaluation_seconds", lambda *arguments: evaluation)
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    settings = {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4}
    config = load_config("modern", settings | {"stages": [{"epochs": 2}, {"epochs": 1, "seed": 1}]})
    first, second = epochs = budget.epochs_within(seconds, source, stage_configs(config), [2.0, 1.0], tmp_path)
    assert first == pytest.approx(2 * second, abs=0.02)
    left, steps = budget.MARGIN * (seconds - now[0]), len(source.splits["train"]) // 4

    def spent(first, second):
        scored = sum(min(math.ceil(number), config.evaluations) for number in (first, second))
        return steps * STEP * (first + 3 * second) + evaluation * scored

    assert spent(*epochs) <= left < spent(first + 0.05, second + 0.025) + (evaluation and 2 * evaluation)


def test_a_time_holds_stages(tmp_path, monkeypatch, capsys):
    """They are trained for as long as was chosen for each; what the run remembers says so."""
    monkeypatch.setattr(budget, "epochs_within", lambda *arguments: [1.5, 0.5])
    source = write_shapes(tmp_path / "data", count=20, sizes=(40, 48))
    settings = {"model.trunk": "small", "model.input_scale": 1, "data.crop": 32, "minutes": 3}
    settings["stages"] = [{"epochs": 3}, {"seed": 1}]
    assert run.train(source, tmp_path / "run", settings=settings).epochs == 2
    assert "warning: 3 minutes hold 1.5 + 0.5 epochs, by trial steps" in capsys.readouterr().err
    kept = load_config(str(tmp_path / "run" / "config.yaml"))
    assert kept.minutes is None and kept.stages == ({"epochs": 1.5}, {"seed": 1, "epochs": 0.5})


def test_epochs_and_a_time_are_one_too_many(tmp_path):
    with pytest.raises(UsageError, match="leave epochs out"):
        run.train(tmp_path, tmp_path / "run", settings={"minutes": 3, "epochs": 2})


@pytest.mark.parametrize("stages", [False, True])
def test_stopped_in_its_trial_steps_a_run_can_be_resumed(tmp_path, monkeypatch, stages):
    """It measures them again."""

    def stopped(*arguments):
        raise KeyboardInterrupt

    settings = {"model.trunk": "small", "data.crop": 32, "minutes": 1e-5}
    if stages:
        settings["stages"] = [{"seed": 1}, {"seed": 2}]
    write_shapes(tmp_path / "data", count=8, sizes=(40, 48))
    with monkeypatch.context() as patch:
        patch.setattr(budget, "train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run.train(tmp_path / "data", tmp_path / "run", settings=settings, quiet=True)
    asked = load_config(str(tmp_path / "run" / "config.yaml"))
    assert asked.minutes == 1e-5 and asked.epochs == "auto"
    result = run.train(resume=tmp_path / "run", quiet=True)
    assert result.epochs == (2 if stages else 1), "a hundredth of one was chosen, but a step is one"
    assert load_config(str(tmp_path / "run" / "config.yaml")).minutes is None


@pytest.mark.parametrize(("words", "seconds"), [("90s", 90), ("3m", 180), ("0.5h", 1800)])
def test_the_time_of_the_command_line_is_what_there_is(tmp_path, monkeypatch, words, seconds):
    """From ``--time`` to the seconds that the epochs must fit into."""
    ends = []

    def within(end, source, stages, wanted, folder):
        ends.append(end - time.monotonic())
        return [0.01]

    monkeypatch.setattr(budget, "epochs_within", within)
    write_shapes(tmp_path / "data", count=6, sizes=(40, 48))
    options = {"trunk": "small", "settings": ["model.input_scale=1"], "time": words, "seed": 3}
    command.train(tmp_path / "data", tmp_path / "run", **options)
    assert load_config(str(tmp_path / "run" / "config.yaml")).seed == 3
    assert ends == [pytest.approx(seconds, abs=5)]


@pytest.mark.parametrize(("enlarged", "scale"), [(35.0, "auto"), (30.0, 1)])
def test_stages_are_enlarged_where_the_time_holds_a_third_of_the_epochs(tmp_path, monkeypatch, enlarged, scale):
    """Of 200, all stages together: what they name is a proportion. One that names a scale keeps it."""
    monkeypatch.setattr(budget, "epochs_within", lambda *arguments: [enlarged, enlarged])
    source = write_shapes(tmp_path / "data", count=12, sizes=(40, 48))
    stages = [{"epochs": 2}, {"epochs": 2, "model.input_scale": 1.5}]
    config = load_config("modern", {"model.trunk": "small", "stages": stages})
    fitted = budget.fitted(source, config, 20.0, tmp_path)
    assert [stage.model.input_scale for stage in stage_configs(fitted)] == [scale, 1.5]


def test_the_slowest_rank_decides(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(budget.Runtime, "largest", lambda self, number: max(number, -budget.GRAINS // 2))
    source = write_shapes(tmp_path, count=60, sizes=(40, 48))
    config = load_config("modern", {"model.trunk": "small", "data.crop": 32, "data.batch_size": 4})
    assert epochs_within(600.0, source, config, tmp_path) == 0.5


@pytest.mark.parametrize("words", ["0m", "0.0h", "-3m", "3", "3d"])
def test_a_time_that_is_none(tmp_path, words):
    with pytest.raises(UsageError, match=f"--time {words}: write a number and a unit"):
        command.train(tmp_path, tmp_path / "run", time=words)
