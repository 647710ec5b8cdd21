"""The fully convolutional network: one class for 32s, 16s, 8s and finer, on any trunk, for one task or many."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..data.labels import LabelSet
from ..errors import ModelError, UsageError, in_one_line
from ..nn.resizing import resize_to, scaled
from ..nn.strips import Upsampling
from ..trunks import Normalisation, Trunk, Weights
from ..trunks import trunk as build_trunk
from .config import ModelConfig
from .folder import CONFIG, WEIGHTS, read_model, write_model
from .heads import SkipHead

# FCN-8s at once of the paper's reference implementation: fixed factors before the scores, by stride.
SKIP_SCALES = {16: 0.01, 8: 0.0001}


class FCN(nn.Module):
    """A trunk and a head for each task; normalisation inside.

    Args:
        trunk: Gives named features of an image.
        heads: One head for each task, by the task's name.
        normalisation: What the trunk expects; by default the trunk's own. Kept as buffers: it travels with the weights.
        input_scale: How many times as large the trunk sees an image; logits are brought back to the image's size.

    Attributes:
        config: How the network was built (None where it was put together by hand: it then cannot be saved).
        labels: Names, colours and ignore index of each task's classes.

    Source: Long, Shelhamer & Darrell 2015; section 5 (SIFT Flow) for several tasks on one trunk.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: Trunk,
        heads: Mapping[str, SkipHead],
        normalisation: Normalisation | None = None,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        normalisation = normalisation or trunk.normalisation
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, -1, 1, 1))
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)
        self.input_scale = input_scale
        self.config: ModelConfig | None = None
        self.labels = {task: _numbered(head.num_classes) for task, head in heads.items()}

    def forward(self, image: Float[Tensor, "n c h w"]) -> Tensor | dict[str, Tensor]:
        """Return logits n×k×h×w for every pixel of RGB images in 0–255; a dictionary of them for several tasks."""
        logits = self.logits(image)
        return next(iter(logits.values())) if len(logits) == 1 else logits

    def logits(self, image: Float[Tensor, "n c h w"], scale: float = 1.0) -> dict[str, Tensor]:
        """Return logits n×k×h×w of every task by name, also where there is only one.

        Args:
            image: Values 0–255.
            scale: On top of ``input_scale``: how many times as large the trunk sees the image.
        """
        size = (image.shape[-2], image.shape[-1])
        seen = scaled(size, scale * self.input_scale)
        features = self.features(resize_to(image, seen))
        return {task: resize_to(head(features, seen), size) for task, head in self.heads.items()}

    def coarse(self, image: Float[Tensor, "n c h w"]) -> dict[str, tuple[Tensor, Upsampling]]:
        """Return every task's scores before the last upsampling, and that upsampling: for a loss in strips.

        The image is one that is scaled by ``input_scale`` already.
        """
        features = self.features(image)
        heads: dict[str, Any] = dict(self.heads.items())
        return {task: (head.fused(features), head.upsampling) for task, head in heads.items()}

    def features(self, image: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
        """Return the trunk's features of a scaled image by name, from which every task's head scores."""
        features: dict[str, Tensor] = self.trunk((image - self.mean) / self.std)
        return features

    @classmethod
    def from_config(
        cls, config: ModelConfig, weights: Weights = None, labels: Mapping[str, LabelSet] | None = None
    ) -> "FCN":
        """Build the network that ``config`` describes, with fresh score layers.

        Args:
            config: What to build.
            weights: Trunk weights: None (fresh), ``"imagenet"`` (downloaded), or the path of a file.
            labels: Class tables by task; by default ``class 0`` and on.

        Raises:
            UsageError: The trunk is unknown, has no such stride, or the options do not fit it; or a table names another
                number of classes than its task has.
            ModelError: The weight file cannot be used.
        """
        trunk = build_trunk(
            config.trunk,
            padding=config.padding,
            in_channels=config.in_channels,
            weights=weights,
            context=config.context,
            dropout=config.dropout,
        )
        normalisation = Normalisation(*config.normalisation) if config.normalisation else trunk.normalisation
        heads = {task: _head(config, trunk, classes) for task, classes in config.tasks.items()}
        model = cls(trunk, heads, normalisation, config.input_scale)
        model.config = config.model_copy(update={"normalisation": (normalisation.mean, normalisation.std)})
        model.labels |= labels or {}
        model._check_tasks(config)
        return model

    def normalise_as(self, moments: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        """Expect images of another mean and deviation, one number 0–255 a channel: those of weights to be loaded."""
        self.mean.copy_(torch.tensor(moments[0]).view(1, -1, 1, 1))
        self.std.copy_(torch.tensor(moments[1]).view(1, -1, 1, 1))
        if self.config is not None:
            self.config = self.config.model_copy(update={"normalisation": moments})

    def save_pretrained(self, folder: str | Path, *, remedy: str = "make room, or choose another folder") -> None:
        """Write ``config.json`` and ``model.safetensors``, each whole or not at all.

        Args:
            folder: Where to; it is made if need be.
            remedy: What the error says to do where that cannot be written.

        Raises:
            UsageError: The folder cannot be written, the network was put together by hand, or a task's head or labels
                are of another number of classes than it was built for.
        """
        if self.config is None:
            raise UsageError("a network put together by hand has no configuration to save: build it with from_config")
        self._check_tasks(self.config)
        write_model(folder, self.config, self.labels, self.state_dict(), remedy)

    def _check_tasks(self, config: ModelConfig) -> None:
        heads = dict(self.heads.items())
        for task in (*config.tasks, *heads):
            built, head = config.tasks.get(task, 0), getattr(heads.get(task), "num_classes", 0)
            named = self.labels[task].num_classes if task in self.labels else 0
            if not built == head == named:
                raise UsageError(
                    f"task {task!r} was built for {built} classes, its head scores {head}, its labels name {named}: "
                    f"build the network for as many classes as it is to have, and give labels with a name for each"
                )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "FCN":
        """Return the network saved in ``folder``, in evaluation mode.

        Raises:
            ModelError: A file is missing, damaged or does not fit; the message names it.
        """
        config, labels, tensors = read_model(folder)
        try:
            model = cls.from_config(config, labels=labels)
        except Exception as error:  # torch and timm have no common base for what values of others' can cause
            reason = in_one_line(error)
            raise ModelError(f"{Path(folder) / CONFIG}: cannot be built here: {reason}") from error
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = in_one_line(error)
            raise ModelError(f"{Path(folder) / WEIGHTS}: does not fit its {CONFIG} ({reason})") from error
        return model.eval()


def _numbered(classes: int) -> LabelSet:
    """Return a table of nameless classes; 255 is ignored, or 65535 where 255 is a class."""
    return LabelSet.of([f"class {index}" for index in range(classes)], ignore_index=255 if classes <= 255 else 65535)


def _head(config: ModelConfig, trunk: Trunk, num_classes: int) -> SkipHead:
    taps = trunk.ladder_taps(config.finest_stride)
    return SkipHead(
        taps,
        num_classes,
        padding=config.padding,
        scales=[SKIP_SCALES.get(tap.stride, 1.0) for tap in taps] if config.scaled_skips else None,
        learnable_upsampling=config.learnable_upsampling,
        global_context=config.global_context,
    )
