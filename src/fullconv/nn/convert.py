import copy

import torch
from torch import nn


def linear_to_conv(linear, channels, size=(1, 1), dilation=1):
    c = nn.Conv2d(channels, linear.out_features, size, dilation=dilation, bias=linear.bias is not None)
    with torch.no_grad():
        c.weight.copy_(linear.weight.reshape(c.weight.shape))
        if c.bias is not None:
            c.bias.copy_(linear.bias)
    return c


def widen_first_conv(module, in_channels):
    module = copy.deepcopy(module)
    conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == in_channels:
        return module
    raise NotImplementedError


def conv_to_linear(*a):
    raise NotImplementedError


def convolutionize(*a):
    raise NotImplementedError
