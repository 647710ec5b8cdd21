"""The head: score every tap, upsample the coarser sum, crop, add, and upsample to the image."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import GeometryError
from ..geometry import Ladder, ladder
from ..nn.bilinear import BilinearUpsample
from ..nn.cropping import Size, crop_to
from ..nn.strips import Upsampling
from ..trunks import Padding, Tap

SCENE = "scene.0."
"""In the names of what in a head does not depend on its classes."""


class SkipHead(nn.Module):
    """Scores for one task at full resolution: FCN-32s with one tap, 16s with two, 8s with three.

    Score layers are 1×1 convolutions that start at zero. Fusion is a sum. Kernels and crops are derived from the taps.

    Args:
        taps: Scored features, coarse to fine.
        num_classes: Number of classes k.
        padding: With ``"same"``, the transposed convolutions' own padding replaces crops where it can.
        scales: A fixed factor for each tap before its score layer (FCN-8s at once: 1, 0.01, 0.0001).
        learnable_upsampling: Train the bilinear kernels as well.
        global_context: Hidden width of a bias for every class from the mean of the coarsest tap; 0 for none.

    Raises:
        GeometryError: The taps cannot be aligned with whole crops, or do not cover the image.

    Source: Long, Shelhamer & Darrell 2015, section 4.2; Liu, Rabinovich & Berg 2015, "ParseNet: Looking Wider to See
        Better", for the global context.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        num_classes: int,
        *,
        padding: Padding = "same",
        scales: Sequence[float] | None = None,
        learnable_upsampling: bool = False,
        global_context: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.tap_names = [tap.name for tap in taps]
        self.scales = list(scales) if scales else [1.0] * len(taps)
        self.ladder = _common_ladder(taps, padding)
        self.score = nn.ModuleDict({tap.name: _zero_score(tap.channels, num_classes) for tap in taps})
        self.scene = _scene_score(taps[0].channels, global_context, num_classes) if global_context else None
        self.upscore = nn.ModuleList(
            BilinearUpsample(
                num_classes,
                rung.factor,
                learnable_upsampling,
                kernel_size=rung.kernel,
                padding=rung.padding,
            )
            for rung in self.ladder.rungs
        )

    def forward(self, features: Mapping[str, Tensor], size: Size) -> Float[Tensor, "n k h w"]:
        """Return logits of exactly ``size`` (height, width) from the trunk's features."""
        rung = self.ladder.rungs[-1]
        return crop_to(self.upscore[-1](self.fused(features)), (rung.crop, rung.crop), size)

    def fused(self, features: Mapping[str, Tensor]) -> Float[Tensor, "n k hs ws"]:
        """Return the sum of all scores at the finest tap's stride: the logits before the last upsampling."""
        scores = [
            self.score[name](features[name] * scale if scale != 1 else features[name])
            for name, scale in zip(self.tap_names, self.scales, strict=True)
        ]
        fused: Tensor = scores[0]
        if self.scene is not None:
            fused = fused + self.scene(features[self.tap_names[0]].mean((2, 3), keepdim=True))
        for rung, upsample, skip in zip(self.ladder.rungs[:-1], self.upscore[:-1], scores[1:], strict=True):
            upscore, crop = upsample(fused), (rung.crop, rung.crop)
            if rung.cropped == "skip":
                fused = upscore + crop_to(skip, crop, _size(upscore))
            else:
                fused = crop_to(upscore, crop, _size(skip)) + skip
        return fused

    @property
    def upsampling(self) -> Upsampling:
        """The last rung: from the sum of scores to the image."""
        rung, upsample = self.ladder.rungs[-1], self.upscore[-1]
        assert isinstance(upsample, BilinearUpsample)
        # A tensor of its own: FSDP hooks what a pass returns, every time anew, and a weight stays.
        return Upsampling(upsample.kernels().clone(), rung.factor, rung.crop + rung.padding)


def _size(feature: Tensor) -> Size:
    return feature.shape[-2], feature.shape[-1]


def _zero_score(channels: int, num_classes: int) -> nn.Conv2d:
    score = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(score.weight)
    nn.init.zeros_(score.bias)  # type: ignore[arg-type]
    return score


def _scene_score(channels: int, width: int, num_classes: int) -> nn.Sequential:
    """Return layers from the mean feature of an image to a bias for every class, at first zero."""
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), _zero_score(width, num_classes))


def _common_ladder(taps: Sequence[Tap], padding: Padding) -> Ladder:
    vertical = ladder([tap.y for tap in taps], fold=padding == "same")
    horizontal = ladder([tap.x for tap in taps], fold=padding == "same")
    if vertical.rungs != horizontal.rungs:
        raise GeometryError(
            f"height and width need different kernels or crops ({vertical.crops}, {horizontal.crops}): "
            "a head has square kernels; use a trunk with square windows"
        )
    return vertical
