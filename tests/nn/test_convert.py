import copy

import pytest
import torch
import torchvision.models as zoo
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from fullconv.errors import GeometryError, UsageError
from fullconv.nn.convert import conv_to_linear, convolutionize, first_conv, linear_to_conv, widen_first_conv
from reference.convolution import convolve

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
close = torch.testing.assert_close


def randomise(module, seed=0):
    """Weights and statistics far from 0 and 1, so that an equality means something."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in [
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.5, 0.5),
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2.0),
            ]:
                nn.init.uniform_(tensor, low, high, generator=generator)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -0.1, 0.1, generator=generator)
    return module.eval()


def assert_same_answer(dense, classifier, image):
    with torch.no_grad():
        expected, ours = classifier(image), dense(image)
    assert ours.shape == (*expected.shape, 1, 1)
    assert expected.std() > 1e-3
    close(ours.flatten(1), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def unpadded(cells=3, norm=False):
    """A classifier of stride 4 whose trunk pads nothing; 30×34 gives a 6×7 feature."""
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3)]
    layers += [nn.BatchNorm2d(8)] if norm else []
    return small_vgg(nn.Sequential(*layers, nn.ReLU(inplace=True), nn.MaxPool2d(2)), 8, cells)


def small_vgg(features, channels, cells):
    """torchvision's VGG around ``features``, with fully connected layers of a few neurons."""
    with torch.device("meta"):  # its own first layer has 10⁸ weights
        model = zoo.VGG(nn.Identity(), init_weights=False)
    rows, columns = cells if isinstance(cells, tuple) else (cells, cells)
    head = [nn.Linear(channels * rows * columns, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 12), nn.ReLU(True)]
    model.features, model.avgpool = features, nn.AdaptiveAvgPool2d(cells)
    model.classifier = nn.Sequential(*head, nn.Linear(12, 5))
    return randomise(model)


def vgg11(cells, norm=False):
    return small_vgg(make_layers(cfgs["A"], norm), 512, cells)


@pytest.mark.parametrize("dilation", [1, 2, (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_to_conv_is_the_layer_at_every_position(bias, dilation):
    down, across = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    linear, x = nn.Linear(4 * 2 * 3, 5, bias=bias), torch.randn(2, 4, 7, 9)
    conv = linear_to_conv(linear, 4, (2, 3), dilation)
    y = conv(x)
    assert y.shape[-2:] == (7 - down, 9 - 2 * across)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            window = x[:, :, i : i + down + 1 : down, j : j + 2 * across + 1 : across]
            close(y[:, :, i, j], linear(window.flatten(1)))


def test_linear_to_conv_keeps_precision_and_leaves_the_random_stream_alone():
    linear = nn.Linear(12, 5).half()
    before = torch.get_rng_state()
    assert linear_to_conv(linear, 3, (2, 2)).weight.dtype == torch.float16
    assert torch.equal(before, torch.get_rng_state())


def test_linear_to_conv_that_does_not_fit():
    with pytest.raises(GeometryError, match="takes 13 inputs, but 3×2×2 is 12"):
        linear_to_conv(nn.Linear(13, 5), 3, (2, 2))


@settings(deadline=None, max_examples=30)
@given(
    kernel=pairs,
    stride=pairs,
    padding=pairs,
    dilation=pairs,
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)),
)
def test_conv_to_linear_is_the_loop_version(kernel, stride, padding, dilation, groups, bias, size):
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    conv = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups, bias)
    x = torch.randn(2, *size)
    offsets = conv.bias.detach().numpy() if bias else [0.0] * 4
    expected = convolve(x.numpy(), conv.weight.detach().numpy(), offsets, stride, padding, dilation, groups)
    linear = conv_to_linear(conv, size)
    assert (linear.bias is not None) == bias
    close(linear(x.flatten()).detach().double(), torch.from_numpy(expected).flatten(), rtol=0, atol=1e-5)


def test_conv_to_linear_is_sparse_and_shares_weights():
    weight = conv_to_linear(nn.Conv2d(1, 1, 3, bias=False), (6, 6)).weight
    assert weight.shape == (16, 36)
    assert (weight != 0).sum(1).unique().tolist() == [9]
    assert len(weight[weight != 0].unique()) == 9


def test_conv_to_linear_undoes_linear_to_conv():
    linear = nn.Linear(2 * 3 * 4, 5)
    back = conv_to_linear(linear_to_conv(linear, 2, (3, 4)), (3, 4))
    assert torch.equal(back.weight, linear.weight)
    assert torch.equal(back.bias, linear.bias)


def test_conv_to_linear_without_output():
    with pytest.raises(GeometryError, match="2×9"):
        conv_to_linear(nn.Conv2d(1, 1, 3), (2, 9))


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: zoo.alexnet(num_classes=5), (224, 224)),
        (lambda: vgg11(7), (224, 224)),
        (lambda: vgg11((1, 2), norm=True), (64, 128)),
        (lambda: zoo.googlenet(num_classes=5, init_weights=False), (224, 224)),
        (lambda: zoo.googlenet(num_classes=5, init_weights=False, transform_input=True, aux_logits=False), (65, 97)),
        (lambda: zoo.resnet18(num_classes=5), (224, 224)),
        (lambda: zoo.resnet50(num_classes=5), (64, 96)),
        (lambda: zoo.resnext50_32x4d(num_classes=5), (33, 65)),
    ],
    ids=["alexnet", "vgg11", "vgg11_bn", "googlenet", "googlenet-transform", "resnet18", "resnet50", "resnext50"],
)
def test_dense_form_is_the_classifier_at_its_native_size(build, size):
    classifier = randomise(build())
    assert_same_answer(convolutionize(classifier, size), classifier, torch.randn(2, 3, *size))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn", "vgg16", "vgg19", "vgg19_bn", "resnet101", "wide_resnet50_2"])
def test_large_dense_form_is_the_classifier_at_its_native_size(name):
    with torch.device("meta"):
        classifier = zoo.get_model(name, num_classes=5)
    classifier = randomise(classifier.to_empty(device="cpu"))
    assert_same_answer(convolutionize(classifier, (224, 224)), classifier, torch.randn(1, 3, 224, 224))


@pytest.mark.parametrize("cells", [1, 2, 3, 6, (3, 6), (2, 1)])
def test_adaptive_pooling_of_several_windows(cells):
    classifier = unpadded(cells, norm=True)
    assert_same_answer(convolutionize(classifier, (30, 30)), classifier, torch.randn(2, 3, 30, 30))


@pytest.mark.parametrize(("cells", "native"), [(3, (30, 30)), (6, (30, 30)), ((2, 7), (30, 34)), (2, (31, 33))])
def test_map_is_the_classifier_on_shifted_crops_where_nothing_is_padded(cells, native):
    classifier = unpadded(cells, norm=True)
    image = torch.randn(2, 3, native[0] + 8, native[1] + 8)
    with torch.no_grad():
        dense = convolutionize(classifier, native)(image)
        assert dense.shape == (2, 5, 3, 3)
        for i in range(3):
            for j in range(3):
                crop = image[:, :, 4 * i : 4 * i + native[0], 4 * j : 4 * j + native[1]]
                close(dense[:, :, i, j], classifier(crop), rtol=0, atol=1e-5)


def test_map_differs_from_crops_where_the_trunk_pads():
    """What the docstring says of padded networks."""
    classifier = unpadded(3)
    classifier.features[0].padding = (1, 1)
    native, image = (28, 28), torch.randn(1, 3, 36, 36)
    with torch.no_grad():
        dense = convolutionize(classifier, native)(image)
        crops = [[classifier(image[:, :, 4 * i :, 4 * j :][..., :28, :28]) for j in range(3)] for i in range(3)]
    assert dense.shape[-2:] == (3, 3)
    assert all((dense[0, :, i, j] - crops[i][j][0]).abs().max() > 1e-3 for i in range(3) for j in range(3))


def test_result_is_a_copy_in_evaluation_mode():
    classifier = unpadded().train()
    before = copy.deepcopy(classifier.state_dict())
    dense = convolutionize(classifier, (30, 30))
    assert classifier.training
    assert not any(layer.training for layer in dense.modules())
    assert sum(isinstance(layer, nn.Dropout) for layer in dense.modules()) == 1
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())


def test_identity_for_a_pooling():
    classifier = unpadded()
    classifier.avgpool, classifier.classifier[0] = nn.Identity(), nn.Linear(8 * 6 * 7, 16)
    dense = convolutionize(classifier, (30, 34))
    assert_same_answer(dense, classifier, torch.randn(2, 3, 30, 34))
    assert [name for name, _ in dense.named_children()] == ["trunk", "head"]


def test_uneven_windows_and_the_size_that_would_do():
    with pytest.raises(GeometryError, match=r"200×230 gives a 6×7 feature.*7×7 equal windows; use 224×230"):
        convolutionize(vgg11(7), (200, 230))


def test_upsampling_pooling_is_refused():
    with pytest.raises(GeometryError, match="2×2 feature"):
        convolutionize(unpadded(3), (14, 14))


def test_size_too_small_for_the_trunk():
    with pytest.raises(GeometryError, match="4×4 is too small"):
        convolutionize(unpadded(), (4, 4))


def test_unknown_classifier():
    with pytest.raises(UsageError, match=r"MobileNetV2; it knows.*AlexNet, VGG, GoogLeNet and ResNet"):
        convolutionize(zoo.mobilenet_v2(), (224, 224))


def test_unknown_parts():
    classifier = unpadded()
    classifier.avgpool = nn.AdaptiveMaxPool2d(3)
    with pytest.raises(UsageError, match="AdaptiveMaxPool2d"):
        convolutionize(classifier, (30, 30))
    classifier = unpadded()
    classifier.classifier[2] = nn.BatchNorm1d(16)
    with pytest.raises(UsageError, match="BatchNorm1d"):
        convolutionize(classifier, (30, 30))


def test_first_conv():
    conv = nn.Conv2d(3, 4, 1)
    assert first_conv(nn.Sequential(nn.ReLU(), nn.Sequential(conv), nn.Conv2d(4, 4, 1))) is conv
    with pytest.raises(UsageError, match="ReLU has no convolution"):
        first_conv(nn.ReLU())


def test_more_channels_get_the_mean_of_the_old():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    wide = widen_first_conv(net, 6)
    colour, extra = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    old, new = net[0], wide[0]
    assert (new.in_channels, new.stride, old.in_channels) == (6, (2, 2), 3)
    assert torch.equal(new.weight[:, :3], old.weight)
    assert torch.equal(new.bias, old.bias)
    for channel in range(3, 6):
        close(new.weight[:, channel], sum(old.weight[:, colour] for colour in range(3)) / 3)
    grey = extra.sum(1, keepdim=True).expand(-1, 3, -1, -1) / 3
    close(new(torch.cat([colour, extra], 1)), old(colour) + old(grey) - old.bias[:, None, None])


@pytest.mark.parametrize("channels", [1, 2])
def test_fewer_channels_answer_a_grey_image_alike(channels):
    net, grey = nn.Conv2d(3, 4, 3), torch.randn(2, 1, 5, 5)
    narrow = widen_first_conv(net, channels)
    close(narrow(grey.repeat(1, channels, 1, 1)), net(grey.repeat(1, 3, 1, 1)))


def test_same_channels_are_a_copy():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    same = widen_first_conv(net, 4)
    assert torch.equal(same[0].weight, net[0].weight)
    assert same[0].weight is not net[0].weight


def test_frozen_weights_stay_frozen():
    assert not widen_first_conv(nn.Conv2d(3, 4, 1).requires_grad_(False), 4).weight.requires_grad


@pytest.mark.parametrize("net", [nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2)])
def test_cannot_be_widened(net):
    with pytest.raises(UsageError, match=type(net).__name__):
        widen_first_conv(net, 5)
