"""Layers of a network computed in another way, to the same effect: faster, or with less memory."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

MANY_WEIGHTS, FEW_CELLS = 10**7, 768
"""From so many weights, up to so many cells, ``as_product`` is faster (measured: docs/results.md)."""

FAST_COLUMNS = 3
"""Of a depthwise kernel, for whose gradients oneDNN has a fast way in bf16 (measured there)."""

_Window = tuple[tuple[int, int], tuple[int, int]]
"""Stride and padding."""


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


def depthwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve as ``layer`` does, whatever it pads; in bf16, if it is depthwise, with gradients that are fast there."""
    with _FastGradients() if torch.is_autocast_enabled("cpu") else nullcontext():
        output: Tensor = type(layer).forward(layer, x)
    return output


class _FastGradients(TorchFunctionMode):
    """Replaces depthwise convolutions within a block, if torch's gradients of them are slow."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not F.conv2d or kwargs or len(args) != 7 or not _is_slow(*args[1:]):
            return function(*args, **(kwargs or {}))
        x, weight, bias, stride, padding = args[:5]
        return _Depthwise.apply(
            x.bfloat16(), weight.bfloat16(), bias if bias is None else bias.bfloat16(), stride, padding
        )


def _is_slow(weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Return whether a convolution is one of those that :class:`_Depthwise` is for."""
    pairs = isinstance(stride, tuple) and isinstance(padding, tuple) and dilation == (1, 1)
    if not pairs or weight.shape[:2] != (groups, 1):
        return False
    within = all(pad < side for pad, side in zip(padding, weight.shape[2:], strict=True))
    return within and (stride != (1, 1) or weight.shape[3] > FAST_COLUMNS)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bf16.

    For two of its gradients oneDNN has no fast kernels, and takes about ten times as long as need be: for that of the
    features under a stride, which is therefore a convolution, without a stride, of the gradient spread out; and for
    that of weights of more than three columns, which are therefore taken three at most at a time.
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        context.save_for_backward(x, weight)
        context.window = (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        of_x, of_weight, of_bias = context.needs_input_grad[:3]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return (
            _gradient_of_features(gradient, x, weight, context.window) if of_x else None,
            _gradient_of_weights(gradient, x, weight, context.window) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def _gradient_of_features(gradient: Tensor, x: Tensor, weight: Tensor, window: _Window) -> Tensor:
    (stride, padding), sides = window, weight.shape[2:]
    if stride == (1, 1):
        return _torchs_gradient(0, gradient, x, weight, window)
    height, width = (size + side - 1 for size, side in zip(x.shape[2:], sides, strict=True))
    spread = gradient.new_zeros(len(x), height, width, len(weight)).permute(0, 3, 1, 2)
    rows, columns = (
        slice(side - 1 - pad, side - 1 - pad + (count - 1) * step + 1, step)
        for side, pad, count, step in zip(sides, padding, gradient.shape[2:], stride, strict=True)
    )
    spread[:, :, rows, columns] = gradient
    return F.conv2d(spread, weight.flip(2, 3), groups=len(weight))


def _gradient_of_weights(gradient: Tensor, x: Tensor, weight: Tensor, window: _Window) -> Tensor:
    columns = weight.shape[3]
    if columns <= FAST_COLUMNS:
        return _torchs_gradient(1, gradient, x, weight, window)
    stride, (above, beside) = window
    reach, left, gradients = (gradient.shape[3] - 1) * stride[1], 0, list[Tensor]()
    padded = F.pad(x, (beside, beside))
    for part in weight.tensor_split(-(-columns // FAST_COLUMNS), dim=3):
        seen = padded[..., left : left + reach + part.shape[3]]
        gradients.append(_torchs_gradient(1, gradient, seen, part, (stride, (above, 0))))
        left += part.shape[3]
    return torch.cat(gradients, 3)


def _torchs_gradient(of: int, gradient: Tensor, x: Tensor, weight: Tensor, window: _Window) -> Tensor:
    """Return the gradient of the features (0) or the weights (1) as torch computes it."""
    (stride, padding), groups, wanted = window, len(weight), [of == 0, of == 1, False]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), groups, wanted
    )
    return found[of]


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
    if not torch.is_autocast_enabled("cpu") or cells > FEW_CELLS:
        output: Tensor = type(layer).forward(layer, x)
        return output
    patches = x.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 4, 5, 1).flatten(3)
    weights = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(patches, weights, layer.bias).permute(0, 3, 1, 2)
