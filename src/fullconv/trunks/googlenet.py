"""GoogLeNet from torchvision (batch normalisation, final classifier only): conv1, conv3, inception3b, 4e, 5b."""

from collections import OrderedDict

from torch import nn

from .base import NORMALISATIONS, Padding, Trunk, chained
from .context import Context, without_fc
from .vgg import classifier_of
from .weights import DOWNLOAD, Weights


def build(name: str, padding: Padding, in_channels: int, weights: Weights, context: Context, dropout: float) -> Trunk:
    """Return a GoogLeNet trunk without its final average pooling and its auxiliary classifiers.

    Source: Long, Shelhamer & Darrell 2015, section 4.1.
    """
    options = {} if weights == DOWNLOAD else {"init_weights": True, "aux_logits": False}
    classifier = classifier_of(name, weights, **options)
    stem_to_5b = OrderedDict(
        (child, layer)
        for child, layer in classifier.named_children()
        if child not in ("aux1", "aux2", "avgpool", "dropout", "fc")
    )
    order = list(stem_to_5b)
    ends = ("conv1", "conv3", "inception3b", "inception4e", "inception5b")
    # torchvision ported its weights from TensorFlow.
    normalisation = NORMALISATIONS["half" if weights is not None else "imagenet"]
    return chained(
        nn.Sequential(stem_to_5b),
        {order.index(end): end for end in ends},
        without_fc(context, name, 1024, dropout),
        padding=padding,
        in_channels=in_channels,
        normalisation=normalisation,
    )
