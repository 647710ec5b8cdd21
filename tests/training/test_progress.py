"""What a person sees of the steps."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

from fullconv.training import progress as module
from fullconv.training.progress import TrainingProgress
from fullconv.training.state import TrainState


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


def state(epoch, *losses):
    """A run in its ``epoch``-th epoch, of 5 steps each."""
    made = TrainState.__new__(TrainState)
    made.step, made.steps_an_epoch = 5 * (epoch - 1) + len(losses), 5
    made.losses, made.records = list(losses), [{"loss": 2.0}, {"mean_iu": 0.4321}]
    return made


def test_plain_lines_where_there_is_no_terminal(clock, capsys):
    """4 of 10 steps were taken before; from here each takes 4 seconds: a line every third one."""
    progress = TrainingProgress(10, done=4)
    with progress.running():
        for _ in range(3):
            clock.now += 4
            progress.step(state(2, 1.5, 0.75), images=8, memory=3 << 29)
    assert capsys.readouterr().err == (
        "step 7/10  loss 0.750  mean IU 0.432  2.0 images/s  1.5 GiB  12 s, about 12 s left\n"
    )


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    progress = TrainingProgress(10)
    with progress.running():
        for _ in range(3):
            progress.step(state(1, 0.75), images=8, memory=3 << 29)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", stream.getvalue())
    assert re.search(
        r"epoch 1  loss 0\.750  mean IU 0\.432  [\d.]+ images/s  1\.5 GiB .* 3/10 0:00:\d\d (-:--:--|0:00:\d\d)", shown
    )


def test_quiet_says_nothing(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    progress = TrainingProgress(10, quiet=True)
    with progress.running():
        clock.now += 60
        progress.step(state(1, 0.75), images=8, memory=0)
        progress.say("a line")
    assert stream.getvalue() == ""
