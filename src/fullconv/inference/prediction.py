"""What a network says about one image: labels, confidence, and pictures of them."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from ..data.labels import LabelSet
from ..files.atomic import write_atomically


@dataclass(frozen=True)
class Prediction:
    """A class for every pixel of an image.

    Attributes:
        labels: Class ids, of the image's own height and width.
        confidence: Softmax probability of that class, 0–1.
        label_set: Names and colours of the classes.
        image: The image as the network saw it: RGB, upright.
    """

    labels: Integer[np.ndarray, "h w"]
    confidence: Float[np.ndarray, "h w"]
    label_set: LabelSet
    image: UInt8[np.ndarray, "h w 3"]

    def save(self, path: str | Path) -> None:
        """Write the labels as a PNG whose pixel values are class ids, shown in the classes' colours.

        Up to 256 classes as an 8-bit palette PNG; more as 16-bit grey.

        Raises:
            UsageError: The file cannot be written.
        """
        save_image(self.label_image(), path, "PNG")

    def label_image(self) -> Image.Image:
        """Return the labels as an image whose pixel values are class ids."""
        return index_image(self.labels, self.label_set)

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the classes' colours laid over the image; ``opacity`` 0 shows the image, 1 the colours."""
        return overlay(self.image, self.labels, self.label_set, opacity)


def index_image(labels: Integer[np.ndarray, "h w"], label_set: LabelSet) -> Image.Image:
    """Return class ids as a palette image; 16-bit grey for more classes than a palette holds."""
    if label_set.num_classes > 256:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(label_set.png_palette())
    return image


def colours(labels: Integer[np.ndarray, "h w"], label_set: LabelSet) -> UInt8[np.ndarray, "h w 3"]:
    """Return every pixel in its class's colour; what is no class (void) in light yellow, as in PASCAL VOC."""
    table = np.array([*label_set.palette, (224, 224, 192)], np.uint8)
    return table[np.minimum(labels.astype(np.int64), label_set.num_classes)]


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    labels: Integer[np.ndarray, "h w"],
    label_set: LabelSet,
    opacity: float = 0.5,
) -> Image.Image:
    """Return the classes' colours laid over the image."""
    mixed = (1 - opacity) * image + opacity * colours(labels, label_set)
    return Image.fromarray(mixed.round().astype(np.uint8))


def save_image(image: Image.Image, path: str | Path, encoding: str) -> None:
    """Write an image file whole or not at all.

    Raises:
        UsageError: The file cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, encoding)
    write_atomically(Path(path), lambda partial: partial.write_bytes(buffer.getvalue()))
