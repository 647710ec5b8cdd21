"""AlexNet from torchvision: conv1, pool1, pool2, pool5, fc7."""

from torch import nn

from ..nn.convert import widen_first_conv
from .base import Normalisation, Padding, Trunk, cut, margin_for, repad
from .context import Context, fully_connected, without_fc
from .vgg import classifier_of
from .weights import Weights


def build(name: str, padding: Padding, in_channels: int, weights: Weights, context: Context, dropout: float) -> Trunk:
    """Return an AlexNet trunk: torchvision's single-tower form, with the geometry of the paper's.

    Source: Long, Shelhamer & Darrell 2015, section 4.1.
    """
    classifier = classifier_of(name, weights, whole=context in (None, "fc"))
    features: nn.Sequential = widen_first_conv(classifier.features, in_channels)
    margin = margin_for(features, padding)
    repad(features, padding)
    body = cut(features, {1: "conv1", 2: "pool1", 5: "pool2", 12: "pool5"})
    head = (
        fully_connected(classifier.classifier, 256, 6, padding, dropout)
        if context in (None, "fc")
        else without_fc(context, name, 256, dropout)
    )
    return Trunk(body, head, normalisation=Normalisation().for_channels(in_channels), margin=margin)
