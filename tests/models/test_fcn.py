import pytest
import torch

from fullconv import fcn4s, fcn8s, fcn8s_at_once, fcn16s, fcn32s
from fullconv.data.labels import LabelSet
from fullconv.errors import UsageError
from fullconv.models import FCN, SkipHead
from fullconv.trunks import trunk

VARIANTS = {"32s": (fcn32s, 1), "16s": (fcn16s, 2), "8s": (fcn8s, 3), "4s": (fcn4s, 4)}
TRUNKS = ["vgg16", "alexnet", "googlenet", "resnet18", "timm:tf_efficientnet_lite0"]


@pytest.fixture
def meta(on_meta):
    return lambda build, name, classes, **options: on_meta(build, name, num_classes=classes, **options)


def count(model, skip=()):
    return sum(p.numel() for name, p in model.named_parameters() if not any(word in name for word in skip))


def test_parameters_of_vgg16_are_the_specifications(meta):
    base = count(meta(fcn32s, "vgg16", 21, padding="paper"))
    assert base == 134_346_581
    assert count(meta(fcn16s, "vgg16", 21)) == base + 10_773
    assert count(meta(fcn8s, "vgg16", 21)) == base + 10_773 + 5_397
    assert count(meta(fcn8s_at_once, "vgg16", 21)) == base + 10_773 + 5_397


@pytest.mark.parametrize(
    ("name", "variant", "crops"),
    [("vgg16", "32s", [19]), ("vgg16", "16s", [5, 27]), ("vgg16", "8s", [5, 9, 31]), ("alexnet", "32s", [18])],
)
def test_published_crops(name, variant, crops, meta):
    model = meta(VARIANTS[variant][0], name, 21, padding="paper")
    assert model.heads["semantic"].ladder.crops == crops


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TRUNKS)
def test_every_size_from_1_to_512_by_the_algebra(name, variant, padding, meta):
    model = meta(VARIANTS[variant][0], name, 2, padding=padding)
    plan = model.heads["semantic"].ladder
    assert all(plan.output_size(size) == size for size in range(1, 513))


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize("size", [(1, 1), (31, 65), (200, 97)])
def test_a_sample_of_sizes_by_running(name, variant, padding, size, meta):
    model = meta(VARIANTS[variant][0], name, 2, padding=padding).eval()
    assert model(torch.empty(1, 3, *size, device="meta")).shape == (1, 2, *size)


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TRUNKS)
def test_an_ideal_score_map_lands_on_the_edge(name, variant, padding, meta):
    """Sample the signed distance to a slanted edge at the taps' own positions: the head must give it back exactly.

    Bilinear upsampling reproduces a linear function inside the image, so a shift of any fraction of a pixel shows.
    Each tap carries the function in turn, the others are zero.
    """
    build, _ = VARIANTS[variant]
    geometry = meta(build, name, 1, padding=padding)
    used = [geometry.trunk.taps[tap] for tap in geometry.heads["semantic"].tap_names]
    size = (224, 192)

    def distance(y, x):
        return (x - 90.0) + 0.5 * (y - 100.0)

    def sampled(tap):
        rows = torch.arange(tap.y.size(size[0]), dtype=torch.float64) * tap.stride + float(tap.y.offset)
        columns = torch.arange(tap.x.size(size[1]), dtype=torch.float64) * tap.stride + float(tap.x.offset)
        return distance(rows[:, None], columns[None]).expand(1, 1, -1, -1)

    head = SkipHead(used, 1, padding=padding).double()
    for tap in used:
        head.score[tap.name] = torch.nn.Conv2d(1, 1, 1, bias=False, dtype=torch.float64)
        torch.nn.init.ones_(head.score[tap.name].weight)
    truth = distance(torch.arange(size[0])[:, None], torch.arange(size[1])[None])
    for carrier in used:
        maps = {tap.name: sampled(tap) * (tap is carrier) for tap in used}
        logits = head(maps, size)[0, 0]
        inside = slice(64, -64), slice(64, -64)
        assert (logits - truth)[inside].abs().max() < 1e-4


def test_more_classes_than_a_byte_holds():
    model = fcn32s("small", 300).eval()
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 300, 8, 8)
    assert model.labels["semantic"].ignore_index == 65535


def test_scores_start_at_zero():
    model = fcn8s("resnet18", 5).eval()
    assert model(torch.rand(2, 3, 40, 50) * 255).abs().max() == 0


def test_at_once_scales_the_finer_taps(meta):
    scaled, plain = meta(fcn8s_at_once, "vgg16", 3), meta(fcn8s, "vgg16", 3)
    assert scaled.heads["semantic"].scales == [1.0, 0.01, 0.0001]
    assert plain.heads["semantic"].scales == [1.0, 1.0, 1.0]


def test_several_tasks_share_a_trunk():
    model = fcn8s("resnet18", {"semantic": 8, "geometric": 3}).eval()
    logits = model(torch.rand(1, 3, 33, 40) * 255)
    assert {task: tuple(value.shape) for task, value in logits.items()} == {
        "semantic": (1, 8, 33, 40),
        "geometric": (1, 3, 33, 40),
    }


def test_what_a_pass_returns_of_learned_upsampling_is_no_weight():
    """FSDP hooks all that it returns in every pass; a weight would gather those hooks."""
    model = fcn8s("small", 2, context="none", learnable_upsampling=True)
    _, upsampling = model.eval().coarse(torch.rand(1, 3, 32, 32))["semantic"]
    upsampling.kernels.sum().backward()
    weight = model.heads["semantic"].upscore[-1].weight
    assert upsampling.kernels is not weight and bool((weight.grad == 1).all())


def test_frozen_upsampling_has_no_parameters_and_learnable_has(meta):
    frozen, learnable = meta(fcn8s, "resnet18", 2), meta(fcn8s, "resnet18", 2, learnable_upsampling=True)
    extra = {name for name, _ in learnable.named_parameters()} - {name for name, _ in frozen.named_parameters()}
    assert len(extra) == 3
    assert all("upscore" in name for name in extra)


def test_dropout_is_element_wise(meta):
    model = meta(fcn32s, "alexnet", 2)
    kinds = {type(layer) for layer in model.modules() if "Dropout" in type(layer).__name__}
    assert kinds == {torch.nn.Dropout}


def test_normalisation_is_inside():
    """An image of the mean colour is a zero image for the trunk."""
    model = fcn32s("resnet18", 2).eval()
    seen = []
    model.trunk.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    model(model.mean.expand(1, 3, 8, 8).clone())
    assert seen[0].abs().max() < 1e-6


def test_a_hand_made_network_predicts_but_is_not_saved(tmp_path):
    built = trunk("resnet18")
    model = FCN(built, {"semantic": SkipHead(built.ladder_taps(8), 2)})
    assert model.eval()(torch.zeros(1, 3, 9, 9)).shape == (1, 2, 9, 9)
    with pytest.raises(UsageError, match="put together by hand"):
        model.save_pretrained(tmp_path)


def test_a_network_of_other_classes_than_it_was_built_for_is_not_saved(tmp_path):
    """It could not be loaded."""
    model = fcn8s("small", {"semantic": 3, "object": 2})
    model.labels["object"] = LabelSet.of(["a", "b", "c"])
    with pytest.raises(UsageError, match=r"task 'object' was built for 2 classes, its head scores 2, .* name 3"):
        model.save_pretrained(tmp_path / "model")
    model.heads["object"] = SkipHead(model.trunk.ladder_taps(8), 3)
    with pytest.raises(UsageError, match=r"task 'object' was built for 2 classes, its head scores 3, .* name 3"):
        model.save_pretrained(tmp_path / "model")
    del model.heads["object"]
    with pytest.raises(UsageError, match=r"task 'object' was built for 2 classes, its head scores 0"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(UsageError, match=r"task 'semantic' was built for 3 classes, its head scores 3, .* name 2"):
        FCN.from_config(model.config, labels={"semantic": LabelSet.of(["a", "b"])})


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 40)])
def test_input_scale_is_a_larger_image_and_its_logits_brought_back(scale, size, tmp_path):
    """Twin: the same network without it, and torch's interpolation around it."""
    torch.manual_seed(0)
    model = fcn8s("small", {"one": 3, "two": 2}, input_scale=scale).eval()
    for head in model.heads.values():
        for score in head.score.values():
            torch.nn.init.normal_(score.weight)
    image, plain = torch.rand(2, 3, *size) * 255, fcn8s("small", {"one": 3, "two": 2}).eval()
    plain.load_state_dict(model.state_dict())
    larger = [max(1, int(side * scale + 0.5)) for side in size]
    resized = torch.nn.functional.interpolate(image, larger, mode="bilinear", antialias=True)
    model.save_pretrained(tmp_path / "model")
    for network in (model, FCN.from_pretrained(tmp_path / "model")):
        for task, logits in network(image).items():
            expected = torch.nn.functional.interpolate(plain(resized)[task], size, mode="bilinear", antialias=True)
            assert torch.allclose(logits, expected, atol=1e-5)


def test_input_scale_survives_export_with_dynamic_sizes(noisy):
    torch.manual_seed(0)
    model = noisy(fcn8s("small", 2, input_scale=1.5))
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(model, (torch.rand(1, 3, 40, 56) * 255,), dynamic_shapes=(sides,)).module()
    for size in [(40, 56), (33, 71)]:
        image = torch.rand(1, 3, *size) * 255
        assert torch.allclose(exported(image), model(image), atol=1e-4)


def test_global_context_is_a_bias_of_the_whole_image(tmp_path):
    torch.manual_seed(0)
    plain = fcn8s("small", num_classes=4, context="none").eval()
    model = fcn8s("small", num_classes=4, context="none", global_context=8).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(2, 3, 170, 150) * 255
    assert torch.equal(model(image), plain(image)), "it starts at zero"
    head = model.heads["semantic"]
    torch.nn.init.normal_(head.scene[2].weight)
    bias = head.scene(model.features(image)[head.tap_names[0]].mean((2, 3), keepdim=True))
    assert bias.abs().max() > 1e-3 and bias.shape == (2, 4, 1, 1)
    # Away from the borders, at which upsampled scores fade.
    inside = (..., slice(48, -48), slice(48, -48))
    difference = (model(image) - plain(image))[inside]
    torch.testing.assert_close(difference, bias.expand_as(difference), rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(FCN.from_pretrained(tmp_path)(image), model(image))
