"""How coarse scores are upsampled, aligned with finer ones and cropped to the image: whole numbers or an error.

A *ladder* is the head of FCN-32s/16s/8s seen as arithmetic. Its rungs go from coarse to fine: upsample by the ratio
of two strides, align with the next tap, add; the last rung upsamples to the image and crops to its size. Kernels and
crops are derived from where the taps sit, for any trunk; with VGG16 and padding 100 they are the published
5, 9, 31, with AlexNet 18.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Literal

from ..errors import GeometryError
from .coords import CoordMap
from .fields import Field
from .layers import LayerSpec


def crop_offset(source: CoordMap, reference: CoordMap) -> int:
    """Return how many pixels to drop at the start of ``source`` so that it aligns with ``reference``.

    Both maps send their own pixel index to input coordinates. One axis; call once per axis.

    Args:
        source: Map of the larger feature, such as the scored pool4.
        reference: Map of the feature to match, such as the score upsampled by 2.

    Raises:
        GeometryError: The strides differ, or the offset is negative or not whole; the message shows both maps.

    Source: Long, Shelhamer & Darrell 2015, section 4.2; Caffe's ``coord_map.crop_params``.
    """
    offset = _shift(source, reference)
    if offset.denominator != 1 or offset < 0:
        raise GeometryError(f"crop from {source} to {reference} is {offset}: it must be a whole number of pixels ≥ 0")
    return int(offset)


def _shift(source: CoordMap, reference: CoordMap) -> Fraction:
    if source.scale != reference.scale:
        raise GeometryError(f"cannot align stride {source.scale} with stride {reference.scale}: {source}, {reference}")
    return (reference.offset - source.offset) / source.scale


@dataclass(frozen=True, slots=True)
class Rung:
    """One upsampling step and the crop that follows it, on one axis.

    Attributes:
        factor: Ratio of the strides.
        kernel: Bilinear kernel, ``2f`` or ``2f − 1``: the one with which the crop is whole.
        crop: Pixels dropped at the start of the side that is cropped.
        cropped: ``"skip"`` where the finer tap covers more than the upsampled score (padding 100), else ``"upscore"``.
        padding: Pixels that the transposed convolution itself drops at both ends.
    """

    factor: int
    kernel: int
    crop: int
    cropped: Literal["skip", "upscore"]
    padding: int = 0

    @property
    def layer(self) -> LayerSpec:
        """The upsampling as a layer: a transposed convolution."""
        return LayerSpec(self.kernel, self.factor, (self.padding, self.padding), transposed=True)

    def folded(self) -> "Rung":
        """Return the same step with its crop taken by the transposed convolution's own padding."""
        return replace(self, crop=0, padding=self.crop) if self.cropped == "upscore" else self


@dataclass(frozen=True, slots=True)
class Ladder:
    """Every rung of a head on one axis; the last leads to the image."""

    taps: tuple[Field, ...]
    rungs: tuple[Rung, ...]

    @property
    def crops(self) -> list[int]:
        """Crop offsets from coarse to fine, such as ``[5, 9, 31]``."""
        return [rung.crop for rung in self.rungs]

    def output_size(self, size: int) -> int:
        """Return the output's size for an input of ``size`` pixels, step by step: ``size``, or an error.

        Raises:
            GeometryError: A crop does not fit; the message names the step, the sizes and the input.
        """
        score = self.taps[0].size(size)
        for step, rung in enumerate(self.rungs):
            upscore = rung.layer.output_size(score)
            last = step == len(self.rungs) - 1
            skip = size if last else self.taps[step + 1].size(size)
            have, score = (skip, upscore) if rung.cropped == "skip" else (upscore, skip)
            if have < rung.crop + score:
                raise GeometryError(
                    f"step {step + 1} (×{rung.factor}) cannot crop {score} pixels from {have} at offset {rung.crop} "
                    f"for an input of {size} pixels"
                )
        return score

    def check(self) -> None:
        """Prove that the output has exactly the input's size, for every size from 1 up.

        All layers advance by a whole number of steps when the input grows by the coarsest stride, so beyond the
        smallest sizes the answer repeats with that period: three periods beyond the largest window hold every case.

        Raises:
            GeometryError: It does not; the message names the first size that fails.
        """
        period = int(self.taps[0].stride)
        window = max((layer.span + 1 for field in self.taps for layer in field.layers), default=1)
        for size in range(1, 3 * period + window):
            self.output_size(size)


def ladder(taps: Sequence[Field], *, fold: bool = False) -> Ladder:
    """Derive kernels and crops that bring ``taps``, ordered coarse to fine, to the image with zero shift.

    Args:
        taps: Fields of the scored features, coarse to fine.
        fold: Let the transposed convolutions' own padding do the cropping where that still covers every image
            (with "same" padding and VGG16 every crop is then 0, as in the field's usual networks).

    Raises:
        GeometryError: Strides are not whole multiples, no kernel gives a whole crop, or the output would not cover
            an image of some size.

    Source: Long, Shelhamer & Darrell 2015, section 4.2; the crop numbers of the reference implementation.
    """
    return _ladder(tuple(taps), fold)


@cache  # The two axes of most networks are equal, and a network is often built several times.
def _ladder(taps: tuple[Field, ...], fold: bool) -> Ladder:
    rungs: list[Rung] = []
    grid = taps[0].map
    for reference in (*[tap.map for tap in taps[1:]], CoordMap()):
        rung = _rung(grid, reference)
        grid = rung.layer.map.then(grid)
        if rung.cropped == "upscore":
            grid = reference
        rungs.append(rung)
    if rungs[-1].cropped == "skip":
        raise GeometryError(f"the score starts {rungs[-1].crop} pixels inside the image: pad the trunk's input by them")
    plan = Ladder(taps, tuple(rungs))
    plan.check()
    return _fold(plan) if fold else plan


def _rung(grid: CoordMap, reference: CoordMap) -> Rung:
    ratio = grid.scale / reference.scale
    if ratio.denominator != 1:
        raise GeometryError(f"stride {grid.scale} is not a whole multiple of {reference.scale}: cannot upsample")
    factor = int(ratio)
    for kernel in (2 * factor - factor % 2, 2 * factor - 1, 2 * factor):
        shift = _shift(LayerSpec(kernel, factor, transposed=True).map.then(grid), reference)
        if shift.denominator == 1:
            return Rung(factor, kernel, abs(int(shift)), "upscore" if shift >= 0 else "skip")
    raise GeometryError(f"no bilinear kernel aligns {grid} with {reference}: the crop would be {shift} pixels")


def _fold(plan: Ladder) -> Ladder:
    for step, rung in enumerate(plan.rungs):
        folded = replace(plan, rungs=(*plan.rungs[:step], rung.folded(), *plan.rungs[step + 1 :]))
        try:
            folded.check()
        except GeometryError:
            continue
        plan = folded
    return plan


def halo(field: Field) -> tuple[int, int]:
    """Return how many input pixels before and after a tile its feature pixels need, at the most.

    For a tile that starts on the feature's grid: everything a pixel sees to the left and right of its stride cell.

    Raises:
        GeometryError: The feature sees the whole image, so that no halo is enough.
    """
    if field.everything:
        raise GeometryError("the feature sees the whole image: no tile with a finite halo gives the same result")
    before = max(Fraction(0), -field.first)
    after = max(Fraction(0), field.last - (field.stride - 1))
    return -(-before.numerator // before.denominator), -(-after.numerator // after.denominator)
