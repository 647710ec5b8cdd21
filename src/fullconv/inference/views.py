"""Views of one image: scaled and mirrored, predicted each, and averaged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError

LARGEST_SCALE = 8
"""Largest scale of a view."""


@dataclass(frozen=True, slots=True)
class Views:
    """What is predicted and averaged for one image: a view for each scale, and with ``mirror`` for its mirror image.

    A view costs scale² times the plain prediction; a mirrored one the same again.

    Args:
        scales: Factors for height and width, on top of the network's own ``input_scale``.
        mirror: Also predict every scaled image flipped left to right.

    Raises:
        UsageError: There is no scale, or one is not above 0, or above 8.
    """

    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= LARGEST_SCALE for scale in self.scales):
            raise UsageError(
                f"scales {self.scales}: give one or more factors above 0, at most {LARGEST_SCALE}, such as 0.75,1,1.25"
            )

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
        views = self._probabilities(logits, image)
        total = next(views)
        for view in views:
            total += view
        return total.div_(len(self.scales) * (1 + self.mirror)).log_()

    def _probabilities(self, logits: Callable[[Tensor, float], Tensor], image: Tensor) -> Iterator[Tensor]:
        for scale in self.scales:
            yield logits(image, scale).softmax(1)
            if self.mirror:
                yield logits(image.flip(-1), scale).flip(-1).softmax(1)
