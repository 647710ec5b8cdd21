"""What sits on a trunk's coarsest feature: the classifier's own fc6 and fc7, or a lighter head."""

from typing import Literal

from torch import nn

from ..errors import UsageError
from ..nn.convert import linear_to_conv
from .base import Padding

Context = int | Literal["fc", "none"] | None


def fully_connected(
    classifier: nn.Sequential, channels: int, side: int, padding: Padding, dropout: float
) -> tuple[str, nn.Module]:
    """Return fc6 and fc7 as convolutions, with the classifier's weights and element-wise dropout after each.

    With ``"same"``, the input is padded so that fc6 sees as many pixels on either side (one more after an even kernel).

    Source: Long, Shelhamer & Darrell 2015, section 4.1.
    """
    fc6, fc7 = [layer for layer in classifier if isinstance(layer, nn.Linear)][:2]
    before, after = ((side - 1) // 2, side // 2) if padding == "same" else (0, 0)
    layers = [
        nn.ZeroPad2d((before, after, before, after)),
        linear_to_conv(fc6, channels, (side, side)),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        linear_to_conv(fc7, fc6.out_features, (1, 1)),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
    ]
    return "fc7", nn.Sequential(*layers)


def light(channels: int, width: int, dropout: float) -> tuple[str, nn.Module]:
    """Return a small head: 1×1 to ``width`` channels, 3×3, each with batch normalisation and ReLU, then dropout."""
    layers = [
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
    ]
    return "context", nn.Sequential(*layers)


def without_fc(context: Context, trunk: str, channels: int, dropout: float) -> tuple[str, nn.Module] | None:
    """Return the context of a trunk that has no fully connected layers to carry over.

    Raises:
        UsageError: ``context="fc"`` was asked for.
    """
    if context == "fc":
        raise UsageError(
            f'{trunk} has no fully connected layers but its last: use context="none" or a width such as 128'
        )
    return light(channels, context, dropout) if isinstance(context, int) else None
