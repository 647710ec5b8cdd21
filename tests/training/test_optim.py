import math

import pytest
import torch

from fullconv import fcn8s
from fullconv.training.config import OptimSection
from fullconv.training.optim import WeightAverage, build_optimiser, parameter_groups, rate_factor, trunk_layers


@pytest.fixture(scope="module")
def model():
    return fcn8s("small", 2)


def group_of(model, groups, name):
    parameter = dict(model.named_parameters())[name]
    return next(group for group in groups if any(parameter is other for other in group["params"]))


def test_every_parameter_is_in_one_group(model):
    groups = parameter_groups(model, OptimSection())
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())


def test_the_papers_multipliers(model):
    optim = OptimSection(rate=1e-3, bias_rate=2.0, weight_decay=5e-4, trunk_rate=0.5)
    groups = parameter_groups(model, optim)
    weight = group_of(model, groups, "heads.semantic.score.stage5.weight")
    bias = group_of(model, groups, "heads.semantic.score.stage5.bias")
    trunk = group_of(model, groups, "trunk.body.stage1.0.0.weight")
    assert (weight["lr"], weight["weight_decay"]) == (1e-3, 5e-4)
    assert (bias["lr"], bias["weight_decay"]) == (2e-3, 0)
    assert (trunk["lr"], trunk["weight_decay"]) == (5e-4, 5e-4)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vgg16", 13),
        ("vgg16_bn", 13),
        ("alexnet", 5),
        ("googlenet", 3 + 9),
        ("resnet18", 1 + 8),
        ("resnet50", 1 + 16),
        ("timm:resnet18", 1 + 8),
        ("timm:tf_efficientnet_lite0", 1 + 16),
        ("timm:regnety_002", 1 + 13),
        ("timm:resnetv2_50", 1 + 16),  # stages that are no chains, of one chain
        ("timm:darknet53", 1 + 5 + 23),  # … and a convolution beside it
        ("timm:starnet_s1", 1 + 3 + 16),  # blocks of parts of one kind
    ],
)
def test_layers_are_convolutions_or_blocks(on_meta, name, layers):
    """As many as the papers count, with the stem; each learns at its share of the rate of the one after it."""
    model = on_meta(fcn8s, name, num_classes=2, context="none")
    found = trunk_layers(model.trunk.body)
    assert len(found) == layers
    parameters = [parameter for layer in found for parameter in layer]
    assert [id(p) for p in parameters] == [id(p) for p in model.trunk.body.parameters()], "each once, in order"
    groups = parameter_groups(model, OptimSection(rate=1.0, trunk_rate=0.5, layer_decay=0.5))
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for below, layer in enumerate(reversed(found), 1):
        assert {rate[id(parameter)] for parameter in layer} == {0.5 * 0.5**below}


@pytest.mark.parametrize("schedule", ["poly", "onecycle", "constant"])
def test_schedules_rise_then_do_not_rise_again(schedule):
    optim = OptimSection(schedule=schedule, warmup=0.1)
    factors = [rate_factor(optim, step, 100) for step in range(100)]
    peak = factors.index(max(factors))
    assert 0 < factors[0] < 0.2
    assert peak <= 11
    assert all(0 <= after <= before for before, after in zip(factors[peak:], factors[peak + 1 :], strict=False))
    assert factors[-1] == 1 if schedule == "constant" else factors[-1] < 0.05


def test_one_cycle_ends_as_half_a_cosine():
    optim = OptimSection(schedule="onecycle", warmup=0)
    expected = [(1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)]
    assert [rate_factor(optim, step, 100) for step in range(100)] == pytest.approx(expected)


def test_average_without_decay_is_the_network_itself(model):
    assert WeightAverage(model, 0.0).model is model


def test_average_follows_a_slow_reference():
    model = fcn8s("small", 2)
    average = WeightAverage(model, 0.9)
    weight = model.heads["semantic"].score["stage5"].weight
    expected = weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            weight.add_(1.0)
        average.update()
        kept = min(0.9, step / (step + 9))
        expected = kept * expected + (1 - kept) * weight.detach()
    assert torch.allclose(average.model.heads["semantic"].score["stage5"].weight, expected, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_step_is_one_pass_over_the_weights(model, optimiser):
    """But for shares of them."""
    assert build_optimiser(model, OptimSection(optimiser=optimiser)).defaults["fused"]
    assert not build_optimiser(model, OptimSection(optimiser=optimiser, sharded=True)).defaults["fused"]


def test_adams_memory_is_as_long_as_ever():
    """Of gradients as ``momentum`` says, of their squares as Kingma & Ba have it."""
    groups = build_optimiser(fcn8s("small", 2), OptimSection(momentum=0.8)).param_groups
    assert {group["betas"] for group in groups} == {(0.8, 0.999)}
