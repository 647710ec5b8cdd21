"""Upsampling of coarse scores a strip of the image at a time, so that whole logits need never be held."""

from collections.abc import Iterator
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

STRIP_BYTES = 64 << 20
"""Size of the logits of one strip, about."""


class Upsampling(NamedTuple):
    """A transposed convolution with one kernel a channel, and where the image begins in its output.

    Attributes:
        kernels: One for each channel.
        factor: Output pixels per input pixel.
        start: Row and column of the output, computed without padding, of the image's first pixel.
    """

    kernels: Float[Tensor, "k 1 side side"]
    factor: int
    start: int

    def every(self, step: int) -> "Upsampling":
        """Return the upsampling to rows and columns ``step // 2``, ``step // 2 + step``, … alone: :func:`every_nth`.

        ``step`` must divide the factor. Of the kernel, what falls on the others is left out.
        """
        first = self.start + step // 2
        phase = slice(first % step, None, step)
        return Upsampling(self.kernels[:, :, phase, phase], self.factor // step, first // step)

    def cells(self, height: int, top: int, bottom: int) -> slice:
        """Return which of the ``height`` rows of scores the image's rows top … bottom − 1 are upsampled from."""
        first = max(0, -((self.kernels.shape[-1] - 1 - top - self.start) // self.factor))
        return slice(first, min(height, (bottom - 1 + self.start) // self.factor + 1))

    def strip(self, scores: Tensor, kernels: Tensor, top: int, bottom: int, width: int, first: int = 0) -> Tensor:
        """Return the logits of the image's rows top … bottom − 1.

        Of the scores, rows may be left out that are not among :meth:`cells`: ``first`` of them at the top.
        """
        size, factor = kernels.shape[-1], self.factor
        cells = self.cells(first + scores.shape[2], top, bottom)
        some = scores[:, :, cells.start - first : cells.stop - first]
        rows, begin = bottom - top, top + self.start - cells.start * factor
        # What lies beside the strip is not computed at all, as far as it lies on both sides: it may be several times
        # as large.
        above = min(begin, (some.shape[2] - 1) * factor + size - begin - rows)
        left = min(self.start, (some.shape[3] - 1) * factor + size - self.start - width)
        dense = F.conv_transpose2d(some, kernels, stride=factor, padding=(above, left), groups=kernels.shape[0])
        begin, start = begin - above, self.start - left
        return dense[:, :, begin : begin + rows, start : start + width]


def strips(target: Int64[Tensor, "n h w"], classes: int) -> Iterator[tuple[slice, int, int]]:
    """Yield which images, and rows top … bottom − 1 of them, have logits of about :data:`STRIP_BYTES`."""
    count, height, width = target.shape
    pixels = max(1, STRIP_BYTES // (4 * classes))
    images, rows = max(1, pixels // max(1, height * width)), max(1, pixels // max(1, width))
    for one in range(0, count, images):
        for top in range(0, height, rows):
            yield slice(one, one + images), top, min(height, top + rows)


def every_nth(target: Int64[Tensor, "n h w"], step: int) -> Int64[Tensor, "n hn wn"]:
    """Return the rows and columns of a target that :meth:`Upsampling.every` upsamples to."""
    return target[:, step // 2 :: step, step // 2 :: step]
