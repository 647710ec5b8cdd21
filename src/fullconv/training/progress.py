"""What a person sees while a network trains: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

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


class TrainingProgress:
    """Reports steps, epochs and scores.

    Args:
        steps: Number of steps of the whole run.
        stream: Where to write; nothing is written with ``quiet``.
        quiet: Say nothing.
    """

    def __init__(self, steps: int, *, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._console = Console(file=stream or sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()
        self._spoke = self._start

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
            self._task = self._bar.add_task("training", total=self._steps)
            yield self
        self._bar = None

    def step(self, epoch: int, loss: float) -> None:
        """Count one training step."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, description=f"epoch {epoch}  loss {loss:.3f}")
        elif time.monotonic() - self._spoke > 10:
            elapsed = time.monotonic() - self._start
            left = elapsed / self._done * (self._steps - self._done)
            self.say(f"step {self._done}/{self._steps}  loss {loss:.3f}  {elapsed:.0f} s, about {left:.0f} s left")

    def say(self, line: str) -> None:
        """Print one line."""
        self._spoke = time.monotonic()
        self._console.print(line, markup=False)
