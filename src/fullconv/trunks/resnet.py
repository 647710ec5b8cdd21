"""ResNet-18 … 152 from torchvision: conv1, layer1 … layer4."""

from torch import nn

from ..nn.convert import widen_first_conv
from .base import Normalisation, Padding, Trunk, cut, margin_for, repad
from .context import Context, without_fc
from .vgg import classifier_of
from .weights import Weights


def build(name: str, padding: Padding, in_channels: int, weights: Weights, context: Context, dropout: float) -> Trunk:
    """Return a ResNet trunk; its windows are centred by nature, so that ``"same"`` changes nothing."""
    classifier = classifier_of(name, weights)
    stem = [classifier.conv1, classifier.bn1, classifier.relu, classifier.maxpool]
    layers = nn.Sequential(*stem, classifier.layer1, classifier.layer2, classifier.layer3, classifier.layer4)
    layers = widen_first_conv(layers, in_channels)
    margin = margin_for(layers, padding)
    repad(layers, padding)
    body = cut(layers, {2: "conv1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"})
    channels = classifier.fc.in_features
    return Trunk(
        body,
        without_fc(context, name, channels, dropout),
        normalisation=Normalisation().for_channels(in_channels),
        margin=margin,
    )
