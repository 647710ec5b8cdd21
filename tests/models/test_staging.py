"""Starting from a saved network."""

import pytest
import torch

from fullconv import LabelSet, fcn8s, fcn32s
from fullconv.errors import ModelError
from fullconv.models import start_from


def network(names, build=fcn8s, **options):
    model = build("small", num_classes=len(names), context="none", **options)
    model.labels["semantic"] = LabelSet.of(names)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "mean" not in name and "std" not in name:
            torch.nn.init.uniform_(tensor, 0.1, 1.0)
    return model


def test_a_coarser_network_gives_all_it_has(tmp_path, noisy):
    torch.manual_seed(0)
    coarse, image = fcn32s("small", num_classes=2, context="none"), torch.rand(1, 3, 128, 128) * 255
    noisy(coarse, image).save_pretrained(tmp_path)
    fine = fcn8s("small", num_classes=2, context="none")
    fine.labels = dict(coarse.labels)
    report = start_from(fine, tmp_path)
    mine, theirs = fine.state_dict(), coarse.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items() if name in mine)
    assert {name.split(".")[3] for name in report.left_new} == {"stage4", "stage3"}
    fresh = torch.cat([mine[name].flatten() for name in report.left_new])
    assert not fresh.any()
    # A fine network whose new scores are zero is the coarse one, upsampled in three steps: but for those, the same.
    found, expected = (network.eval()(image).argmax(1) for network in (fine, coarse))
    assert set(expected.unique().tolist()) == {0, 1} and (found == expected).float().mean() > 0.9


@pytest.mark.parametrize("learnable", [False, True])
def test_scores_go_to_the_class_of_the_same_name(tmp_path, learnable):
    old = network(["sky", "sea", "land"], learnable_upsampling=learnable)
    old.save_pretrained(tmp_path)
    new = fcn8s("small", num_classes=3, context="none", learnable_upsampling=learnable)
    new.labels["semantic"] = LabelSet.of(["tree", "land", "sky"])
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    start_from(new, tmp_path)
    for name, tensor in new.state_dict().items():
        if name.startswith("heads."):
            theirs = old.state_dict()[name]
            assert torch.equal(tensor, torch.stack([before[name][0], theirs[2], theirs[0]])), name


def test_the_scene_goes_over_whole_and_its_scores_by_class(tmp_path):
    old = network(["sky", "sea", "land"], global_context=3)
    old.save_pretrained(tmp_path)
    new = fcn8s("small", num_classes=3, context="none", global_context=3)
    new.labels["semantic"] = LabelSet.of(["land", "tree", "sky"])
    start_from(new, tmp_path)
    mine, theirs = new.heads["semantic"].scene, old.heads["semantic"].scene
    assert torch.equal(mine[0].weight, theirs[0].weight)
    assert torch.equal(mine[2].weight[[0, 2]], theirs[2].weight[[2, 0]]) and not mine[2].weight[1].any()


def test_another_number_of_classes(tmp_path):
    network(["sky", "sea"]).save_pretrained(tmp_path)
    new = fcn8s("small", num_classes=5, context="none")
    new.labels["semantic"] = LabelSet.of(["sea", "p", "q", "r", "s"])
    start_from(new, tmp_path)
    weight = new.heads["semantic"].score["stage5"].weight
    assert weight[0].any() and not weight[1:].any()


def test_what_is_taken_over_and_what_is_new_is_said(tmp_path):
    """Of tasks, classes, and tensors that have no place any more."""
    old = network(["sky", "sea"], learnable_upsampling=True)
    old.save_pretrained(tmp_path)
    new = fcn8s("small", {"semantic": 2, "object": 2}, context=4)
    new.labels |= {"semantic": LabelSet.of(["tree", "sea"]), "object": LabelSet.of(["sky", "cup"])}
    report = start_from(new, tmp_path)
    assert report.classes == {"semantic": ("sea",), "object": ()}
    assert report.new_classes == {"semantic": ("tree",), "object": ("sky", "cup")}
    assert "heads.semantic.score.stage5.weight" in report.unused, "the context is the coarsest tap now"
    assert "heads.semantic.upscore.0.weight" in report.unused
    assert "heads.semantic.score.stage3.weight" in report.copied
    assert "heads.object.score.stage3.weight" in report.left_new


def test_scores_behind_another_context_are_none(tmp_path):
    """A coarse network has no others."""
    network(["sky", "sea"], fcn32s).save_pretrained(tmp_path)
    new = fcn32s("small", 2, context=4)
    new.labels["semantic"] = LabelSet.of(["sky", "sea"])
    report = start_from(new, tmp_path)
    assert report.classes == {"semantic": ()} and report.new_classes == {"semantic": ("sky", "sea")}
    assert not new.heads["semantic"].score["context"].weight.any()


@pytest.mark.parametrize("width", [4, 12])
def test_behind_another_context_all_of_the_coarsest_tap_is_new(tmp_path, width):
    """Biases, and the global context, whose second layer would fit: it says nothing of other features."""
    old = fcn32s("small", 2, context=8, global_context=6)
    old.labels["semantic"] = LabelSet.of(["sky", "sea"])
    for parameter in old.heads.parameters():
        torch.nn.init.normal_(parameter)
    old.save_pretrained(tmp_path)
    new = fcn32s("small", 2, context=width, global_context=6)
    new.labels["semantic"] = LabelSet.of(["sky", "sea"])
    before = {name: tensor.clone() for name, tensor in new.heads.state_dict().items()}
    report = start_from(new, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in new.heads.state_dict().items())
    assert not any(name.startswith("heads.") for name in report.copied)
    same = fcn32s("small", 2, context=8, global_context=6)
    same.labels["semantic"] = LabelSet.of(["sky", "sea"])
    start_from(same, tmp_path)
    assert all(torch.equal(tensor, old.heads.state_dict()[name]) for name, tensor in same.heads.state_dict().items())


def test_nothing_of_a_head_is_copied_where_no_class_is_the_same(tmp_path):
    network(["sky", "sea"]).save_pretrained(tmp_path)
    new = fcn8s("small", 2, context="none")
    new.labels["semantic"] = LabelSet.of(["cup", "cat"])
    report = start_from(new, tmp_path)
    assert not any(name.startswith("heads.") for name in report.copied)
    assert sum(name.startswith("heads.") for name in report.unused) == 6


def test_scores_of_scaled_features_are_scaled(tmp_path):
    """FCN-8s trained at once is the same network without its fixed factors."""
    old = network(["sky", "sea"], scaled_skips=True).eval()
    old.save_pretrained(tmp_path)
    new = fcn8s("small", 2, context="none").eval()
    new.labels = dict(old.labels)
    start_from(new, tmp_path)
    image = torch.rand(1, 3, 64, 64) * 255
    torch.testing.assert_close(new(image), old(image))


def test_a_deeper_trunk_is_another(tmp_path):
    fcn8s("resnet34", num_classes=2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is a model on another trunk \(resnet34, not resnet18\)"):
        start_from(fcn8s("resnet18", num_classes=2), tmp_path)


def test_another_trunk_is_refused(tmp_path):
    network(["a", "b"]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is a model on another trunk .* use the --trunk"):
        start_from(fcn8s("resnet18", num_classes=2), tmp_path)
