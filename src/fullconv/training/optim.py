"""Parameter groups, optimisers, schedules, and the running average of the weights."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..models import FCN
from .config import OptimSection
from .runtime import whole

CHAINS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def parameter_groups(model: FCN, optim: OptimSection) -> list[dict[str, Any]]:
    """Return the optimiser's groups: weights decay; biases and normalisations do not, and may learn faster.

    What is frozen, the trunk or upsampling, has no group.

    Source: Long, Shelhamer & Darrell 2015, section 4.3 (twice the rate for biases); its reference implementation (which
    do not decay).
    """
    factors = trunk_factors(model, optim)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((factors.get(name, 1.0), parameter.ndim < 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": optim.rate * factor * (optim.bias_rate if is_bias else 1.0),
            "weight_decay": 0.0 if is_bias else optim.weight_decay,
        }
        for (factor, is_bias), parameters in groups.items()
    ]


def trunk_factors(model: FCN, optim: OptimSection) -> dict[str, float]:
    """Return by what the rate of every parameter in the trunk's body is multiplied.

    Source: Howard & Ruder 2018, section 3.2 (rates that fall layer by layer); Clark et al. 2020, appendix A (ELECTRA).
    """
    layers = trunk_layers(model.trunk.body)
    depth = {id(parameter): place for place, layer in enumerate(reversed(layers), 1) for parameter in layer}
    return {
        name: optim.trunk_rate * optim.layer_decay ** depth[id(parameter)]
        for name, parameter in model.named_parameters()
        if id(parameter) in depth
    }


def trunk_layers(body: nn.Module) -> list[list[nn.Parameter]]:
    """Return each layer's parameters: of a convolution of VGG and its normalisation, a block of ResNet, and so on."""
    layers: list[list[nn.Parameter]] = []
    for module in _layers(body):
        parameters = list(module.parameters())
        if layers and all(parameter.ndim < 2 for parameter in parameters):
            layers[-1] += parameters  # A normalisation is the convolution's before it.
        else:
            layers.append(parameters)
    return layers


def _layers(module: nn.Module, in_chain: bool = False) -> Iterator[nn.Module]:
    """Yield a module's layers in order: single weighted modules and, inside a chain, whole blocks.

    A chain (``CHAINS``) is always taken apart. Anything else in a chain is one layer, such as a ResNet's BasicBlock,
    unless it holds a chain of blocks itself, as a stage of timm's ResNetV2 does.
    """
    parts, chain = _weighted(module), isinstance(module, CHAINS)
    if not parts or (in_chain and not chain and not any(map(_chains_blocks, module.modules()))):
        yield module
        return
    for part in parts:
        yield from _layers(part, in_chain or chain)


def _chains_blocks(module: nn.Module) -> bool:
    """Return whether a module is a chain of blocks: at least half of its parts hold several weights each.

    A module of two or more parts that are all of one type is a chain, too.
    """
    parts = _weighted(module)
    chain = isinstance(module, CHAINS) or len({type(part) for part in parts}) == 1 < len(parts)
    blocks = [part for part in parts if sum(weight.ndim > 1 for weight in part.parameters()) > 1]
    return chain and 0 < len(parts) <= 2 * len(blocks)


def _weighted(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.children() if next(part.parameters(), None) is not None]


def build_optimiser(model: FCN, optim: OptimSection) -> torch.optim.Optimizer:
    """Return SGD with momentum, or AdamW, over the model's groups.

    Fused: one pass over VGG16's 134 M weights, not several. Not for shares of weights, whose two ranks then end
    elsewhere than one (torch 2.15; seen in tests/training/test_ranks.py).
    """
    groups, fused = parameter_groups(model, optim), not optim.sharded
    if optim.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=optim.rate, momentum=optim.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=optim.rate, betas=(optim.momentum, 0.999), fused=fused)


def rate_factor(optim: OptimSection, step: int, steps: int) -> float:
    """Return the factor on the learning rate at ``step`` of ``steps``: 0–1, after a linear warm-up.

    ``poly`` falls as (1 − t)^0.9, ``onecycle`` as a half cosine; ``constant`` stays (the paper's way).

    Source: Chen et al. 2017, "DeepLab", section 4.1.1 (poly); Loshchilov & Hutter 2017, "SGDR", section 3 (cosine).

    >>> [round(rate_factor(OptimSection(schedule="poly", warmup=0), step, 4), 3) for step in range(4)]
    [1.0, 0.772, 0.536, 0.287]
    """
    warm = optim.warmup * steps
    rise = min(1.0, (step + 1) / (warm + 1))
    if optim.schedule == "constant":
        return rise
    if optim.schedule == "poly":
        return rise * float((1 - step / steps) ** 0.9)
    fall = max(0.0, step - warm) / max(1.0, steps - warm)
    return rise * 0.5 * (1 + math.cos(math.pi * fall))


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Let every group of an optimiser learn at the rate it was built with, times a factor."""
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class WeightAverage:
    """An exponential moving average of a network's weights; early steps count less, so that it needs no warm-up.

    Source: TensorFlow's ``ExponentialMovingAverage``, whose rule this is: (1 + n) / (10 + n) after n other steps.

    Args:
        model: The network that is trained.
        decay: Weight of the past at each step, 0–1; 0 gives the network's own weights.
        apart: Keep a network of its own even then: the other's weights will be shared out among ranks.
    """

    def __init__(self, model: FCN, decay: float, *, apart: bool = False) -> None:
        self.decay = decay
        self.steps = 0
        self.model = copy.deepcopy(model).requires_grad_(False) if decay or apart else model
        self._source = model

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's weights after a step."""
        if self.model is self._source:
            return
        self.steps += 1
        weight = 1 - min(self.decay, self.steps / (self.steps + 9))
        for mine, theirs in zip(self.model.state_dict().values(), self._source.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(whole(theirs), weight)
            else:
                mine.copy_(theirs)
