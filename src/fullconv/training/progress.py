"""What a person sees of a run: what it is about to do and why, how it goes, and what looks wrong."""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

import torch
from jaxtyping import Int64
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor, nn

from ..data import DataSource
from ..errors import plain
from ..models import FCN, StartReport
from .config import OptimSection, TrainConfig
from .feed import (
    CROP_MULTIPLE,
    FEWEST_EPOCHS,
    LARGE_SIDE,
    LARGEST_CROP,
    LARGEST_SCALE,
    MOST_EPOCHS,
    PASSES,
    Feed,
    mean_area,
    median_side,
)
from .runtime import Runtime, is_first
from .state import TrainState

MANY_CROPS = 16
"""Crops that an image has room for, above which patches are mentioned."""

PATIENCE = 3
"""Evaluations in a row with one class predicted everywhere before it is mentioned."""

SILENCE = 10
"""Seconds between two lines where there is no terminal."""


def describe(
    model: FCN, source: DataSource, feed: Feed, config: TrainConfig, runtime: Runtime, *, begun: bool = False
) -> list[str]:
    """Return lines that say what is about to happen, and the reason of everything that was derived from the data.

    ``begun`` leaves out what a run starts from.
    """
    data = config.data
    things = "images" if data.patches == "none" else "patches"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    val = len(source.splits.get("val", ()))
    scored = f"{val} images of the val split to score"
    if not feed.evaluations:
        scored = f"{'the val split is not scored' if val else 'no val split'}: the last weights will be the best"
    step, derived = feed.sampler.images_a_step, config.epochs == "auto"
    why = f" ({PASSES} / √{feed.samples} passes, at least {FEWEST_EPOCHS}, at most {MOST_EPOCHS})" if derived else ""
    lines = [
        f"{config.model.trunk}, FCN-{config.model.finest_stride}s, {parameters / 1e6:.1f} M parameters, on {runtime}",
        f"{source.labels.num_classes} classes; {scored}",
        f"{feed.epochs:g} epochs of {feed.samples} {things}{why}, {feed.steps_an_epoch} steps of {step} an epoch",
    ]
    if config.model.trunk_weights is None and config.model.init is None and not begun:
        fresh = "the trunk starts from random weights: --trunk-weights takes a file, or imagenet (a download)"
        normalised = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.trunk.modules())
        if normalised and config.optim.batch_norm == "frozen":
            fresh += "; frozen batch normalisation (optim.batch_norm) has no statistics then, and it may hardly learn"
        lines.insert(1, fresh)
    if model.input_scale != 1:
        why = f": median shorter side {median_side(source)}, to about {LARGE_SIDE}, at most {LARGEST_SCALE} times"
        chosen = why if config.model.input_scale == "auto" else ""
        lines.append(f"images seen {model.input_scale:g} times as large{chosen}")
    if feed.crop is None:
        lines.append("whole images, as large as they are (data.scale is for crops)")
    else:
        why = f": the median shorter side as seen, up to a multiple of {CROP_MULTIPLE}, {LARGEST_CROP} at most"
        lines.append(f"crops of {feed.crop[0]}×{feed.crop[1]}{why if data.crop == 'auto' else ''}")
        room = mean_area(source) * model.input_scale**2 / math.prod(feed.crop)
        if data.patches == "none" and room > MANY_CROPS:
            lines.append(
                f"an image has room for {room:.0f} crops and gives one an epoch: data.patches=uniform draws as many as "
                f"there is room for"
            )
    area = math.prod(feed.crop) if feed.crop else mean_area(source)
    return [*lines, rate_in_words(config.optim, step * area * data.keep / config.optim.loss_stride**2)]


def precision_in_words(asked: str, runtime: Runtime) -> list[str]:
    """Return why ``auto`` is what it is on these devices, and a warning of bf16 that was asked for where it is slow."""
    device = "the CPU" if runtime.device.type == "cpu" else "the GPU"
    if asked == "bf16" and runtime.bf16_in_hardware is False:
        return [
            f"warning: {device} has no hardware for bf16: steps may take minutes, in fp32 seconds (optim.precision)"
        ]
    if asked != "auto":
        return []
    if runtime.precision == "bf16":
        why = f"which {device} multiplies in hardware"
    elif runtime.bf16_in_hardware is None:
        why = f"as torch {torch.__version__} does not tell whether {device} has hardware for bf16"
    else:
        why = f"as {device} {'of another rank ' if runtime.bf16_in_hardware else ''}has no hardware for bf16"
    return [f"in {runtime.precision}, {why} (optim.precision)"]


def taken_over(report: StartReport, saved: str) -> list[str]:
    """Return lines that say which classes a network starts with the scores of, and which anew."""
    lines = []
    for task, names in report.classes.items():
        new = ", ".join(report.new_classes[task])
        lines.append(f"{task}: scores of {len(names)} classes from {saved}" + (f"; anew: {new}" if new else ""))
    return lines


def rate_in_words(optim: OptimSection, pixels: float) -> str:
    """Return what the rate, and what is added to the loss, come to for the summed and for the mean loss.

    Args:
        optim: The section.
        pixels: Pixels of a step whose loss is taken.

    >>> heavy = OptimSection(optimiser="sgd", rate=1e-10, momentum=0.99, loss="sum", weight_decay=5e-4)
    >>> rate_in_words(heavy, 180_000.0)
    'rate 1e-10 (weight_decay 0.0005) on the summed loss, as 1.8e-05 (weight_decay 2.8e-09) on the mean over about \
180,000 pixels a step; with momentum 0.99, 0.0018'
    """
    sgd, summed = optim.optimiser == "sgd", optim.loss == "sum"
    factor = pixels if summed else 1 / pixels
    # AdamW decays weights beside the gradient, whose size is nothing to it.
    beside = {"weight_decay": optim.weight_decay if sgd else 0.0, "jaccard": optim.jaccard}
    effective = optim.rate * (pixels if summed else 1) / (1 - optim.momentum)

    def at(by: float) -> str:
        terms = ", ".join(f"{name} {value / by:.2g}" for name, value in beside.items() if value)
        return f"{optim.rate * by if sgd else optim.rate:.2g}" + (f" ({terms})" if terms else "")

    here, there = ("summed", "mean") if summed else ("mean", "sum")
    return (
        f"rate {at(1.0)} on the {here} loss, as {at(factor)} on the {there} over about {pixels:,.0f} pixels a step"
        + (f"; with momentum {optim.momentum:g}, {effective:.2g}" if sgd else " (AdamW: the same rate for both)")
    )


def describe_data(source: DataSource, class_weights: Mapping[str, Tensor], balance: float) -> list[str]:
    """Return what is worth knowing of the data: images in both splits, classes never seen, what a pixel counts.

    Args:
        source: The data set.
        class_weights: What a pixel of each class counts in the loss, by task.
        balance: The setting they come from.
    """
    lines = trained_and_scored(source)
    for task, part in source.tasks.items():
        names = part.labels.names
        lines += never_seen(part.class_pixels("train"), names)
        lines += balance_in_words(class_weights[task].tolist(), names, balance)
    return lines


def nothing_to_score(matrix: Int64[Tensor, "k k"]) -> list[str]:
    """Return a warning where a confusion matrix [truth, prediction] of the validation split is empty."""
    if matrix.any():
        return []
    return ["warning: no pixel of the val split is labelled, so nothing is scored: the last weights will be the best"]


def never_seen(pixels: Int64[Tensor, "k"], names: Sequence[str]) -> list[str]:
    """Return a warning for classes without a single training pixel."""
    absent = [name for name, count in zip(names, pixels.tolist(), strict=True) if count == 0]
    if not absent:
        return []
    return [
        f"warning: no training mask holds {', '.join(absent)}: it cannot be learned; fullconv check says where it is"
    ]


def trained_and_scored(source: DataSource) -> list[str]:
    """Return a warning where images of the validation split are trained on as well."""
    val = source.splits.get("val", ())
    trained = {record.image for record in source.splits["train"]}
    both = sorted({record.stem for record in val if record.image in trained})
    if not both:
        return []
    return [
        f"warning: {len(both)} of the {len(val)} val images are trained on, too, such as {both[0]}: they score too "
        f"high; take them off one of the lists"
    ]


def balance_in_words(weights: Sequence[float], names: Sequence[str], balance: float) -> list[str]:
    """Return what a pixel of the classes counts that count least and most.

    >>> balance_in_words([0.8, 1.0, 2.5], ["sky", "road", "pole"], 0.2)
    ['a pixel counts from 0.8 (sky) to 2.5 (pole): rare classes more (optim.balance=0.2)']
    """
    if not balance:
        return []
    least, most = (choose(range(len(weights)), key=weights.__getitem__) for choose in (min, max))
    ends = [f"{weights[place]:.2g} ({names[place]})" for place in (least, most)]
    return [f"a pixel counts from {ends[0]} to {ends[1]}: rare classes more (optim.balance={balance:g})"]


def one_class_only(records: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Return a warning where the last few evaluations found the same class everywhere."""
    predicted = [record["predicted"] for record in records if "predicted" in record][-PATIENCE:]
    if len(predicted) < PATIENCE or any(classes != predicted[0] or len(classes) != 1 for classes in predicted):
        return []
    return [
        f"warning: every pixel was predicted as {names[predicted[0][0]]} in the last {PATIENCE} evaluations: "
        f"try optim.balance=0.5, a lower optim.rate, or look at the masks with fullconv check"
    ]


def say(*lines: str, quiet: bool) -> None:
    """Print lines where there is no bar, on the standard error stream of the first rank."""
    console = _console(quiet)
    for line in lines:
        console.print(plain(line), markup=False)


def _console(quiet: bool) -> Console:
    # By itself, rich writes elsewhere in a notebook, and draws a bar in any file where FORCE_COLOR is set.
    try:
        terminal = None if sys.stderr.isatty() else False  # Of a terminal, rich knows more.
    except (AttributeError, ValueError):  # It is none, closed, or a stream of somebody's own.
        terminal = False
    silent, stream = quiet or not is_first(), sys.stderr and cast(IO[str], _Lines(sys.stderr))
    return Console(
        file=stream,
        stderr=True,
        quiet=silent,
        highlight=False,
        soft_wrap=True,
        force_terminal=terminal,
        force_jupyter=False,
    )


class _Lines:
    """A stream that a run goes on without where it cannot be written, its terminal closed or its disk full."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class TrainingProgress:
    """Reports steps, epochs and scores, on the standard error stream of the first rank.

    Args:
        state: The run, as it begins or goes on.
        quiet: Say nothing.
    """

    def __init__(self, state: TrainState, *, quiet: bool = False) -> None:
        self._console = _console(quiet)
        self._state, self._before = state, state.step
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._images, self._busy, self._memory = 0, 0.0, 0
        self._start = self._spoke = self._last = time.monotonic()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar while the block runs."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        # On a narrow terminal it is the bar that gives way.
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
        )
        with Progress(*columns, console=self._console) as self._bar:
            self._task = self._bar.add_task("training", total=self._state.steps, completed=self._before)
            yield
        self._bar = None

    def step(self, images: int, memory: int) -> None:
        """Report a training step that was just taken.

        Args:
            images: How many it took.
            memory: Bytes in use at most so far.
        """
        state, now = self._state, time.monotonic()
        self._busy += now - self._last
        self._last = now
        self._images += images
        self._memory = memory
        line = f"loss {state.losses[-1]:.3f}{_score(state)}{self._pace()}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=state.step, description=f"epoch {state.epoch}  {line}")
        elif now - self._spoke > SILENCE:
            self.say(f"step {state.step}/{state.steps}  {line}  ({now - self._start:.0f} s{self._left()})")

    def epoch(self, record: dict[str, Any], last: int) -> None:
        """Report an epoch that has ended.

        Args:
            record: Its line of the log.
            last: Number of the last epoch.
        """
        line = f"epoch {record['epoch']}/{last}  loss {record['loss']:.3f}"
        if "mean_iu" in record:
            line += f"  val: mean IU {record['mean_iu']:.3f}  pixel accuracy {record['pixel_accuracy']:.3f}"
        line += f"{self._pace()}  ({record['seconds']:.0f} s{self._left()})"
        self.say(line, *record.get("warnings", ()))

    def _pace(self) -> str:
        if not self._images:  # Nothing was left of the epoch but to score it.
            return ""
        return f"  {self._images / max(self._busy, 1e-6):.1f} images/s  {self._memory / 2**30:.1f} GiB"

    def _left(self) -> str:
        taken, ahead = self._state.step - self._before, self._state.steps - self._state.step
        if not taken or not ahead:
            return ""
        return f", about {time_in_words((time.monotonic() - self._start) / taken * ahead)} left"

    def say(self, *lines: str) -> None:
        """Print lines; the time since the last step does not count as a step's."""
        for line in lines:
            self._console.print(plain(line), markup=False)
        self._spoke = self._last = time.monotonic()


def time_in_words(seconds: float) -> str:
    """Return a time as a person says it.

    >>> [time_in_words(seconds) for seconds in (42.4, 150.0, 5400.0, 9000.0)]
    ['42 s', '2 min', '90 min', '2.5 h']
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _score(state: TrainState) -> str:
    scored = [record["mean_iu"] for record in state.records if "mean_iu" in record]
    return f"  mean IU {scored[-1]:.3f}" if scored else ""
