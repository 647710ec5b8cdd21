"""Changes to an image and its target together."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..errors import UsageError
from ..files.pictures import Pixels
from .sample import FILL, Sample, filling, place


@dataclass(frozen=True)
class TrainingTransform:
    """Random scale, crop, mirroring and colour; the target moves with the image.

    Draws from torch's default generator. With ``scale=(1, 1)``, ``flip=0`` and ``colour=0`` only the crop is
    left.

    Attributes:
        crop: Height and width of the result; None leaves images whole and does not scale them.
        scale: Smallest and largest factor, drawn log-uniformly; sizes in the result ÷ sizes in the image.
        flip: Probability of mirroring left to right, 0–1.
        colour: Brightness, contrast and saturation of the first three channels (of fewer: of the first) change by
            factors in 1 ± ``colour``; 0–1.
        fill: The channels (0–255) where the scaled image is smaller than the crop, at the bottom and right; further
            ones are 0 there.
        ignore_index: Target there.
        keep: Probability with which each cell of the result is kept in the loss, 0–1; others get ``ignore_index``.
        cell: Side of a cell in pixels.

    Raises:
        UsageError: A setting is outside its range.

    Source: Long, Shelhamer & Darrell 2015, section 4.3, for ``keep``.
    """

    crop: tuple[int, int] | None
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    colour: float = 0.3
    fill: tuple[float, ...] = FILL
    ignore_index: int = 255
    keep: float = 1.0
    cell: int = 32

    def __post_init__(self) -> None:
        if self.crop is not None and min(self.crop) < 1:
            raise UsageError(f"crop is {self.crop}; give height and width of at least 1 pixel")
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise UsageError(f"scale is {self.scale}; give the smaller factor first, both above 0, such as (0.5, 2.0)")
        for name, value in (("flip", self.flip), ("colour", self.colour), ("keep", self.keep)):
            if not 0 <= value <= 1:
                raise UsageError(f"{name} is {value}; give a number from 0 to 1")

    def __call__(self, sample: Sample) -> Sample:
        """Return a changed sample; the given one stays as it is."""
        image, targets = sample.image, torch.stack([sample.target, *sample.further.values()])
        if self.crop is not None:
            image, targets = self._scaled_window(image, targets, self.crop)
        if _draw(0.0, 1.0) < self.flip:
            image, targets = image.flip(-1), targets.flip(-1)
        image, targets = self._padded(self._recoloured(image.contiguous()), targets)
        target, *further = self._thinned(targets)
        return replace(sample, image=image, target=target, further=dict(zip(sample.further, further, strict=True)))

    def draw_scale(self) -> float:
        """Draw a factor, log-uniformly from ``scale``."""
        return math.exp(_draw(math.log(self.scale[0]), math.log(self.scale[1])))

    def _scaled_window(
        self, image: Pixels, targets: Int64[Tensor, "t h w"], crop: tuple[int, int]
    ) -> tuple[Tensor, Int64[Tensor, "t H W"]]:
        scale = self.draw_scale()
        # The window is cut before scaling, so that the cost depends on the crop and not on the scale.
        top, height, new_height = _window(image.shape[-2], crop[0], scale)
        left, width, new_width = _window(image.shape[-1], crop[1], scale)
        rows, columns = slice(top, top + height), slice(left, left + width)
        image, targets = image[:, rows, columns], targets[:, rows, columns]
        if (height, width) == (new_height, new_width):
            return image, targets
        # To a single pixel, torch fails an assertion of its own on some layouts of 8-bit images.
        single = (new_height, new_width) == (1, 1)
        scaled = F.resize(image.float() if single else image, [new_height, new_width], antialias=True)
        scaled = scaled.round().to(image.dtype) if single else scaled
        return scaled, _resized_nearest(targets, new_height, new_width)

    def _recoloured(self, image: Pixels) -> Pixels:
        if self.colour == 0:
            return image
        low, high = 1 - self.colour, 1 + self.colour
        channels = 3 if image.shape[0] >= 3 else 1
        colours = recoloured(image[:channels], _draw(low, high), _draw(low, high), _draw(low, high))
        return torch.cat([colours, image[channels:]]) if image.shape[0] > channels else colours

    def _padded(self, image: Pixels, targets: Int64[Tensor, "t h w"]) -> tuple[Tensor, Int64[Tensor, "t H W"]]:
        size = self.crop or tuple(targets.shape[1:])
        if size == targets.shape[1:]:
            return image, targets
        canvas = image.new_empty(image.shape[0], *size)
        place(canvas, image, filling(image.shape[0], self.fill).to(image.dtype))
        larger = targets.new_empty(targets.shape[0], *size)
        place(larger, targets, self.ignore_index)
        return canvas, larger

    def _thinned(self, targets: Int64[Tensor, "t h w"]) -> Int64[Tensor, "t h w"]:
        if self.keep == 1:
            return targets
        height, width = targets.shape[1:]
        kept = torch.rand(math.ceil(height / self.cell), math.ceil(width / self.cell)) < self.keep
        rows, columns = torch.arange(height) // self.cell, torch.arange(width) // self.cell
        return torch.where(kept[rows][:, columns], targets, self.ignore_index)


def recoloured(image: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    """Return an image of one or three channels with changed brightness, contrast and saturation.

    They are torchvision's ``adjust_brightness``, ``adjust_contrast`` and ``adjust_saturation`` in this order, without
    rounding and clipping between them: one sum of the image, its grey and its mean. Measured: three times as fast.

    Args:
        image: Values 0–255.
        brightness: Factor; 1 changes nothing.
        contrast: Factor of the distance to the image's mean grey.
        saturation: Factor of the distance to the pixel's grey.
    """
    pixels = image.float()
    if image.shape[0] == 3:
        grey = 0.2989 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    else:
        grey, saturation = pixels[0], 1.0
    mean = grey.mean(dtype=torch.float64).float()  # In float32 its last bit would depend on the number of threads.
    rounding = 0.0 if image.is_floating_point() else 0.5
    grey = grey * (contrast * brightness * (1 - saturation)) + ((1 - contrast) * brightness * mean + rounding)
    return (pixels * (contrast * brightness * saturation)).add_(grey).clamp_(0, 255).to(image.dtype)


def _draw(low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), dtype=torch.float64).item()


def _window(side: int, crop: int, scale: float) -> tuple[int, int, int]:
    """Return start and length of the window in the image, and its length after scaling (all in pixels)."""
    if abs(side - crop / scale) <= 0.5:  # Cut to whole pixels for this crop, as patches are.
        return 0, side, crop
    scaled = max(1, round(side * scale))
    if scaled <= crop:
        return 0, side, scaled
    length = min(side, max(1, round(crop / scale)))
    return int(torch.randint(side - length + 1, ())), length, crop


def _resized_nearest(targets: Int64[Tensor, "t h w"], height: int, width: int) -> Int64[Tensor, "t H W"]:
    # torchvision resizes masks with the "nearest" whose grid lies up to half a pixel beside bilinear's.
    rows, columns = _nearest(targets.shape[1], height), _nearest(targets.shape[2], width)
    return targets.index_select(1, rows).index_select(2, columns)


def _nearest(old: int, new: int) -> Int64[Tensor, "new"]:
    return (2 * torch.arange(new) + 1) * old // (2 * new)
