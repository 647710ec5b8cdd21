"""AlexNet from torchvision: conv1, pool1, pool2, pool5, fc7."""

from .base import Padding, Trunk, chained
from .context import Context, fully_connected, without_fc
from .vgg import classifier_of
from .weights import Weights


def build(name: str, padding: Padding, in_channels: int, weights: Weights, context: Context, dropout: float) -> Trunk:
    """Return an AlexNet trunk: torchvision's single-tower form, with the geometry of the paper's.

    Source: Long, Shelhamer & Darrell 2015, section 4.1.
    """
    classifier = classifier_of(name, weights, whole=context in (None, "fc"))
    ends = {1: "conv1", 2: "pool1", 5: "pool2", 12: "pool5"}
    head = (
        fully_connected(classifier.classifier, 256, 6, padding, dropout)
        if context in (None, "fc")
        else without_fc(context, name, 256, dropout)
    )
    return chained(classifier.features, ends, head, padding=padding, in_channels=in_channels)
