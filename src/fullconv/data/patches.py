"""Windows of images that are too large to be read whole, or whose rare classes a plain crop seldom meets."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UsageError
from ..files.arrays import Window
from .sample import Sample
from .sampling import evenly, seeded
from .source import DataSource, Record
from .transforms import TrainingTransform

PatchChoice = Literal["uniform", "class", "foreground"]
"""Where patches lie: anywhere; on a pixel of a class, all classes alike; half of them on one that is not background."""

PLACES = 64
"""Pixels of a class that are remembered of each image, spread evenly over its rows."""


class Patches(Dataset[Sample]):
    """Windows drawn anew for every (index, seed) of an :class:`~fullconv.data.EpochSampler`; only they are read.

    Every image gets as many indices as crops would tile it. With ``class`` and ``foreground`` all masks are read once
    at the start, to know where the classes are.

    Args:
        source: The data set.
        records: Its samples to draw from.
        transform: Says the crop, and the scales whose inverse the window's size follows.
        choice: Where the windows lie.
        enlarged: How many times as large the network sees the images: so many times as large they are tiled.

    Raises:
        UsageError: ``transform`` has no crop.
        DataError: A file cannot be read.
    """

    def __init__(
        self,
        source: DataSource,
        records: Sequence[Record],
        transform: TrainingTransform,
        choice: PatchChoice = "uniform",
        enlarged: float = 1.0,
    ) -> None:
        if transform.crop is None:
            raise UsageError("patches need a size: set crop to the height and width of a patch")
        self.source = source
        self.records = records
        self.transform = transform
        self.choice = choice
        self.crop = transform.crop
        self.sizes = [source.image_size(record) for record in records]
        self._owner = [
            number
            for number, (height, width) in enumerate(self.sizes)
            for _ in range(math.ceil(enlarged * height / self.crop[0]) * math.ceil(enlarged * width / self.crop[1]))
        ]
        self._places = _places(source, records) if choice != "uniform" else {}
        self._background = _background(source) if choice == "foreground" else None

    def __len__(self) -> int:
        return len(self._owner)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, draw_seed = key
        with seeded(draw_seed):
            scale = self.transform.draw_scale()
            number, centre = self._choose(index)
            sample = self.source.read_sample(self.records[number], self._window(number, centre, scale))
            return replace(self.transform, scale=(scale, scale))(sample)

    def _choose(self, index: int) -> tuple[int, tuple[int, int] | None]:
        """Return the number of an image, and a pixel that the window must hold."""
        classes = [class_id for class_id in self._places if class_id != self._background]
        if not classes or (self.choice == "foreground" and _below(2)):
            return self._owner[index], None
        by_image = self._places[classes[_below(len(classes))]]
        image = list(by_image)[_below(len(by_image))]
        row, column = by_image[image][_below(len(by_image[image]))].tolist()
        return image, (row, column)

    def _window(self, number: int, centre: tuple[int, int] | None, scale: float) -> Window:
        spans = []
        for axis, side in enumerate(self.sizes[number]):
            length = min(side, max(1, round(self.crop[axis] / scale)))
            low, high = 0, side - length
            if centre is not None:
                low, high = max(low, centre[axis] - length + 1), min(high, centre[axis])
            spans.append((low + _below(high - low + 1), length))
        (top, height), (left, width) = spans
        return Window(top, left, height, width)


def _places(source: DataSource, records: Sequence[Record]) -> dict[int, dict[int, Int64[np.ndarray, "p 2"]]]:
    """Return class → image's number → some of the class's pixels (row, column)."""
    found: dict[int, dict[int, Int64[np.ndarray, "p 2"]]] = {}
    for number, record in enumerate(records):
        parts: dict[int, list[Tensor]] = {}
        for top, target in source.target_strips(record):
            for class_id in torch.bincount(target[target < source.labels.num_classes]).nonzero().flatten().tolist():
                pixels = (target == class_id).nonzero()
                kept = pixels[evenly(len(pixels), PLACES)]
                parts.setdefault(class_id, []).append(kept + torch.tensor([top, 0]))
        for class_id, strips in parts.items():
            pixels = torch.cat(strips)
            # Tensors would each take a file where they go to a process that reads images.
            found.setdefault(class_id, {})[number] = pixels[evenly(len(pixels), PLACES)].numpy()
    return dict(sorted(found.items()))


def _background(source: DataSource) -> int:
    """Return the class that is no object: the one called so, else the one with the most training pixels."""
    names = [name.lower() for name in source.labels.names]
    return names.index("background") if "background" in names else int(source.class_pixels("train").argmax())


def _below(bound: int) -> int:
    return int(torch.randint(bound, ()))
