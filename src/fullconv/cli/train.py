"""``fullconv train``: a data set in, a run folder out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .options import OptionalDataPath


def train(
    data: OptionalDataPath = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Folder to create for the run.")] = None,
    recipe: Annotated[
        str,
        typer.Option(help="modern, paper-heavy, paper-accumulate, at-once, staged, demo; or a .yaml file of your own."),
    ] = "modern",
    trunk: Annotated[
        str | None, typer.Option(help="Trunk, such as vgg16 or timm:NAME; by default the recipe's, in modern resnet18.")
    ] = None,
    trunk_weights: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Trunk weights: a .safetensors or .pth file, or 'imagenet' (downloads); without, it starts at random.",
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images, such as 12 or 0.5.")] = None,
    time: Annotated[
        str | None, typer.Option(metavar="60m", help="As many epochs as fit into this time: 90s, 60m or 2h.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and augmentation.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any setting of a recipe (docs/training.md lists them); may be repeated."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a run that was stopped; needs nothing else, not even DATA."),
    ] = None,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Do not train: try rates, draw the losses in --out, suggest one.")
    ] = False,
) -> None:
    """Train a network on a data set."""
    from ..training import find_rate
    from ..training import train as run
    from ..training.config import parse_settings
    from ..training.range_test import RANGE_TEST
    from ..training.runtime import is_first

    changes = parse_settings(settings or [])
    named: dict[str, Any] = {"trunk": trunk, "trunk_weights": trunk_weights, "epochs": epochs, "seed": seed}
    named["minutes"] = None if time is None else _minutes(time)
    if find_lr:
        if data is None or out is None or resume is not None:
            raise UsageError("--find-lr needs DATA and --out FOLDER, and no --resume")
        found = find_rate(data, out, recipe=recipe, settings=changes, **named)
        if is_first():
            print(f"suggested: --set optim.rate={found.suggestion:g}; the picture: {out / f'{RANGE_TEST}.png'}")
        return
    result = run(data, out, recipe=recipe, settings=changes, resume=resume, **named)
    if not is_first():
        return
    score = f"val mean IU {result.scores.mean_iu:.4f}; " if result.scores else ""
    print(f"{score}{round(result.epochs, 2):g} epochs in {result.seconds:.0f} s; model in {result.run / 'best'}")


def _minutes(time: str) -> float:
    units = {"s": 1 / 60, "m": 1.0, "h": 60.0}
    number, unit = time[:-1], time[-1:]
    if unit not in units or not number.replace(".", "", 1).isdecimal() or not float(number):
        raise UsageError(f"--time {time}: write a number and a unit, such as 90s, 60m or 2h")
    return float(number) * units[unit]
