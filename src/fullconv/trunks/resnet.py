"""ResNet-18 … 152 from torchvision: conv1, layer1 … layer4."""

from torch import nn

from .base import Padding, Trunk, chained
from .context import Context, without_fc
from .vgg import classifier_of
from .weights import Weights


def build(name: str, padding: Padding, in_channels: int, weights: Weights, context: Context, dropout: float) -> Trunk:
    """Return a ResNet trunk; its windows are centred by nature, so that ``"same"`` changes nothing."""
    classifier = classifier_of(name, weights)
    stem = [classifier.conv1, classifier.bn1, classifier.relu, classifier.maxpool]
    layers = nn.Sequential(*stem, classifier.layer1, classifier.layer2, classifier.layer3, classifier.layer4)
    ends = {2: "conv1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
    head = without_fc(context, name, classifier.fc.in_features, dropout)
    return chained(layers, ends, head, padding=padding, in_channels=in_channels)
