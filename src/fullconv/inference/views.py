"""Views of one image: scaled and mirrored, predicted each, and averaged."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class Views:
    """What is predicted and averaged for one image: a view for each scale, and with ``mirror`` for its mirror image.

    A view costs scale² times the plain prediction; a mirrored one the same again.

    Args:
        scales: Factors for height and width.
        mirror: Also predict every scaled image flipped left to right.

    Raises:
        UsageError: There is no scale, or one is not positive.
    """

    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise UsageError(f"scales {self.scales}: give one or more positive factors, such as 0.75,1,1.25")

    def scores(self, logits: Callable[[Tensor], Tensor], image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Return the logits of the plain image where that is the only view, else the log of the mean probability."""
        if self == Views():
            return logits(image)
        size = image.shape[-2:]
        total, count = torch.zeros((), device=image.device), 0
        for view, mirrored in self._of(image):
            scores = logits(view)
            scores = scores.flip(-1) if mirrored else scores
            total = total + _resized(scores, (size[0], size[1])).softmax(1)
            count += 1
        return (total / count).log()

    def _of(self, image: Tensor) -> Iterator[tuple[Tensor, bool]]:
        height, width = image.shape[-2:]
        for scale in self.scales:
            view = _resized(image, (max(1, round(height * scale)), max(1, round(width * scale))))
            yield view, False
            if self.mirror:
                yield view.flip(-1), True


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", antialias=True)
