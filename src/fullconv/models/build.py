"""The named networks of the paper, on any trunk."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ..data.labels import DEFAULT_TASK
from ..errors import UsageError
from ..trunks import Weights
from .config import ModelConfig
from .fcn import FCN, SKIP_SCALES


def fcn(
    trunk: str,
    num_classes: int | Mapping[str, int],
    *,
    finest_stride: int = 8,
    trunk_weights: Weights = None,
    **options: Any,
) -> FCN:
    """Return an FCN that scores every tap down to ``finest_stride``: 32, 16, 8 or 4.

    Args:
        trunk: A name in ``fullconv.trunks.TRUNKS``, or ``timm:NAME``.
        num_classes: Number of classes, or a number for each task by name.
        finest_stride: Input pixels between neighbours of the finest tap that is scored.
        trunk_weights: None (fresh), ``"imagenet"`` (downloaded), or the path of a weight file.
        options: Further fields of ``ModelConfig``: ``padding``, ``in_channels``, ``context``, ``dropout``, …

    Returns:
        A module that maps n×c×h×w images (RGB, 0–255) to n×k×h×w logits, or a dictionary of them for several tasks.

    Raises:
        UsageError: The trunk or an option is unknown or out of range.
        ModelError: The weight file cannot be used.

    Source: Long, Shelhamer & Darrell 2015, section 4.2.
    """
    tasks = dict(num_classes) if isinstance(num_classes, Mapping) else {DEFAULT_TASK: num_classes}
    try:
        config = ModelConfig(trunk=trunk, tasks=tasks, finest_stride=finest_stride, **options)
    except ValidationError as error:
        problem = error.errors()[0]
        option = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"option {option}: {problem['msg']} (got {problem['input']!r})") from error
    check_scaled_skips(config)
    return FCN.from_config(config, trunk_weights)


def check_scaled_skips(config: ModelConfig) -> None:
    """Refuse a new network whose finest taps have no factor, and so would be trained far faster than those before.

    Raises:
        UsageError: ``scaled_skips`` is set, and ``finest_stride`` is below 8.
    """
    if config.scaled_skips and config.finest_stride < min(SKIP_SCALES):
        raise UsageError(
            f"scaled_skips has factors for the strides 16 and 8, but finest_stride is {config.finest_stride}: "
            f"set finest_stride=8"
        )


def fcn32s(trunk: str, num_classes: int | Mapping[str, int], **options: Any) -> FCN:
    """Return FCN-32s: the coarsest tap alone, upsampled 32 times. Options as for :func:`fcn`."""
    return fcn(trunk, num_classes, finest_stride=32, **options)


def fcn16s(trunk: str, num_classes: int | Mapping[str, int], **options: Any) -> FCN:
    """Return FCN-16s: strides 32 and 16 fused. Options as for :func:`fcn`."""
    return fcn(trunk, num_classes, finest_stride=16, **options)


def fcn8s(trunk: str, num_classes: int | Mapping[str, int], **options: Any) -> FCN:
    """Return FCN-8s: strides 32, 16 and 8 fused. Options as for :func:`fcn`."""
    return fcn(trunk, num_classes, finest_stride=8, **options)


def fcn8s_at_once(trunk: str, num_classes: int | Mapping[str, int], **options: Any) -> FCN:
    """Return FCN-8s for training in one stage: fixed factors keep the finer taps quiet at first.

    Source: the paper's reference implementation (pool4 × 0.01, pool3 × 0.0001).
    """
    return fcn(trunk, num_classes, finest_stride=8, scaled_skips=True, **options)


def fcn4s(trunk: str, num_classes: int | Mapping[str, int], **options: Any) -> FCN:
    """Return FCN-4s: one tap finer than the paper went, to show where fusing stops helping."""
    return fcn(trunk, num_classes, finest_stride=4, **options)
