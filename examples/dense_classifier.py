"""Turn an image classifier into a dense one: a map of answers for a larger image, in one forward pass."""

import torch
import torchvision

import fullconv


def main() -> None:
    """Compare the dense form with the classifier at its native size, then show the map's size on a larger image."""
    classifier = torchvision.models.alexnet().eval()
    dense = fullconv.convolutionize(classifier, (224, 224))
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        difference = (dense(image)[..., 0, 0] - classifier(image)).abs().max()
        print(f"difference at 224×224: {difference:.1e}")
        print(f"a 384×512 image gives a map of {tuple(dense(torch.rand(1, 3, 384, 512)).shape[-2:])} answers")


if __name__ == "__main__":
    main()
