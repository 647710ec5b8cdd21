"""What every trunk is: an image classifier cut open, whose features are named taps with a known geometry."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UsageError
from ..geometry import Field, LayerSpec
from ..nn.convert import first_conv, widen_first_conv
from ..nn.trace import geometry_of

Padding = Literal["paper", "same"]
PAPER_PADDING = 100


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a trunk expects of its input: ``(image − mean) / std`` for an RGB image in 0–255.

    One number per input channel. ImageNet's are torchvision's, times 255.
    """

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)

    def for_channels(self, channels: int) -> "Normalisation":
        """Return it for another number of channels: further ones get the average of the three."""
        if channels == len(self.mean):
            return self

        def widen(values: tuple[float, ...]) -> tuple[float, ...]:
            average = sum(values) / len(values)
            return (values + (average,) * channels)[:channels] if channels > 3 else (average,) * channels

        return Normalisation(widen(self.mean), widen(self.std))


NORMALISATIONS = {
    "imagenet": Normalisation(),
    "caffe": Normalisation((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    "half": Normalisation((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}
"""By name: torchvision's, VGG's own (in RGB order), and TensorFlow's, 0–255 as −1 … 1."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A named feature of a trunk: its channels and, per axis, its grid in the image."""

    name: str
    channels: int
    y: Field
    x: Field

    @property
    def stride(self) -> int:
        """Input pixels between neighbouring feature pixels, vertically."""
        return int(self.y.stride)


@runtime_checkable
class SavesMemory(Protocol):
    """A body that can compute its activations again in the backward pass, instead of keeping them."""

    def save_memory(self) -> None:
        """Do so from now on."""


KEEPS_ALL = "this trunk cannot compute its activations again: leave recompute out"


class Trunk(nn.Module):
    """A body that turns an image into named features, and an optional context stage on top of the coarsest one.

    Args:
        body: Maps a normalised n×c×h×w image to a dictionary of features, fine to coarse.
        context: Further layers for the coarsest feature (fc6 and fc7, or a lighter head), with their name.
        normalisation: What the body's weights expect of the image.
        margin: Zero pixels added on every side of the normalised image ("paper" padding).
        multiple: The padded image is extended at the bottom and right to a multiple of this many pixels.
    """

    def __init__(
        self,
        body: nn.Module,
        context: tuple[str, nn.Module] | None = None,
        *,
        normalisation: Normalisation | None = None,
        margin: int = 0,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.body = body
        self.context_name = context[0] if context else None
        self.context = context[1] if context else nn.Identity()
        self.normalisation = normalisation or Normalisation()
        self.margin = margin
        self.multiple = multiple
        self.taps = self._derive_taps()

    def forward(self, image: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
        """Return every tap of a normalised image: name → n×channels×(h/stride)×(w/stride)."""
        height, width = image.shape[-2:]
        return self._features(F.pad(image, self._pads(width) + self._pads(height)))  # type: ignore[arg-type]

    def _features(self, padded: Tensor) -> dict[str, Tensor]:
        features: dict[str, Tensor] = dict(self.body(padded))
        if self.context_name:
            features[self.context_name] = self.context(next(reversed(features.values())))
        return features

    def _pads(self, size: int | torch.SymInt) -> tuple[int | torch.SymInt, int | torch.SymInt]:
        padded = size + 2 * self.margin
        return self.margin, self.margin + (-padded % self.multiple)

    def _derive_taps(self) -> dict[str, Tap]:
        start = Field().through(LayerSpec(padding=(self.margin, self.margin), multiple=self.multiple))
        side = 16 * self.multiple if self.multiple > 1 else 256
        geometry = geometry_of(_Features(self), (side, side), len(self.normalisation.mean))
        outputs = geometry.outputs
        if geometry.lost or not outputs:
            reasons = [f"{name.removeprefix('trunk.')}: {reason}" for name, reason in geometry.unknown.items()]
            raise UsageError(f"cannot be a trunk, its features have no one grid: {'; '.join(reasons[-2:])}")
        return {
            name: Tap(name, feature.channels, feature.y.after(start), feature.x.after(start))
            for name, feature in outputs.items()
        }

    def save_memory(self) -> None:
        """Keep less for the backward pass, which computes it again: about a third more time for a step.

        Raises:
            UsageError: The trunk cannot.
        """
        if not isinstance(self.body, SavesMemory):
            raise UsageError(KEEPS_ALL)
        self.body.save_memory()

    def ladder_taps(self, finest_stride: int) -> tuple[Tap, ...]:
        """Return the taps a head scores, coarse to fine: the deepest of each stride, halving down to ``finest_stride``.

        Raises:
            UsageError: The trunk has no tap of that stride; the message lists those it has.
        """
        deepest = {tap.stride: tap for tap in self.taps.values()}
        if finest_stride not in deepest:
            known = ", ".join(str(stride) for stride in sorted(deepest))
            raise UsageError(f"finest stride {finest_stride} is not one of this trunk's: {known}")
        return tuple(deepest[stride] for stride in sorted(deepest, reverse=True) if stride >= finest_stride)


class _Features(nn.Module):
    """A trunk without its own padding, whose size-dependent arithmetic the geometry knows by itself."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, padded: Tensor) -> dict[str, Tensor]:
        return self.trunk._features(padded)


class Stages(nn.ModuleDict):
    """Stages in a row; every one's output is a feature.

    Attributes:
        recompute: Keep only the stages' outputs for the backward pass, which then computes the rest again.
    """

    recompute = False

    def forward(self, image: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
        """Return the output of every stage by name."""
        again = self.recompute and self.training and torch.is_grad_enabled()
        features: dict[str, Tensor] = {}
        for name, stage in self.items():
            image = features[name] = checkpoint(stage, image, use_reentrant=False) if again else stage(image)
        return features

    def save_memory(self) -> None:
        """Recompute from now on."""
        self.recompute = True


def chained(
    layers: nn.Sequential,
    ends: Mapping[int, str],
    context: tuple[str, nn.Module] | None,
    *,
    padding: Padding,
    in_channels: int,
    normalisation: Normalisation = NORMALISATIONS["imagenet"],
) -> Trunk:
    """Return the trunk of a classifier's chain of layers, which is changed in place.

    Args:
        layers: The chain, its first convolution for red, green, blue.
        ends: Index of the last layer of each stage, and what its output is called.
        context: As for :class:`Trunk`.
        padding: ``paper`` or ``same``.
        in_channels: Channels of the image.
        normalisation: What the weights expect of red, green, blue.
    """
    layers = widen_first_conv(layers, in_channels)
    margin = margin_for(layers, padding)
    repad(layers, padding)
    return Trunk(cut(layers, ends), context, normalisation=normalisation.for_channels(in_channels), margin=margin)


def cut(layers: Iterable[nn.Module], names: Mapping[int, str]) -> Stages:
    """Cut a chain of layers into stages: ``names`` maps the index of each stage's last layer to its name."""
    stages, current = {}, []
    for index, layer in enumerate(layers):
        current.append(layer)
        if index in names:
            stages[names[index]] = nn.Sequential(*current)
            current = []
    return Stages(stages)


def repad(module: nn.Module, padding: Padding) -> None:
    """Make every window of ``module`` reach the image's last pixel, in place.

    Pooling rounds up, as Caffe does. With ``"same"``, windows of odd size are centred as well, by padding half their
    size, so that a feature of stride s has ceil(size / s) pixels. Weights are untouched.

    Source: Caffe's ``Pooling`` layer.
    """
    for layer in module.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
        if padding == "same" and isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            kernel, dilation = _single(layer.kernel_size), _single(layer.dilation)
            if kernel % 2:
                half = dilation * (kernel - 1) // 2
                layer.padding = (half, half) if isinstance(layer, nn.Conv2d) else half
                if isinstance(layer, nn.MaxPool2d):
                    layer.ceil_mode = False


def _single(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def margin_for(module: nn.Module, padding: Padding) -> int:
    """Return the zeros to add around the image so that the first convolution sees 100 of them ("paper")."""
    return PAPER_PADDING - _single(first_conv(module).padding) if padding == "paper" else 0  # type: ignore[arg-type]
