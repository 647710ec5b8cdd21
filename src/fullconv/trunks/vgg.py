"""VGG11–19, with and without batch normalisation, from torchvision: pool1 … pool5, fc7."""

import warnings
from typing import Any

import torchvision
from torch import nn

from .base import Padding, Trunk, chained
from .context import Context, fully_connected, without_fc
from .weights import DOWNLOAD, Weights, load_weights


def build(name: str, padding: Padding, in_channels: int, weights: Weights, context: Context, dropout: float) -> Trunk:
    """Return a VGG trunk; its taps are the five poolings and fc7 (or the context that replaces it).

    Source: Long, Shelhamer & Darrell 2015, section 4.1.
    """
    classifier = classifier_of(name, weights, whole=context in (None, "fc"))
    pools = [index for index, layer in enumerate(classifier.features) if isinstance(layer, nn.MaxPool2d)]
    ends = {index: f"pool{number}" for number, index in enumerate(pools, 1)}
    head = (
        fully_connected(classifier.classifier, 512, 7, padding, dropout)
        if context in (None, "fc")
        else without_fc(context, name, 512, dropout)
    )
    return chained(classifier.features, ends, head, padding=padding, in_channels=in_channels)


def classifier_of(name: str, weights: Weights, *, whole: bool = False, **options: Any) -> Any:
    """Return torchvision's classifier ``name`` with fresh, downloaded (``"imagenet"``) or given weights.

    A warning says where fc6 and fc7 are needed (``whole``) and the file holds none.

    Raises:
        ModelError: The weight file cannot be used.
    """
    download = "IMAGENET1K_V1" if weights == DOWNLOAD else None
    classifier = torchvision.models.get_model(name, weights=download, **options)
    if weights is not None and weights != DOWNLOAD:
        report = load_weights(classifier, weights)
        fc6 = next(name for name, weight in classifier.named_parameters() if weight.ndim == 2)
        if whole and fc6 in (*report.left_new, *(name for name, *_ in report.mismatched)):
            warnings.warn(f"{weights}: holds no fc6 and fc7, which start from random weights", stacklevel=2)
    return classifier
