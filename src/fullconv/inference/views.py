"""Views of one image: scaled and mirrored, predicted each, and averaged."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class Views:
    """What is predicted and averaged for one image: a view for each scale, and with ``mirror`` for its mirror image.

    A view costs scale² times the plain prediction; a mirrored one the same again.

    Args:
        scales: Factors for height and width, on top of the network's own ``input_scale``.
        mirror: Also predict every scaled image flipped left to right.

    Raises:
        UsageError: There is no scale, or one is not positive.
    """

    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise UsageError(f"scales {self.scales}: give one or more positive factors, such as 0.75,1,1.25")

    def scores(
        self, logits: Callable[[Tensor, float], Tensor], image: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n k h w"]:
        """Return the logits of the plain image where that is the only view, else the log of the mean probability.

        Args:
            logits: Gives an image's logits, seen at a scale, at the size of the image.
            image: What to view.
        """
        if self == Views():
            return logits(image, 1.0)
        return (reduce(torch.add, self._probabilities(logits, image)) / (len(self.scales) * (1 + self.mirror))).log()

    def _probabilities(self, logits: Callable[[Tensor, float], Tensor], image: Tensor) -> Iterator[Tensor]:
        for scale in self.scales:
            yield logits(image, scale).softmax(1)
            if self.mirror:
                yield logits(image.flip(-1), scale).flip(-1).softmax(1)
