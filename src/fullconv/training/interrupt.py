"""Ctrl-C, SIGTERM, SIGHUP during training: the step in progress is left, the last whole one is saved, the run ends."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any

from torch import nn

from ..errors import Interrupted

_HANGUP: tuple[signal.Signals, ...] = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
"""What a terminal sends as it is closed; Windows has no such signal."""


class Abandoned(Exception):
    """A signal came in the middle of a step, which is left as if it had not begun."""


class Interrupt:
    """Whether a signal asked to stop.

    Attributes:
        number: The signal; 0 before one came.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; Ctrl-C after it ends the process at once.

        Not so SIGTERM: ``torchrun`` and schedulers send it again to a rank that is saving the state.
        """
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number

    def stop(self, go_on: str) -> None:
        """End the run, whose state has been saved and which goes on by a command.

        Raises:
            Interrupted: Always.
        """
        raise Interrupted(self.number, f"{signal.Signals(self.number).name}: saved; {go_on}")


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Note signals that end a process while the block runs, instead of dying of them.

    They are SIGINT, SIGTERM and, unless it is ignored (``nohup``), SIGHUP, which comes as a terminal is closed. Outside
    the main thread do nothing.
    """
    interrupt = Interrupt()
    with _handled(interrupt):
        yield interrupt


@contextmanager
def dying_at_once() -> Iterator[None]:
    """Let these signals end a process that waits for others in C++, where Python notes none."""
    with _handled(signal.SIG_DFL):
        yield


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    before = {}
    with suppress(ValueError):  # Only the main thread may.
        for number in (signal.SIGINT, signal.SIGTERM, *_HANGUP):
            old = signal.getsignal(number)
            # One that is not Python's cannot be put back; SIGHUP that is ignored stays so.
            if old is not None and not (number in _HANGUP and old == signal.SIG_IGN):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def deaf_to_signals(run: int, worker: int) -> None:
    """Let a worker that reads data ignore Ctrl-C and SIGHUP, and on Linux SIGTERM unless the run sends it.

    A terminal and a scheduler send them to all processes of a run, and torch takes a worker that dies for an error.
    One whose batch cannot be sent does die: Python would drop the batch, and the run wait for it for ever.

    Args:
        run: Process of the run.
        worker: Number of the worker, from 0.
    """
    for number in (signal.SIGINT, *_HANGUP):
        signal.signal(number, signal.SIG_IGN)
    Queue._on_queue_feeder_error = staticmethod(_end_unsent)  # type: ignore[attr-defined]
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(run,), daemon=True).start()


def _end_when_told(run: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)


def _end_unsent(error: BaseException, batch: object) -> None:
    print(f"fullconv: a batch cannot be sent ({error})", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def leaving_passes(model: nn.Module, interrupt: Interrupt) -> Iterator[None]:
    """While the block runs, let a network in training leave its passes, forwards and backwards, once a signal came.

    A pass of a large image takes longer than who pressed Ctrl-C will wait. It is left before the next layer, or after
    the next weights' gradient. On a processor a backward pass is one call of C++, and these hooks are all that lets
    Python learn of a signal in it: also where it simply ends the work, and a fresh ``Interrupt()`` notes none.

    Raises:
        Abandoned: From within the pass.
    """

    def leave(*_: object) -> None:
        if interrupt.number:
            raise Abandoned

    def leave_training(layer: nn.Module, _: object) -> None:
        if layer.training:
            leave()

    hooks = [layer.register_forward_pre_hook(leave_training) for layer in model.modules()]
    for parameter in model.parameters():
        if parameter.requires_grad:
            hooks.append(parameter.register_post_accumulate_grad_hook(leave))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
