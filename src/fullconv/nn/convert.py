"""Fully connected layers as convolutions and back: what makes a classifier dense."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import skip_init
from torchvision.models import VGG, AlexNet, GoogLeNet, ResNet

from ..errors import GeometryError, UsageError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
_SEARCHED = 512  # pixels beyond a size that does not fit in which the next one that does is looked for


def linear_to_conv(
    linear: nn.Linear, channels: int, size: tuple[int, int] = (1, 1), dilation: int | tuple[int, int] = 1
) -> nn.Conv2d:
    """Return the convolution that computes ``linear`` at every position of a feature map.

    Args:
        linear: Fully connected layer over a flattened (C order) channels×height×width map.
        channels: Channels of that map.
        size: Height and width of that map: the kernel's size.
        dilation: Distance of the map's pixels in the feature that the convolution will see.

    Raises:
        GeometryError: The layer does not take channels × height × width inputs.

    Source: Long, Shelhamer & Darrell 2015, section 3.1.

    >>> linear_to_conv(nn.Linear(12, 5), 3, (2, 2)).weight.shape
    torch.Size([5, 3, 2, 2])
    """
    height, width = size
    if linear.in_features != channels * height * width:
        raise GeometryError(
            f"linear_to_conv: the layer takes {linear.in_features} inputs, but {channels}×{height}×{width} is "
            f"{channels * height * width}; give the channels and size of the map that was flattened"
        )
    weight = linear.weight
    conv: nn.Conv2d = _blank(
        nn.Conv2d,
        channels,
        linear.out_features,
        (height, width),
        dilation=dilation,
        bias=linear.bias is not None,
        like=weight,
    )
    _fill(conv, weight.reshape(conv.weight.shape), linear.bias)
    return conv


def conv_to_linear(conv: nn.Conv2d, input_size: tuple[int, int]) -> nn.Linear:
    """Return the fully connected layer that computes ``conv`` on inputs of one size: sparse, with shared weights.

    Input and output are flattened in C order. The weight has (channels × pixels) of the output times those of the
    input: meant for small maps.

    Args:
        conv: Any stride, padding, dilation and groups, with or without bias.
        input_size: Height and width of the input.

    Raises:
        GeometryError: The convolution has no output for so small an input.

    Source: Long, Shelhamer & Darrell 2015, section 3.1, read the other way.
    """
    inputs = conv.in_channels * input_size[0] * input_size[1]
    bare = copy.deepcopy(conv)
    bare.bias = None
    weight = conv.weight
    units = torch.eye(inputs, device=weight.device, dtype=weight.dtype).reshape(-1, conv.in_channels, *input_size)
    try:
        with torch.no_grad():
            responses = bare(units)
    except RuntimeError as error:
        raise GeometryError(
            f"conv_to_linear: {conv} has no output for a {input_size[0]}×{input_size[1]} input; use a larger one"
        ) from error
    pixels = responses.shape[-2] * responses.shape[-1]
    bias = None if conv.bias is None else conv.bias.repeat_interleave(pixels)
    linear: nn.Linear = _blank(
        nn.Linear,
        inputs,
        conv.out_channels * pixels,
        bias=bias is not None,
        like=weight,
    )
    _fill(linear, responses.flatten(1).T, bias)
    return linear


def convolutionize(classifier: nn.Module, input_size: tuple[int, int]) -> nn.Sequential:
    """Return the dense form of a torchvision classifier: for a larger image, a map of answers in one pass.

    Supports AlexNet, VGG (with and without batch normalisation), GoogLeNet (without its auxiliary classifiers) and
    every ResNet. The adaptive average pooling becomes a pooling of fixed windows with stride 1, and each fully
    connected layer a convolution. The result is a copy in evaluation mode; it takes the classifier's own input.

    At ``input_size`` the map is 1×1 and equals the classifier. On a larger image its pixel (i, j) is the answer for
    the crop of ``input_size`` at (i, j) × the trunk's stride. That is exactly the classifier on the crop **if the
    trunk pads nothing** (a pooling that rounds up pads too). All four families do pad, and then it is not: around its
    crop the classifier sees zeros where the dense form sees the neighbouring pixels, and every crop of a larger image
    has such a side. They are equal at ``input_size`` alone.

    Args:
        classifier: A torchvision model; it is not changed.
        input_size: Height and width that the classifier is used at (its "native" size), such as (224, 224).

    Returns:
        A module that maps n×c×h×w images to n×k×h'×w' logits; its parts are ``trunk``, ``pool`` (where one is needed)
        and ``head``.

    Raises:
        UsageError: The classifier is of another kind, or one of its parts was replaced by something unknown.
        GeometryError: ``input_size`` is too small, or its feature does not divide into the pooling's windows.

    Source: Long, Shelhamer & Darrell 2015, sections 3.1 and 4.1.
    """
    trunk, pooling, layers = _parts(classifier)
    trunk = copy.deepcopy(trunk).eval()
    channels, *feature = _feature_shape(trunk, input_size)
    cells = _pooled_size(pooling, (feature[0], feature[1]))
    if any(side % cell for side, cell in zip(feature, cells, strict=True)):
        raise GeometryError(_uneven(trunk, input_size, feature, cells))
    window = feature[0] // cells[0], feature[1] // cells[1]
    parts: OrderedDict[str, nn.Module] = OrderedDict(trunk=trunk)
    if window != (1, 1):
        parts["pool"] = nn.AvgPool2d(window, stride=1)
    parts["head"] = _dense_head(layers, channels, cells, window)
    return nn.Sequential(parts).eval()


def first_conv(module: nn.Module) -> nn.Conv2d:
    """Return the first convolution of ``module``, in module order.

    Raises:
        UsageError: There is none.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer
    raise UsageError(f"{type(module).__name__} has no convolution: give a convolutional network")


def widen_first_conv(module: AnyModule, in_channels: int) -> AnyModule:
    """Return a copy of ``module`` whose first convolution, in module order, takes ``in_channels`` channels.

    More channels: the old ones keep their weights, each new one gets their mean. Fewer: each gets the mean times
    old ÷ new, so that a grey image gives the same response as it did in colour (one channel: the sum).

    Raises:
        UsageError: There is no convolution, it is grouped, or ``in_channels`` is below 1.

    Source: Long, Shelhamer & Darrell 2015, section 5 (NYUDv2: early fusion of colour and depth).
    """
    module = copy.deepcopy(module)
    conv = first_conv(module)
    if in_channels == conv.in_channels:
        return module
    if conv.groups != 1 or in_channels < 1:
        raise UsageError(
            f"cannot give {type(module).__name__} {in_channels} input channels: there must be at least 1, and its "
            f"first convolution must not be grouped (it is {conv})"
        )
    weight = _with_channels(conv.weight.detach(), in_channels)
    conv.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
    conv.in_channels = in_channels
    return module


class InputTransform(nn.Module):
    """torchvision's change of normalisation, from ImageNet's to mean and deviation 0.5, for weights from TensorFlow.

    Source: torchvision ``GoogLeNet._transform_input``.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("scale", (deviation / 0.5).reshape(3, 1, 1))
        self.register_buffer("shift", ((mean - 0.5) / 0.5).reshape(3, 1, 1))

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Return the image in the other normalisation."""
        return image * self.scale + self.shift


def _blank(kind: type[AnyModule], *args: Any, like: Tensor, **options: Any) -> AnyModule:
    # Weights that are about to be overwritten are neither drawn (fc6 has 10⁸) nor taken from the random stream.
    layer: AnyModule = skip_init(kind, *args, device=like.device, dtype=like.dtype, **options)  # type: ignore[no-untyped-call]
    return layer


def _fill(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)


def _with_channels(weight: Tensor, channels: int) -> Tensor:
    old = weight.shape[1]
    mean = weight.mean(1, keepdim=True)
    if channels < old:
        return mean.repeat(1, channels, 1, 1) * (old / channels)
    return torch.cat([weight, mean.expand(-1, channels - old, -1, -1)], 1)


def _parts(classifier: nn.Module) -> tuple[nn.Sequential, nn.Module, list[nn.Module]]:
    """Return trunk, pooling, and the layers behind it."""
    if isinstance(classifier, (AlexNet, VGG)):
        head = classifier.classifier
        trunk = OrderedDict(features=classifier.features)
        layers = list(head) if isinstance(head, nn.Sequential) else [head]
    elif isinstance(classifier, ResNet):
        trunk, layers = _children_before(classifier), [classifier.fc]
    elif isinstance(classifier, GoogLeNet):
        trunk, layers = _children_before(classifier), [classifier.dropout, classifier.fc]
        if classifier.transform_input:
            trunk = OrderedDict(transform_input=_input_transform(classifier), **trunk)
    else:
        raise UsageError(
            f"convolutionize: cannot convert {type(classifier).__name__}; it knows torchvision's AlexNet, VGG, "
            "GoogLeNet and ResNet (for others, use linear_to_conv on their fully connected layers)"
        )
    return nn.Sequential(trunk), classifier.avgpool, layers


def _children_before(classifier: nn.Module) -> "OrderedDict[str, nn.Module]":
    rest = ("aux1", "aux2", "avgpool", "dropout", "fc")
    return OrderedDict((name, child) for name, child in classifier.named_children() if name not in rest)


def _input_transform(classifier: nn.Module) -> InputTransform:
    parameter = next(classifier.parameters())
    return InputTransform().to(parameter.device, parameter.dtype)


def _feature_shape(trunk: nn.Module, size: Sequence[int]) -> list[int]:
    """Return channels, height and width of the trunk's feature, without computing it."""
    first = first_conv(trunk)
    tensors = chain(trunk.named_parameters(), trunk.named_buffers())
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    image = torch.empty(1, first.in_channels, *size, device="meta", dtype=first.weight.dtype)
    try:
        feature: Tensor = functional_call(trunk, state, (image,))
    except RuntimeError as error:
        raise GeometryError(
            f"convolutionize: input_size {size[0]}×{size[1]} is too small for the trunk's layers; use a larger one"
        ) from error
    return list(feature.shape[1:])


def _pooled_size(pooling: nn.Module, feature: tuple[int, int]) -> tuple[int, int]:
    if isinstance(pooling, nn.Identity):
        return feature
    if not isinstance(pooling, nn.AdaptiveAvgPool2d):
        raise UsageError(
            f"convolutionize: avgpool is {pooling}; it must be torchvision's AdaptiveAvgPool2d, or nn.Identity"
        )
    asked: Any = pooling.output_size
    height, width = asked if isinstance(asked, (tuple, list)) else (asked, asked)
    return height or feature[0], width or feature[1]


def _uneven(trunk: nn.Module, size: Sequence[int], feature: Sequence[int], cells: Sequence[int]) -> str:
    return (
        f"convolutionize: input_size {size[0]}×{size[1]} gives a {feature[0]}×{feature[1]} feature, which does not "
        f"divide into {cells[0]}×{cells[1]} equal windows; use {_next_side(trunk, size, 0, cells)}×"
        f"{_next_side(trunk, size, 1, cells)}, or replace avgpool and the layers behind it"
    )


def _next_side(trunk: nn.Module, size: Sequence[int], axis: int, cells: Sequence[int]) -> int | str:
    """Return the smallest side, from the given one up, whose feature divides evenly."""
    for side in range(size[axis], size[axis] + _SEARCHED):
        tried = [side if index == axis else other for index, other in enumerate(size)]
        if _feature_shape(trunk, tried)[1 + axis] % cells[axis] == 0:
            return side
    return "?"


def _dense_head(
    layers: Sequence[nn.Module], channels: int, cells: tuple[int, int], window: tuple[int, int]
) -> nn.Sequential:
    dense: list[nn.Module] = []
    size, dilation = cells, window if cells != (1, 1) else (1, 1)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            dense.append(linear_to_conv(layer, channels, size, dilation))
            channels, size, dilation = layer.out_features, (1, 1), (1, 1)
        elif next(chain(layer.parameters(), layer.buffers()), None) is None:
            dense.append(copy.deepcopy(layer))
        else:
            raise UsageError(f"convolutionize: cannot convert the classifier's layer {layer}; use nn.Linear")
    return nn.Sequential(*dense)
