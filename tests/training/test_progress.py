"""What a person sees of a run."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from fullconv import fcn8s
from fullconv.training import progress as module
from fullconv.training.config import OptimSection
from fullconv.training.progress import TrainingProgress, never_seen, one_class_only, rate_in_words
from fullconv.training.state import TrainState, dead_scores

NAMES = ["background", "cat"]


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


def test_scores_without_gradient():
    model = fcn8s("small", num_classes=2, context="none").eval()
    image, target = torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.long)
    torch.nn.functional.cross_entropy(model(image), target).backward()
    assert dead_scores(model) == []
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.zero_()
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(image), target).backward()
    assert "the scores of semantic get no gradient" in dead_scores(model)[0], "though their biases do"
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(image), target - 101, ignore_index=-100, reduction="sum").backward()
    assert dead_scores(model) == [], "no pixel is labelled"


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
