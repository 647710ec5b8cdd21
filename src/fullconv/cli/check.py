"""``fullconv check``: what is wrong with a data set, and what to do."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, UsageError, plain
from .options import DataPath, Json, print_json, progress_bar

if TYPE_CHECKING:
    from ..doctor import Diagnosis

_SHOWN = 5


def check(
    data: DataPath,
    format: Annotated[str | None, typer.Option(help="How DATA is laid out; by default recognised by looking.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page with pictures.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write a dataset.yaml that describes DATA.")] = None,
    as_json: Json = False,
) -> None:
    """Examine a data set: every problem with its files and remedy, and what to train with. Writes nothing to DATA.

    Exit code 3 if there are errors, which training would refuse.
    """
    from ..doctor import check as run
    from ..doctor import unusable, write_report

    if write and write.exists():
        raise UsageError(f"{write}: is there already, perhaps edited; choose another --write, or remove it first")
    try:
        with progress_bar("examining", hidden=as_json) as progress:
            diagnosis = run(data, format, progress=progress)
    except DataError as error:
        if as_json:
            print_json(unusable(data, error))
        raise
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        _print(diagnosis)
    if report:
        write_report(diagnosis, report)
    if write:
        diagnosis.source.description.write(write, diagnosis.source.root)
    for path in filter(None, (report, write)):
        if not as_json:
            print(f"written: {path}")
    if diagnosis.has_errors:
        errors = sum(problem.severity == "error" for problem in diagnosis.problems)
        print(f"fullconv: {data}: {errors} kinds of errors, training would refuse it", file=sys.stderr)
        raise typer.Exit(DataError.exit_code)


def _print(diagnosis: "Diagnosis") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    source = diagnosis.source
    splits = ", ".join(f"{split} {len(records)}" for split, records in source.splits.items())
    named = f"{source.root}: format {source.format}; {splits} images; {source.labels.num_classes} classes"
    console.print(plain(named))
    table = Table("class", "share", "weight", *map(plain, source.splits), box=None, pad_edge=False)
    for index, name in enumerate(source.labels.names):
        share, weight = diagnosis.frequencies[index], diagnosis.class_weights[index]
        counts = [f"{int(pixels[index]):,}" for pixels in diagnosis.pixels.values()]
        table.add_row(plain(name), f"{100 * share:.2f} %", f"{weight:.2f}", *counts)
    console.print(table)
    sizes = ", ".join(f"{h}×{w} ({count})" for (h, w), count in list(diagnosis.sizes.items())[:_SHOWN])
    console.print(f"sizes (height × width): {sizes}{', …' if len(diagnosis.sizes) > _SHOWN else ''}")
    console.print(f"mean {_one_decimal(diagnosis.mean)}  std {_one_decimal(diagnosis.std)} (of the channels, 0–255)")
    bounds = "  ".join(f"stride {stride}: {bound:.3f}" for stride, bound in diagnosis.upper_bound.items())
    console.print(f"best mean IU these masks allow: {bounds}")
    console.print(f"recommended finest stride: {diagnosis.recommended_stride}")
    for problem in diagnosis.problems:
        count = "1 file" if len(problem.files) == 1 else f"{len(problem.files)} files"
        console.print(f"\n{problem.severity}: {problem.kind}, {count}: {plain(problem.seen)}")
        for file in problem.files[:_SHOWN]:
            console.print(f"  {plain(file)}")
        if len(problem.files) > _SHOWN:
            console.print(f"  and {len(problem.files) - _SHOWN} more (--json lists all)")
        console.print(f"  remedy: {plain(problem.remedy)}")
    if not diagnosis.problems:
        console.print("no problems found")


def _one_decimal(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.1f}" for value in values)
