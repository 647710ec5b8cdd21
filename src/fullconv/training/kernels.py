"""Layers of a network computed in another way, to the same effect: faster, or with less memory."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MANY_WEIGHTS, FEW_CELLS = 10**7, 768
"""From so many weights, up to so many cells, ``as_product`` is faster (measured: docs/results.md)."""


def fastest_layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return how weights and features should lie: channels last, but on processors where that is slow for them.

    With AVX2 alone, oneDNN takes two to four times as long for gradients of the weights of dense kernels larger than
    1×1 that lie so: a step of FCN-8s on VGG16 5.5 s in place of 3.4 s.
    """
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    dense = [layer for layer in layers if layer.groups == 1 and layer.kernel_size != (1, 1)]
    return torch.contiguous_format if slow and 2 * len(dense) > len(layers) else torch.channels_last


def relu6(layer: nn.ReLU6, x: Tensor) -> Tensor:
    """Return what ``layer`` returns, in place; nothing of its input is kept for the backward pass."""
    output: Tensor = _Relu6.apply(x) if x.requires_grad else type(layer).forward(layer, x)
    return output


class _Relu6(torch.autograd.Function):
    """ReLU6 in place, whose gradient needs only its result, which the next layer keeps anyway.

    Torch's keeps a copy of what it was given: of EfficientNet-Lite0 on eight crops of 384×384, 1.87 GB, not 1.48 GB.
    """

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.mark_dirty(x.clamp_(0, 6))
        context.save_for_backward(x)
        return x

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (result,) = context.saved_tensors
        before: Tensor = torch.ops.aten.hardtanh_backward(gradient, result, 0, 6)
        return before


def is_fully_connected(layer: nn.Conv2d) -> bool:
    """Return whether a convolution was a large fully connected layer, or might have been one: fc6 and fc7."""
    plain = layer.stride == layer.dilation == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    return plain and layer.weight.numel() >= MANY_WEIGHTS


def as_product(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve as the fully connected layer that it was, at every cell: faster in bf16 where the cells are few.

    Of an image of 360×480, VGG16's fc6 and fc7 take 0.16 s in place of 0.29 s, forwards and backwards.
    """
    height, width = layer.kernel_size
    cells = x.shape[0] * (x.shape[2] - height + 1) * (x.shape[3] - width + 1)
    if not torch.is_autocast_enabled(x.device.type) or cells > FEW_CELLS:
        output: Tensor = type(layer).forward(layer, x)
        return output
    patches = x.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 4, 5, 1).flatten(3)
    weights = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(patches, weights, layer.bias).permute(0, 3, 1, 2)
