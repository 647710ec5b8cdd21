"""Image classifiers as trunks: what they are called, and how each is built."""

import difflib
from collections.abc import Callable

from ..errors import ModelError, UsageError, in_one_line
from . import alexnet, googlenet, resnet, small, timm, vgg
from .base import Normalisation, Padding, Tap, Trunk
from .context import Context
from .weights import DOWNLOAD, Weights

Build = Callable[[str, Padding, int, Weights, Context, float], Trunk]

TRUNKS: dict[str, Build] = {
    "alexnet": alexnet.build,
    "googlenet": googlenet.build,
    "resnet18": resnet.build,
    "resnet34": resnet.build,
    "resnet50": resnet.build,
    "resnet101": resnet.build,
    "resnet152": resnet.build,
    "small": small.build,
    "vgg11": vgg.build,
    "vgg11_bn": vgg.build,
    "vgg13": vgg.build,
    "vgg13_bn": vgg.build,
    "vgg16": vgg.build,
    "vgg16_bn": vgg.build,
    "vgg19": vgg.build,
    "vgg19_bn": vgg.build,
}


def trunk(
    name: str,
    *,
    padding: Padding = "same",
    in_channels: int = 3,
    weights: Weights = None,
    context: Context = None,
    dropout: float = 0.5,
) -> Trunk:
    """Return the trunk called ``name``.

    Args:
        name: A key of ``TRUNKS``, or ``timm:NAME`` for any convolutional network of timm (extra ``timm``).
        padding: ``"paper"`` (100 pixels around the image, windows unpadded above) or ``"same"``.
        in_channels: Channels of the input; the first convolution is widened or narrowed to it.
        weights: ``None`` (fresh), ``"imagenet"`` (torchvision's or timm's, downloaded), or the path of a
            ``.safetensors`` or ``.pth`` file with the classifier's own names.
        context: What sits on the coarsest feature: ``"fc"`` (fc6 and fc7, the default where there are such layers),
            ``"none"``, or the width of a light head.
        dropout: Probability with which an element of the context's features is dropped in training.

    Raises:
        UsageError: No trunk has that name, or the options do not fit it.
        ModelError: The weight file cannot be used, or the weights cannot be downloaded.
    """
    if in_channels < 1:
        raise UsageError(f"in_channels is {in_channels}: an image has at least one channel")
    if padding not in ("paper", "same"):
        raise UsageError(f'padding is {padding!r}: choose "paper" or "same"')
    if name not in TRUNKS and not name.startswith("timm:"):
        near = difflib.get_close_matches(name, TRUNKS, 1) or sorted(TRUNKS)
        raise UsageError(f"unknown trunk {name!r}; did you mean {', '.join(near)}? (timm:NAME for any of timm's)")
    build = timm.build if name.startswith("timm:") else TRUNKS[name]
    try:
        return build(name.removeprefix("timm:"), padding, in_channels, weights, context, dropout)
    except (OSError, RuntimeError) as error:
        if weights != DOWNLOAD or not (isinstance(error, OSError) or "invalid hash" in str(error)):
            raise
        raise ModelError(
            f"the weights of {name} cannot be downloaded ({in_one_line(error)}); go online, or give the path of a file"
        ) from error


__all__ = ["DOWNLOAD", "TRUNKS", "Context", "Normalisation", "Padding", "Tap", "Trunk", "Weights", "trunk"]
