"""``fullconv train``: a data set in, a run folder out."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DataPath


def train(
    data: DataPath,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder to create for the run.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a .yaml file.")] = "modern",
    trunk: Annotated[str | None, typer.Option(help="Trunk, such as vgg16, resnet18 or timm:NAME.")] = None,
    trunk_weights: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Trunk weights: a .safetensors or .pth file, or 'imagenet' (downloads)."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and augmentation.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting of a recipe; may be repeated."),
    ] = None,
) -> None:
    """Train a network on a data set."""
    from ..training.config import parse_settings
    from ..training.loop import train as run

    result = run(
        data,
        out,
        recipe=recipe,
        settings=parse_settings(settings or []),
        trunk=trunk,
        trunk_weights=trunk_weights,
        epochs=epochs,
        seed=seed,
    )
    score = f"val mean IU {result.scores.mean_iu:.4f}; " if result.scores else ""
    print(f"{score}{result.epochs} epochs in {result.seconds:.0f} s; model in {result.run / 'best'}")
