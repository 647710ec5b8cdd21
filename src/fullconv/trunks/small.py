"""A small trunk of our own, for which there are no ImageNet weights: demos, tests, tiny devices, first experiments."""

from torch import nn

from ..errors import UsageError
from .base import Padding, Trunk, chained
from .context import Context, without_fc
from .weights import DOWNLOAD, Weights, load_weights

WIDTHS = (24, 32, 64, 96, 128)


def build(name: str, padding: Padding, in_channels: int, weights: Weights, context: Context, dropout: float) -> Trunk:
    """Return five stages of two 3×3 convolutions with batch normalisation, each of which halves the resolution.

    Raises:
        UsageError: Weights were to be downloaded: there are none.
    """
    if weights == DOWNLOAD:
        raise UsageError(f"there are no ImageNet weights for trunk {name!r}: train it from scratch, or choose another")
    stages = [
        nn.Sequential(*_unit(before, width, 2), *_unit(width, width, 1))
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False)
    ]
    layers = nn.Sequential(*stages)
    if weights is not None:
        load_weights(layers, weights)
    ends = {index: f"stage{index + 1}" for index in range(len(stages))}
    head = without_fc(context, name, WIDTHS[-1], dropout)
    return chained(layers, ends, head, padding=padding, in_channels=in_channels)


def _unit(before: int, width: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
