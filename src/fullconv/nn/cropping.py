"""One crop, by offset and size, that survives export with dynamic shapes."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import GeometryError


def crop_to(x: Float[Tensor, "n c h w"], offset: tuple[int, int], size: tuple[int, int]) -> Float[Tensor, "n c h2 w2"]:
    """Return the window of ``size`` (height, width) that starts at ``offset`` (y, x).

    Raises:
        GeometryError: The window does not fit.
    """
    top, left = offset
    bottom, right = x.shape[-2] - top - size[0], x.shape[-1] - left - size[1]
    if all(isinstance(side, int) for side in (bottom, right)) and min(top, left, bottom, right) < 0:
        raise GeometryError(f"cannot crop {size} at {offset} from {tuple(x.shape[-2:])}")
    return F.pad(x, (-left, -right, -top, -bottom))
