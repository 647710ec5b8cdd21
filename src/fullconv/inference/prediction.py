"""What a network says about one image: labels, confidence, and pictures of them."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from ..data.labels import VOID_COLOUR, LabelSet
from ..files.atomic import write_atomically


@dataclass(frozen=True, eq=False)
class Prediction:
    """A class for every pixel of an image.

    Attributes:
        labels: Class ids, of the image's own height and width.
        confidence: Softmax probability of that class, 0–1.
        label_set: Names and colours of the classes.
        image: The image as a person sees it: red, green, blue, upright.
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
        save_image(self.label_image(), path)

    def label_image(self) -> Image.Image:
        """Return the labels as a palette image whose pixel values are class ids; 16-bit grey for more than 256."""
        if self.label_set.num_classes > 256:
            return Image.fromarray(self.labels.astype(np.uint16))
        image = Image.fromarray(self.labels.astype(np.uint8))
        image.putpalette(self.label_set.png_palette())
        return image

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the classes' colours laid over the image; ``opacity`` 0 shows the image, 1 the colours."""
        mixed = (1 - opacity) * self.image + opacity * colours(self.labels, self.label_set)
        return Image.fromarray(mixed.round().astype(np.uint8))


def colours(labels: Integer[np.ndarray, "h w"], label_set: LabelSet) -> UInt8[np.ndarray, "h w 3"]:
    """Return every pixel in its class's colour; what is no class (void) in light yellow, as in PASCAL VOC."""
    table = np.array([*label_set.palette, VOID_COLOUR], np.uint8)
    return table[np.minimum(labels.astype(np.int64), label_set.num_classes)]


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write a PNG whole or not at all.

    Raises:
        UsageError: The file cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomically(Path(path), lambda partial: partial.write_bytes(buffer.getvalue()))
