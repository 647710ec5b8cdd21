"""Resizing to any size, for what a network sees and for the logits it gives back."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .cropping import Size


def scaled(size: Size, scale: float) -> Size:
    """Return a height and width times ``scale``, rounded, at least one pixel each; at a scale of 1 the size as it is.

    >>> scaled((240, 321), 1.5), scaled((3, 1), 0.1)
    ((360, 482), (1, 1))
    """
    if scale == 1:
        return size
    # torch's own, so that sizes may be symbols while a model is being exported.
    height, width = (torch.sym_max(1, torch.sym_int(side * scale + 0.5)) for side in size)
    return height, width


def resize_to(x: Float[Tensor, "n c h w"], size: Size) -> Float[Tensor, "n c h2 w2"]:
    """Return ``x`` bilinearly resized, averaged where it shrinks; ``x`` itself where it has that size."""
    if x.shape[-2:] == tuple(size):
        return x
    wide = x.float() if x.dtype.itemsize < 4 else x  # On a processor, torch cannot average in half precision.
    return F.interpolate(wide, size=tuple(size), mode="bilinear", antialias=True).to(x.dtype)  # type: ignore[arg-type]
