"""``fullconv inspect``: where a trunk's taps sit, what they see, and the crops that follow."""

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json, print_json

if TYPE_CHECKING:
    from ..models import FCN


def inspect(
    trunk: Annotated[str, typer.Argument(metavar="TRUNK", help="Trunk, such as vgg16, resnet18 or timm:NAME.")],
    finest_stride: Annotated[int, typer.Option(help="Finest tap that is scored: 32, 16, 8 or 4.")] = 8,
    padding: Annotated[str, typer.Option(help="paper (100 pixels and crops) or same.")] = "paper",
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 21,
    as_json: Json = False,
) -> None:
    """Show the geometry of an FCN: stride, receptive field and offset of every tap, crops, parameters."""
    import torch

    from ..models import fcn

    with torch.device("meta"):
        model = fcn(trunk, classes, finest_stride=finest_stride, padding=padding)
    record = geometry_record(model, trunk, padding)
    if as_json:
        print_json(record)
    else:
        _print_table(record)


def geometry_record(model: "FCN", trunk: str, padding: str) -> dict[str, Any]:
    """Return a network's geometry as plain values; sizes and offsets in input pixels."""
    head: Any = next(iter(model.heads.values()))
    return {
        "trunk": trunk,
        "padding": padding,
        "taps": [
            {
                "name": tap.name,
                "channels": tap.channels,
                "stride": _number(tap.y.stride),
                "receptive_field": _number(tap.y.receptive_field),
                "offset": _number(tap.y.offset),
            }
            for tap in model.trunk.taps.values()
        ],
        "crops": head.ladder.crops,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _number(value: Fraction | None) -> int | float | None:
    if value is None:
        return None
    return int(value) if value.denominator == 1 else float(value)


def _print_table(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("tap", "channels", "stride", "receptive field", "offset", box=None, pad_edge=False)
    for tap in record["taps"]:
        field = "whole image" if tap["receptive_field"] is None else str(tap["receptive_field"])
        table.add_row(tap["name"], str(tap["channels"]), str(tap["stride"]), field, str(tap["offset"]))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\ncrops {', '.join(map(str, record['crops']))}   parameters {record['parameters']:,}")
