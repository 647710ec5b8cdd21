import pytest
import torch

from fullconv.errors import GeometryError
from fullconv.geometry import Field, LayerSpec
from fullconv.models import SkipHead
from fullconv.trunks import Tap


def test_16s_with_a_zero_skip_is_32s_in_two_steps():
    torch.manual_seed(0)
    coarse = Tap("coarse", 4, *[Field().through(LayerSpec(32, 32, ceil=True))] * 2)
    fine = Tap("fine", 3, *[Field().through(LayerSpec(16, 16, ceil=True))] * 2)
    one, two = SkipHead([coarse], 2), SkipHead([coarse, fine], 2)
    torch.nn.init.normal_(two.score["coarse"].weight)
    one.score["coarse"].load_state_dict(two.score["coarse"].state_dict())
    features = {"coarse": torch.randn(1, 4, 6, 6), "fine": torch.randn(1, 3, 12, 12)}
    inside = slice(48, -48)
    step_by_step, at_once = two(features, (192, 192)), one(features, (192, 192))
    scored = one.score["coarse"](features["coarse"])
    twice = two.upscore[1](two.upscore[0](scored))
    assert torch.allclose(step_by_step, twice, atol=1e-5)
    assert (step_by_step - at_once)[..., inside, inside].abs().max() < at_once.abs().max()


def test_scales_reach_the_logits():
    tap = Tap("only", 1, *[Field().through(LayerSpec(2, 2, ceil=True))] * 2)
    quiet, loud = SkipHead([tap], 1, scales=[0.01]), SkipHead([tap], 1)
    for head in (quiet, loud):
        torch.nn.init.ones_(head.score["only"].weight)
    features = {"only": torch.rand(1, 1, 4, 4)}
    assert torch.allclose(quiet(features, (8, 8)) * 100, loud(features, (8, 8)), atol=1e-6)


def test_taps_that_stop_short_are_refused():
    short = Tap("short", 1, *[Field().through(LayerSpec(2, 2))] * 2)
    with pytest.raises(GeometryError):
        SkipHead([short], 2)
