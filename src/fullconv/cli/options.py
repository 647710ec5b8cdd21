"""Arguments that several commands share, and how results are printed."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import plain

if TYPE_CHECKING:
    from ..inference import Views
    from ..metrics import Scores

_DATA = typer.Argument(metavar="DATA", help="A data set folder (images/ + masks/) or a dataset.yaml.")
DataPath = Annotated[Path, _DATA]
OptionalDataPath = Annotated[Path | None, _DATA]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, or a run folder (its best model).")]
Task = Annotated[str | None, typer.Option(help="Which task of a model of several; by default its first.")]
Scales = Annotated[
    str, typer.Option(metavar="F,F,…", help="Predict the image at these scales (at most 8), and average.")
]
Mirror = Annotated[bool, typer.Option("--mirror", help="Also predict its mirror image, and average.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def views(scales: str, mirror: bool) -> "Views":
    """Return what ``--scales`` and ``--mirror`` ask for."""
    from ..errors import UsageError
    from ..inference import Views

    try:
        factors = tuple(float(scale) for scale in scales.split(","))
    except ValueError as error:
        raise UsageError(f"--scales {scales}: give numbers and commas, such as --scales 0.75,1,1.25") from error
    return Views(factors, mirror)


@contextmanager
def progress_bar(title: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Give what is to be called with (done, total), and show that on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object to standard output."""
    print(json.dumps(record, indent=2))


def print_scores(scores: "Scores") -> None:
    """Print the four metrics and a table of classes."""
    from rich.console import Console
    from rich.table import Table

    from ..metrics import METRICS

    console = Console(highlight=False, markup=False, emoji=False)
    table = Table("class", "IU", "accuracy", "pixels", box=None, pad_edge=False)
    for row in scores.per_class:
        table.add_row(plain(row["name"]), _percent(row["iu"]), _percent(row["accuracy"]), f"{row['pixels']:,}")
    console.print(table)
    console.print()
    for key in METRICS:
        console.print(f"{key.replace('_', ' '):22} {scores[key]:.4f}")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
