"""One crop, by offset and size, that survives export with dynamic shapes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import GeometryError

Size = tuple[int | torch.SymInt, int | torch.SymInt]
"""Height and width in pixels; symbols while a model is being exported."""


def crop_to(x: Float[Tensor, "n c h w"], offset: tuple[int, int], size: Size) -> Float[Tensor, "n c h2 w2"]:
    """Return the window of ``size`` (height, width) pixels whose first pixel is ``x``'s pixel ``offset`` (y, x).

    The result is ``x`` itself where nothing is cropped, else a copy. While a model is being exported or compiled the
    fit is not checked, so that no size is fixed.

    Raises:
        GeometryError: The window is empty or does not fit.

    Source: Caffe's ``Crop`` layer.
    """
    top, left = offset
    bottom, right = x.shape[-2] - top - size[0], x.shape[-1] - left - size[1]
    if not torch.compiler.is_compiling():
        if min(top, left, bottom, right) < 0 or min(size) < 1:
            raise GeometryError(
                f"cannot crop {size[0]}×{size[1]} pixels at offset ({top}, {left}) from {x.shape[-2]}×{x.shape[-1]}"
            )
        if max(top, left, bottom, right) == 0:
            return x
    # Slicing would specialise an exported model to the example's size; padding by a negative amount does not.
    return F.pad(x, (-left, -right, -top, -bottom))  # type: ignore[arg-type]
