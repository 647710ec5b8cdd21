"""What a network is made of, as plain values: the part of a model folder that a person can read."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import nn

from ..trunks import Padding

Positive = Annotated[int, Field(ge=1)]


class Architecture(BaseModel):
    """What is chosen of a network, whatever its images and classes: in a model folder, and in a recipe.

    Attributes:
        trunk: Name of the trunk, such as ``vgg16`` or ``timm:tf_efficientnet_lite0``.
        finest_stride: 32, 16, 8 or 4: the finest tap that is scored.
        padding: ``paper`` or ``same``.
        context: ``fc``, ``none``, the width of a light head, or null for the trunk's default.
        dropout: Probability of dropping an element of the context.
        scaled_skips: FCN-8s at once: fixed factors on the finer taps before their scores.
        learnable_upsampling: Train the bilinear kernels.
        global_context: Hidden width of a bias for every class from the mean of the coarsest tap; 0 for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trunk: str
    finest_stride: Positive = 8
    padding: Padding = "same"
    context: Positive | Literal["fc", "none"] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    scaled_skips: bool = False
    learnable_upsampling: bool = False
    global_context: Annotated[int, Field(ge=0)] = 0


class ModelConfig(Architecture):
    """Everything needed to build a network again, but for its weights.

    Attributes:
        tasks: Number of classes of each task.
        in_channels: Channels of the input image.
        input_scale: How many times as large the trunk sees an image; logits are brought back to the image's size.
        normalisation: Mean and deviation of each channel in 0–255; null for the trunk's own.
        bands: Which bands of an image file are the channels, from 1; null for red, green, blue; none of them for
            a stack of several files.
        value_range: The values in an image file that become 0 and 255; null for 0 and their integer type's largest.
    """

    tasks: dict[str, Positive] = Field(min_length=1)
    in_channels: Positive = 3
    input_scale: Annotated[float, Field(gt=0, le=8)] = 1.0
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    bands: tuple[Positive, ...] | None = None
    value_range: tuple[float, float] | None = None

    @field_validator("tasks")
    @classmethod
    def _may_name_layers(cls, tasks: dict[str, int]) -> dict[str, int]:
        for task in tasks:
            if not task or "." in task or hasattr(nn.ModuleDict(), task):
                raise ValueError(f"{task!r} is no name for a task, as torch can call no layer so; choose another")
        return tasks

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        for values in self.normalisation or ():
            if len(values) != self.in_channels:
                raise ValueError(f"normalisation has {len(values)} values for {self.in_channels} channels")
        if self.value_range is not None and not 0 < self.value_range[1] - self.value_range[0] < math.inf:
            raise ValueError(f"value_range is {list(self.value_range)}, not two ascending numbers")
        return self
