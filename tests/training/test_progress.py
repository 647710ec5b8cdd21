"""What a person sees of a run."""

import io
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fullconv import load, train
from fullconv.data import DataSource
from fullconv.files.masks import MaskFile
from fullconv.models import FCN
from fullconv.training import loop, progress
from fullconv.training import progress as module
from fullconv.training.config import OptimSection, load_config
from fullconv.training.feed import build_feed, median_side
from fullconv.training.interrupt import Interrupted
from fullconv.training.network import build_model
from fullconv.training.progress import (
    TrainingProgress,
    describe,
    never_seen,
    one_class_only,
    precision_in_words,
    rate_in_words,
)
from fullconv.training.runtime import Runtime
from fullconv.training.state import TrainState
from training.short_runs import TINY, opened_shapes

NAMES = ["background", "cat"]

shapes = pytest.fixture(opened_shapes, scope="module")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A second passes whenever ``clock.now`` says so."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


class Run(TrainState):
    """A run of two epochs of 5 steps each."""

    def __init__(self, step=0):
        self.step, self.steps, self.steps_an_epoch = step, 10, 5
        self.losses, self.records = [], [{"loss": 2.0}, {"mean_iu": 0.4321}]

    def take_step(self, loss=0.75):
        self.losses = [*self.losses[: self.step % 5], loss]
        self.step += 1


def test_plain_lines_where_there_is_no_terminal(clock, capsys):
    """4 of 10 steps were taken before; from here each takes 4 seconds: a line every third one."""
    progress = TrainingProgress(run := Run(step=4))
    with progress.running():
        for loss in (2.0, 1.5, 0.75):
            clock.now += 4
            run.take_step(loss)
            progress.step(images=8, memory=3 << 29)
    assert capsys.readouterr().err == (
        "step 7/10  loss 0.750  mean IU 0.432  2.0 images/s  1.5 GiB  (12 s, about 12 s left)\n"
    )


def test_names_do_not_work_the_terminal(clock, capsys):
    TrainingProgress(Run()).say("a\x1b[2J")
    module.say("b\x9b2J", quiet=False)
    assert capsys.readouterr().err == "a\\x1b[2J\nb\\x9b2J\n"


def test_epochs_shorter_than_the_silence_say_how_long_it_will_last(clock, capsys):
    progress = TrainingProgress(run := Run())
    progress.epoch({"epoch": 0, "loss": 1.0, "seconds": 5.0}, 2)  # Resumed where only its scores were missing.
    for epoch in (1, 2):
        for _ in range(5):
            clock.now += 1
            run.take_step()
            progress.step(images=8, memory=3 << 29)
        scores = {"mean_iu": 0.5, "pixel_accuracy": 0.75, "warnings": ["a warning"]} if epoch == 2 else {}
        progress.epoch({"epoch": epoch, "loss": 0.75, "seconds": clock.now, **scores}, 2)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 0/2  loss 1.000  (5 s)",
        "epoch 1/2  loss 0.750  8.0 images/s  1.5 GiB  (5 s, about 5 s left)",
        "epoch 2/2  loss 0.750  val: mean IU 0.500  pixel accuracy 0.750  8.0 images/s  1.5 GiB  (10 s)",
        "a warning",
    ]


@pytest.mark.parametrize("columns", ["160", "80"])
def test_a_bar_on_a_terminal(clock, monkeypatch, columns):
    """A narrow one has all but the bar."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    run = Run()
    run.step, run.steps, run.steps_an_epoch = 1200, 2982, 100
    progress = TrainingProgress(run)
    with progress.running():
        for _ in range(3):
            clock.now += 1
            run.take_step()
            progress.step(images=8, memory=3 << 29)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", stream.getvalue())
    assert re.search(
        r"epoch 13  loss 0\.750  mean IU 0\.432  8\.0 images/s  1\.5 GiB .* 1203/2982 (-:--:--|\d:\d\d:\d\d)", shown
    )


def test_where_nobody_can_read_it_the_run_goes_on(monkeypatch):
    """Its terminal was closed, or the disk of its output is full."""

    class Gone(Terminal):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Gone())
    module.say("a line", quiet=False)
    progress = TrainingProgress(run := Run())
    with progress.running():
        run.take_step()
        progress.step(images=8, memory=0)
        progress.say("a line")


def test_without_a_standard_error_stream_the_run_goes_on(monkeypatch, capsys):
    """As under a service of Windows."""
    monkeypatch.setattr(sys, "stderr", None)
    module.say("a line", quiet=False)
    assert capsys.readouterr().out == ""


def test_quiet_says_nothing(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    progress = TrainingProgress(run := Run(), quiet=True)
    with progress.running():
        clock.now += 60
        run.take_step()
        progress.step(images=8, memory=0)
        progress.say("a line")
    assert stream.getvalue() == ""


def test_classes_without_a_pixel():
    assert never_seen(torch.tensor([5, 1]), NAMES) == []
    assert "no training mask holds cat" in never_seen(torch.tensor([5, 0]), NAMES)[0]


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        ([[0], [0]], False),
        ([[0], [0], [0]], True),
        ([[0, 1], [0], [0], [0]], True),
        ([[0], [0], [0], [0, 1]], False),
        ([[0], [1], [0]], False),
        ([[], [], []], False),
    ],
)
def test_one_class_everywhere(predicted, said):
    records = [{"predicted": classes} for classes in predicted] + [{"loss": 1.0}]
    lines = one_class_only(records, NAMES)
    assert bool(lines) == said
    if said:
        assert "every pixel was predicted as background in the last 3 evaluations" in lines[0]


def test_rates_in_both_units():
    """The same steps: a rate on the sum is that rate × pixels on the mean."""
    heavy = rate_in_words(
        OptimSection(optimiser="sgd", rate=1e-10, momentum=0.99, loss="sum", weight_decay=0), 180_000.0
    )
    assert "1e-10 on the summed loss, as 1.8e-05 on the mean" in heavy and "0.0018" in heavy
    mean = rate_in_words(OptimSection(optimiser="sgd", rate=1.8e-5, momentum=0.9, loss="mean"), 180_000.0)
    assert "1.8e-05 (weight_decay 0.01) on the mean loss, as 1e-10 (weight_decay 1.8e+03) on the sum over" in mean
    adam = rate_in_words(OptimSection(jaccard=0.5), 10.0)
    assert adam == (
        "rate 0.001 (jaccard 0.5) on the mean loss, as 0.001 (jaccard 5) on the sum over about 10 pixels a step "
        "(AdamW: the same rate for both)"
    )


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "JPY_PARENT_PID"])
def test_a_file_gets_plain_lines_whatever_the_environment_asks_for(monkeypatch, variable):
    """A notebook's too: as a program that reads the standard error stream expects."""
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr("rich.console._is_jupyter", lambda: variable == "JPY_PARENT_PID")
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    module.say("a line", quiet=False)
    progress = TrainingProgress(run := Run())
    with progress.running():
        run.take_step()
        progress.step(images=8, memory=3 << 29)
        progress.say("epoch 1/2")
    assert stream.getvalue() == "a line\nepoch 1/2\n"


def test_the_rate_is_said_for_the_pixels_that_count(shapes):
    """With ``keep``, and for whole images of other sizes, as many as there are in the mean."""
    samples = shapes.dataset("train")
    mean = sum(samples[index].target.numel() for index in range(len(samples))) / len(samples)
    sgd = {**TINY, "optim.optimiser": "sgd", "data.keep": 0.25}
    for crop, stride, area in ((48, 1, 48 * 48), ("none", 1, mean), (48, 4, 12 * 12)):
        config = load_config("modern", {**sgd, "data.crop": crop, "optim.loss_stride": stride})
        lines = describe(build_model(shapes, config), shapes, build_feed(shapes, config), config, Runtime(device="cpu"))
        assert f"{4 * area / 4:,.0f} pixels a step" in lines[-1]


def test_what_was_derived_is_said_with_its_reason(shapes):
    source = replace(shapes, splits={"train": shapes.splits["train"][:2]})
    config = load_config("modern", {**TINY, "data.batch_size": 40, "data.crop": "none"})
    said = describe(build_model(source, config), source, build_feed(source, config), config, Runtime(device="cpu"))
    assert "200 epochs of 2 images (1000 / √2 passes, at least 4, at most 200), 1 steps of 2 an epoch" in said
    assert "whole images, as large as they are (data.scale is for crops)" in said
    assert f"{source.labels.num_classes} classes; no val split: the last weights will be the best" in said
    (line,) = (line for line in said if line.startswith("the trunk starts from random weights: --trunk-weights takes"))
    assert "may hardly learn" not in line


@pytest.mark.parametrize(
    ("asked", "has", "said"),
    [
        ("auto", True, "in bf16, which the CPU multiplies in hardware"),
        ("auto", False, "in fp32, as the CPU has no hardware for bf16"),
        ("auto", None, f"in fp32, as torch {torch.__version__} does not tell whether the CPU has hardware for bf16"),
        ("fp32", True, None),
        ("bf16", True, None),
        ("bf16", None, None),
        ("bf16", False, "warning: the CPU has no hardware for bf16: steps may take minutes, in fp32 seconds"),
    ],
)
def test_the_precision_is_said_with_its_reason(monkeypatch, asked, has, said):
    monkeypatch.setattr(Runtime, "bf16_in_hardware", has)
    lines = precision_in_words(asked, Runtime(asked, device="cpu"))
    assert lines == ([f"{said} (optim.precision)"] if said else [])


def test_a_rank_without_bf16_is_the_reason_of_all(monkeypatch):
    monkeypatch.setattr(Runtime, "bf16_in_hardware", True)
    monkeypatch.setattr(Runtime, "largest", lambda runtime, number: 1)
    (line,) = precision_in_words("auto", Runtime("auto", device="cpu"))
    assert line == "in fp32, as the CPU of another rank has no hardware for bf16 (optim.precision)"


@pytest.mark.parametrize(("precision", "where"), [("fp32", "on the CPU"), ("bf16", "on the CPU, in bf16")])
def test_the_precision_stands_beside_the_device(shapes, precision, where):
    config = load_config("modern", TINY)
    runtime = Runtime(precision, device="cpu")
    first, *_ = describe(build_model(shapes, config), shapes, build_feed(shapes, config), config, runtime)
    assert first.endswith(f" M parameters, {where}")


def test_small_images_are_enlarged_and_that_is_said(shapes, tmp_path, capsys):
    settings = {"model.trunk": "small", "model.context": "none", "data.batch_size": 4}
    result = train(shapes, tmp_path / "run", epochs=1, settings=settings)
    said = capsys.readouterr().err
    side = median_side(shapes)
    assert f"images seen 2 times as large: median shorter side {side}, to about 384, at most 2 times" in said
    assert "crops of 128×128: the median shorter side as seen" in said
    model = FCN.from_pretrained(result.run / "best")
    assert model.input_scale == 2
    assert load(result.run).predict(np.zeros((31, 17), np.uint8)).labels.shape == (31, 17)


@pytest.mark.parametrize(("trunk", "warned"), [("small", True), ("alexnet", False)])
def test_frozen_statistics_of_random_weights_are_warned_of(shapes, trunk, warned):
    settings = {**TINY, "model.trunk": trunk, "model.context": "none", "optim.batch_norm": "frozen"}
    config = load_config("modern", settings)
    said = describe(build_model(shapes, config), shapes, build_feed(shapes, config), config, Runtime(device="cpu"))
    assert any("may hardly learn" in line for line in said) == warned


@pytest.mark.parametrize(("crop", "larger", "room"), [(8, 1, "48"), (8, 2, "192"), (16, 1, None)])
def test_large_images_are_said_to_have_room_for_patches(shapes, monkeypatch, crop, larger, room):
    """Here of 48×64 pixels each."""
    monkeypatch.setattr(progress, "mean_area", lambda source: 48 * 64)
    config = load_config("modern", {**TINY, "data.crop": crop, "model.input_scale": larger})
    feed = build_feed(shapes, config)
    said = "\n".join(describe(build_model(shapes, config), shapes, feed, config, Runtime(device="cpu")))
    assert ("data.patches=uniform" in said) == (room is not None)
    assert room is None or f"an image has room for {room} crops" in said


def test_what_rare_classes_count_is_said(shapes, tmp_path, capsys):
    train(shapes, tmp_path / "run", epochs=0.01, settings={**TINY, "optim.balance": 0.2})
    line = re.search(r"a pixel counts from ([\d.]+) \(\w+\) to ([\d.]+) \(\w+\): rare", capsys.readouterr().err)
    assert float(line[1]) < 1 < float(line[2])


def test_a_class_without_a_pixel_is_named(shapes, tmp_path, monkeypatch, capsys):
    real = DataSource.class_pixels

    def without_the_last(source, split):
        counts = real(source, split)
        return counts * (torch.arange(len(counts)) < len(counts) - 1)

    monkeypatch.setattr(DataSource, "class_pixels", without_the_last)
    train(shapes, tmp_path / "run", settings=TINY, epochs=1)
    assert f"warning: no training mask holds {shapes.labels.names[-1]}:" in capsys.readouterr().err


def test_images_that_are_trained_on_and_scored_are_mentioned(shapes, tmp_path, capsys):
    both = shapes.splits["train"][:2]
    again = [replace(record, mask=MaskFile(Path(shutil.copy(record.mask.path, tmp_path)))) for record in both]
    leaky = replace(shapes, splits={"train": shapes.splits["train"], "val": (*shapes.splits["val"], *again)})
    train(leaky, tmp_path / "run", settings=TINY, epochs=1)
    said = f"warning: 2 of the {len(leaky.splits['val'])} val images are trained on, too, such as {both[0].stem}:"
    assert said in capsys.readouterr().err
    train(shapes, tmp_path / "sound", settings=TINY, epochs=1)
    assert "trained on, too" not in capsys.readouterr().err


def test_every_step_is_shown(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SILENCE", -1)
    train(shapes, tmp_path / "run", settings={**TINY, "data.batch_size": 5}, epochs=1)
    shown = re.findall(r"step (\d)/2  loss [\d.]+ .*images/s  ([\d.]+) GiB", capsys.readouterr().err)
    assert [step for step, _ in shown] == ["1", "2"] and all(0 < float(memory) < 64 for _, memory in shown)


def test_time_and_steps_are_counted_from_the_beginning_of_the_run(shapes, tmp_path, monkeypatch, capsys):
    """Each step takes a second; the run is stopped after the fourth of twelve."""
    now, steps, real = [0.0], [], loop.train_step
    source = replace(shapes, splits={"train": shapes.splits["train"][:6]})
    settings = {**TINY, "data.batch_size": 1}

    def step(*arguments):
        now[0] += 1
        steps.append(now[0])
        loss = real(*arguments)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "SILENCE", 0.5)
    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(Interrupted):
        train(source, tmp_path / "run", settings=settings, epochs=2)
    now[0] = 100.0
    capsys.readouterr()
    result = train(source, resume=tmp_path / "run")
    shown = re.findall(r"step (\d+)/12", capsys.readouterr().err)
    assert shown == [str(number) for number in range(5, 13)]
    assert result.seconds == 12
