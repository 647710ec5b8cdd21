"""Where the features of any convolutional module sit, and what they see, without running a single multiplication."""

import torchvision

import fullconv


def main() -> None:
    """Print every stage of ResNet-50, and what has no place in the image any more."""
    geometry = fullconv.geometry_of(torchvision.models.resnet50())
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        feature = geometry[name]
        print(f"{name}: stride {feature.stride}, offset {feature.offset}, receptive field {feature.receptive_field}")
    for name, reason in geometry.unknown.items():
        print(f"{name}: {reason}")


if __name__ == "__main__":
    main()
