"""What a person sees while a network trains: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .runtime import is_first
from .state import TrainState

SILENCE = 10
"""Seconds between two lines where there is no terminal."""


def say(*lines: str, quiet: bool) -> None:
    """Print lines where there is no bar, on the standard error stream of the first rank."""
    console = _console(quiet)
    for line in lines:
        console.print(line, markup=False)


def _console(quiet: bool) -> Console:
    return Console(file=sys.stderr, quiet=quiet or not is_first(), highlight=False, soft_wrap=True)


class TrainingProgress:
    """Reports steps, epochs and scores, on the standard error stream of the first rank.

    Args:
        steps: Number of steps of the whole run.
        done: How many of them were taken before.
        quiet: Say nothing.
    """

    def __init__(self, steps: int, *, done: int = 0, quiet: bool = False) -> None:
        self._console = _console(quiet)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._steps = steps
        self._done = self._before = done
        self._images, self._busy = 0, 0.0
        self._start = self._spoke = self._last = time.monotonic()

    @contextmanager
    def running(self) -> Iterator["TrainingProgress"]:
        """Show the bar while the block runs."""
        if not self._console.is_terminal or self._console.quiet:
            yield self
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as self._bar:
            self._task = self._bar.add_task("training", total=self._steps, completed=self._done)
            yield self
        self._bar = None

    def step(self, state: TrainState, images: int, memory: int) -> None:
        """Count a training step that was just taken.

        Args:
            state: After the step.
            images: How many it took.
            memory: Bytes in use at most so far.
        """
        now = time.monotonic()
        self._busy += now - self._last
        self._last = now
        self._done += 1
        self._images += images
        line = (
            f"loss {state.losses[-1]:.3f}{_score(state)}  {self._images / max(self._busy, 1e-6):.1f} images/s  "
            f"{memory / 2**30:.1f} GiB"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, description=f"epoch {state.epoch}  {line}")
        elif now - self._spoke > SILENCE:
            left = (now - self._start) / (self._done - self._before) * (self._steps - self._done)
            self.say(f"step {self._done}/{self._steps}  {line}  {now - self._start:.0f} s, about {left:.0f} s left")

    def say(self, *lines: str) -> None:
        """Print lines; the time since the last step does not count as a step's."""
        for line in lines:
            self._console.print(line, markup=False)
        self._spoke = self._last = time.monotonic()


def _score(state: TrainState) -> str:
    scored = [record["mean_iu"] for record in state.records if "mean_iu" in record]
    return f"  mean IU {scored[-1]:.3f}" if scored else ""
