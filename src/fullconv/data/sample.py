"""One image with its target, and a batch of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ..errors import DataError

FILL = (124.0, 116.0, 104.0)
"""Red, green, blue of pixels outside the image: ImageNet's mean, which a network normalises to about zero."""


def filling(channels: int, fill: tuple[float, ...] = FILL) -> Float[Tensor, "c 1 1"]:
    """Return the channels of a pixel outside the image: ``fill``, and 0 (no data) in any further channel.

    >>> filling(4).flatten().tolist()
    [124.0, 116.0, 104.0, 0.0]
    """
    return torch.tensor((fill + (0,) * channels)[:channels], dtype=torch.float32).view(-1, 1, 1)


def place(canvas: Tensor, picture: Tensor, fill: Tensor | int) -> None:
    """Write a picture into the top left of a canvas, both …×height×width, and ``fill`` everywhere else."""
    h, w = picture.shape[-2:]
    canvas[..., :h, :w] = picture
    canvas[..., :h, w:] = fill
    canvas[..., h:, :] = fill


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and its target.

    Attributes:
        stem: File name without folder and extension.
        image: Red, green, blue in 8 bits, or any channels as floats; 0–255.
        target: Class ids, or ``ignore_index``.
        ignore_index: Id of the target pixels that neither train nor count.
        further: The targets of further tasks, by task.
    """

    stem: str
    image: UInt8[Tensor, "c h w"] | Float[Tensor, "c h w"]
    target: Int64[Tensor, "h w"]
    ignore_index: int = 255
    further: Mapping[str, Int64[Tensor, "h w"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one size, ready for a network.

    Attributes:
        images: Red, green, blue, or any channels, 0.0–255.0 (the network normalises).
        targets: Class ids, or the label set's ``ignore_index``.
        stems: One per image.
        ignore_index: Id of the target pixels that neither train nor count.
        further: The targets of further tasks, by task.
    """

    images: Float[Tensor, "n c h w"]
    targets: Int64[Tensor, "n h w"]
    stems: tuple[str, ...]
    ignore_index: int = 255
    further: Mapping[str, Int64[Tensor, "n h w"]] = field(default_factory=dict)

    def of_task(self, task: str) -> Int64[Tensor, "n h w"]:
        """Return the targets of a task: of a further one, else of the data set's own."""
        return self.further.get(task, self.targets)

    def split(self, parts: int) -> list["Batch"]:
        """Return it in at most so many parts of about equal size; none is empty."""
        size = math.ceil(len(self.stems) / parts)
        return [
            Batch(
                self.images[part],
                self.targets[part],
                self.stems[part],
                self.ignore_index,
                {task: targets[part] for task, targets in self.further.items()},
            )
            for part in (slice(at, at + size) for at in range(0, len(self.stems), size))
        ]


def collate(samples: Sequence[Sample], ignore_index: int, fill: tuple[float, ...] = FILL) -> Batch:
    """Stack samples; smaller ones are padded at the bottom and right up to the largest height and width.

    Args:
        samples: One or more.
        ignore_index: Target of padded pixels.
        fill: The channels (0–255) of padded pixels; further ones are 0.

    Raises:
        DataError: Images have different numbers of channels.
    """
    channels = samples[0].image.shape[0]
    for sample in samples:
        if sample.image.shape[0] != channels:
            raise DataError(
                f"image {sample.stem} has {sample.image.shape[0]} channels, {samples[0].stem} {channels}; "
                f"say which bands to use: bands: [1, 2, 3] in a dataset.yaml"
            )
    height = max(sample.image.shape[1] for sample in samples)
    width = max(sample.image.shape[2] for sample in samples)
    images = torch.empty(len(samples), channels, height, width)
    for image, sample in zip(images, samples, strict=True):
        place(image, sample.image, filling(channels, fill))

    def together(targets: Sequence[Tensor]) -> Int64[Tensor, "n h w"]:
        canvas = torch.empty(len(samples), height, width, dtype=torch.long)
        for part, target in zip(canvas, targets, strict=True):
            place(part, target, ignore_index)
        return canvas

    return Batch(
        images,
        together([sample.target for sample in samples]),
        tuple(sample.stem for sample in samples),
        ignore_index,
        {task: together([sample.further[task] for sample in samples]) for task in samples[0].further},
    )
