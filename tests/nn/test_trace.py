from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fullconv import geometry_of
from fullconv.errors import GeometryError
from fullconv.geometry import LayerSpec, chain


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


def output(module, **options):
    return geometry_of(module, **options).outputs["output"]


def facts(feature):
    return feature.stride, feature.offset, feature.receptive_field


@pytest.mark.parametrize(
    ("layer", "spec"),
    [
        (nn.Conv2d(3, 2, 3, 2, 1), LayerSpec(3, 2, (1, 1))),
        (nn.Conv2d(3, 2, 3, padding=2, dilation=2), LayerSpec(3, 1, (2, 2), 2)),
        (nn.ConvTranspose2d(3, 2, 4, 2, 1), LayerSpec(4, 2, (1, 1), transposed=True)),
        (nn.ConvTranspose2d(3, 2, 3, 2, 1, output_padding=1), LayerSpec(3, 2, (1, 0), transposed=True)),
        (nn.MaxPool2d(3, 2, 1), LayerSpec(3, 2, (1, 1))),
        (nn.MaxPool2d(2, 2, ceil_mode=True), LayerSpec(2, 2, ceil=True)),
        (nn.AvgPool2d(2), LayerSpec(2, 2)),
        (nn.ZeroPad2d((1, 2, 1, 2)), LayerSpec(padding=(1, 2))),
        (nn.ReflectionPad2d(3), LayerSpec(padding=(3, 3))),
        (nn.Upsample(scale_factor=2, mode="nearest"), LayerSpec(2, 2, transposed=True)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), LayerSpec(4, 2, (1, 1), transposed=True)),
        (nn.Upsample(scale_factor=3, mode="bilinear"), LayerSpec(5, 3, (1, 1), transposed=True)),
        (nn.LocalResponseNorm(5), LayerSpec()),
        (Lambda(lambda x: x[..., 2:-3, 2:-3]), LayerSpec(padding=(-2, -3))),
        (Lambda(lambda x: x[..., ::2, ::2]), LayerSpec(1, 2)),
        (Lambda(lambda x: x.softmax(1)), LayerSpec()),
        (Lambda(lambda x: x - x.mean(1, keepdim=True)), LayerSpec()),
    ],
)
def test_single_operations(layer, spec):
    field = chain([spec])
    assert facts(output(layer, in_channels=3)) == (field.stride, field.offset, field.receptive_field)


@pytest.mark.parametrize("kind", [nn.GELU, nn.LogSigmoid, nn.PReLU, nn.Sigmoid, nn.Softplus, nn.Tanh])
def test_activations_leave_positions_alone(kind):
    assert facts(output(nn.Sequential(nn.Conv2d(3, 4, 3, 2), kind()))) == (2, 1, 3)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        nn.CELU,
        nn.ELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.LeakyReLU,
        nn.Mish,
        nn.ReLU,
        nn.ReLU6,
        nn.RReLU,
        nn.SELU,
        nn.SiLU,
        partial(nn.Threshold, 0.0, 0.0),
    ],
)
def test_so_do_those_in_place(kind, inplace):
    assert facts(output(nn.Sequential(nn.Conv2d(3, 4, 3, 2), kind(inplace=inplace)))) == (2, 1, 3)


def test_sizes_of_a_feature_follow_its_layers():
    feature = output(nn.Sequential(nn.Conv2d(3, 4, 5, 2, 2), nn.MaxPool2d(2, ceil_mode=True)))
    assert [feature.y.size(size) for size in (1, 2, 9, 10)] == [1, 1, 3, 3]
    assert feature.channels == 4


def test_axes_may_differ():
    feature = output(nn.Conv2d(3, 1, (1, 7), (1, 2), (0, 3)))
    assert feature.stride == (1, 2)
    assert feature.receptive_field == (1, 7)


def test_residuals_and_concatenations_take_the_union():
    wide, narrow = nn.Conv2d(3, 3, 5, padding=2), nn.Conv2d(3, 3, 1)
    added = output(Lambda(lambda x, a, b: a(x) + b(x), wide, narrow))
    joined = output(Lambda(lambda x, a, b: torch.cat([a(x), b(x)], 1), wide, narrow))
    assert facts(added) == facts(joined) == (1, 0, 5)
    assert joined.channels == 6


def test_branches_that_do_not_align_are_reported_by_name():
    half_pixel, centred = nn.AvgPool2d(2), nn.Conv2d(3, 3, 3, 2, 1)
    net = nn.Sequential(nn.ReLU(), Lambda(lambda x, a, b: a(x) + b(x), half_pixel, centred))
    geometry = geometry_of(net)
    assert "do not align: 2·i + 1/2 against 2·i + 0" in geometry.unknown["1"]
    assert geometry.lost == ("output",)
    assert "1" not in geometry


def test_global_pooling_is_reported_and_a_gate_keeps_the_grid():
    gate = Lambda(lambda x, conv: x * conv(x.mean((2, 3), keepdim=True)).sigmoid(), nn.Conv2d(4, 4, 1))
    geometry = geometry_of(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), gate))
    assert geometry.unknown["1"].startswith("global pooling")
    assert facts(geometry["1"]) == (2, 0, None)


def test_linear_layers_are_reported():
    geometry = geometry_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    assert geometry.unknown["1"].startswith("global pooling")
    assert geometry.unknown["3"].startswith("linear layer")


def test_attention_is_reported():
    def attend(x):
        rows = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(rows, rows, rows)

    assert geometry_of(Lambda(attend), (8, 8), 3).lost == ("output",)


def test_a_linear_layer_over_channels_is_a_1x1_convolution():
    pointwise = Lambda(lambda x, linear: linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.Linear(3, 5))
    feature = output(nn.Sequential(nn.MaxPool2d(2), pointwise), in_channels=3)
    assert facts(feature) == (2, Fraction(1, 2), 2)
    assert feature.channels == 5


def test_rows_times_weights_are_a_1x1_convolution():
    """As torch 2.10 computes a linear layer over channels that do not lie together."""

    def rows_times_weights(x, linear):
        rows = x.squeeze(0).permute(1, 2, 0)
        return torch.bmm(rows, linear.weight.T.expand(len(rows), 3, 5)).permute(2, 0, 1).unsqueeze(0)

    feature = output(nn.Sequential(nn.MaxPool2d(2), Lambda(rows_times_weights, nn.Linear(3, 5))), in_channels=3)
    assert facts(feature) == (2, Fraction(1, 2), 2)
    assert feature.channels == 5


@pytest.mark.parametrize(
    "product",
    [
        lambda x: torch.bmm(x, torch.empty(3, x.shape[2], 5, device="meta")),
        lambda x: torch.bmm(torch.empty(3, 5, x.shape[1], device="meta"), x),
        lambda x: torch.bmm(torch.empty(x.shape[1], 5, x.shape[2], device="meta"), x.permute(1, 2, 0)),
        lambda x: torch.bmm(x.permute(1, 2, 0), x.permute(1, 0, 2)),
    ],
    ids=["along width", "along height", "along width, channels last", "attention"],
)
def test_products_along_an_axis_of_the_image_are_reported(product):
    geometry = geometry_of(nn.Sequential(Lambda(lambda x: product(x.squeeze(0)).unsqueeze(0))), (32, 32), 3)
    assert geometry.lost == ("output",)
    assert geometry.unknown["0"].startswith("attention")


def test_normalisation():
    assert output(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).receptive_field == 3
    assert output(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))).receptive_field is None


def test_padding_that_depends_on_the_size_is_marked():
    def same(x, conv):
        pad = [max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in (x.shape[-1], x.shape[-2])]
        return conv(F.pad(x, [pad[0] // 2, pad[0] - pad[0] // 2, pad[1] // 2, pad[1] - pad[1] // 2]))

    even = output(Lambda(same, nn.Conv2d(3, 1, 3, 2)))
    odd = output(Lambda(same, nn.Conv2d(3, 1, 3, 2)), input_size=(255, 255))
    assert (even.offset, even.size_dependent) == (1, True)
    assert odd.offset == 0
    assert not output(nn.Conv2d(3, 1, 3, 2, 1)).size_dependent


def test_interpolation_to_a_fixed_size_is_not_guessed():
    assert geometry_of(Lambda(lambda x: F.interpolate(x, (300, 300))), in_channels=3).lost == ("output",)


def test_adaptive_pooling_is_reported_unless_it_does_nothing():
    assert "adaptive pooling" in geometry_of(nn.Sequential(nn.AdaptiveAvgPool2d(7)), in_channels=3).unknown["0"]
    assert output(nn.AdaptiveAvgPool2d(256), in_channels=3).receptive_field == 1


def test_unknown_operations_are_reported():
    geometry = geometry_of(nn.Sequential(nn.Identity(), Lambda(lambda x: x.cumsum(-1))), in_channels=3)
    assert geometry.unknown["1"] == "operation cumsum is not one whose positions are known"


def test_a_forward_pass_that_stops_keeps_what_came_before():
    geometry = geometry_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 1, 1)))
    assert list(geometry) == ["0"]
    assert geometry.unknown["1"].startswith("stops here")


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"input_size": (4, 5)}, "3×4×5: stops here: .*(Kernel|Output) size"),
        ({"in_channels": 4}, "4×256×256: stops here: .*channel"),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_a_module_that_cannot_run_at_all(options, seen, nested):
    layer = nn.Conv2d(3, 8, 7)
    with pytest.raises(GeometryError, match=f"has no feature of an image {seen}.*; choose another input_size"):
        geometry_of(nn.Sequential(layer) if nested else layer, **options)


def test_the_module_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    geometry_of(net)
    assert net.training
    assert net[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_of_no_account(precision):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
    expected = geometry_of(net)
    assert geometry_of(net.to(precision)) == expected


def test_inference_mode_is_of_no_account():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.AvgPool2d(2))
    expected = geometry_of(net)
    with torch.inference_mode():
        assert geometry_of(net) == expected
        assert torch.is_inference_mode_enabled()


def test_dictionaries_and_lists_of_outputs():
    several = Lambda(lambda x, conv: {"fine": x, "coarse": conv(x)}, nn.Conv2d(3, 1, 2, 2))
    assert list(geometry_of(several).outputs) == ["fine", "coarse"]
    assert list(geometry_of(Lambda(lambda x: [x, x])).outputs) == ["output.0", "output.1"]


def random_network(seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    layers: list[nn.Module] = []
    for _ in range(draw(2, 5)):
        kernel = draw(1, 5)
        if draw(0, 2):
            layers.append(nn.Conv2d(1, 1, kernel, draw(1, 3), draw(0, 2), draw(1, 2), bias=False))
            nn.init.ones_(layers[-1].weight)
        else:
            layers.append(nn.AvgPool2d(kernel, draw(1, 2), min(draw(0, 2), kernel // 2)))
    return nn.Sequential(*layers)


@pytest.mark.parametrize("seed", range(12))
def test_receptive_field_is_what_the_gradient_reaches(seed):
    """Twin: back-propagate from one output; the reached rows are those the field names."""
    net = random_network(seed)
    image = torch.zeros(1, 1, 400, 400, requires_grad=True)
    out = net(image)
    index = out.shape[-1] // 2
    out[0, 0, index, index].backward()
    rows = image.grad[0, 0].sum(1).nonzero().flatten()
    field = output(net, in_channels=1).y
    assert (int(rows[0]), int(rows[-1])) == (field.stride * index + field.first, field.stride * index + field.last)
