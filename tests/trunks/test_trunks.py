import warnings
from fractions import Fraction
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from fullconv.errors import ModelError, UsageError
from fullconv.trunks import TRUNKS, Normalisation, Trunk, trunk
from fullconv.trunks.timm import TimmBody

NAMES = ["alexnet", "googlenet", "resnet18", "resnet50", "timm:tf_efficientnet_lite0", "timm:convnext_atto", "vgg16"]


@pytest.fixture
def built(on_meta):
    """A trunk without weights: enough for geometry."""
    return lambda name, padding="paper": on_meta(trunk, name, padding=padding)


@pytest.fixture
def field(built):
    return lambda name, tap, padding="paper": built(name, padding).taps[tap].y


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 96)])
def test_taps_tell_the_truth(name, padding, size, built):
    """Twin: channels and sizes by the algebra are those of tensors that went through the trunk."""
    net = built(name, padding).eval()
    features = net(torch.empty(1, 3, *size, device="meta"))
    assert list(features) == list(net.taps)
    for tap in net.taps.values():
        assert features[tap.name].shape == (1, tap.channels, tap.y.size(size[0]), tap.x.size(size[1]))


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_every_trunk_has_strides_4_to_32(name, built):
    assert {4, 8, 16, 32} <= {tap.stride for tap in built(name, "same").taps.values()}


def test_published_receptive_fields(field):
    assert field("vgg16", "fc7").receptive_field == 404
    assert field("alexnet", "fc7").receptive_field == 355


def test_receptive_field_of_resnet50_is_explained(field):
    """483 counts the stride of a stage in its first 1×1 convolution, as the original did; torchvision strides the 3×3.

    Each of the three strided 3×3 then widens by 2 of the finer stride in place of the coarser one: 483 − (8 + 16 + 32).
    """
    assert field("resnet50", "layer4").receptive_field == 483 - (8 + 16 + 32)


def test_receptive_field_of_googlenet_is_explained(field):
    """Published: 907, with 5×5 branches, a 3×3 pool4 and the final 7×7 average.

    torchvision has 3×3 in place of 5×5 (−2 strides in each of nine modules) and pool4 2×2 (−16); FCN drops the average.
    """
    five_to_three = 2 * (2 * 8 + 5 * 16 + 2 * 32)
    assert field("googlenet", "inception5b").receptive_field == 907 - five_to_three - 16 - 6 * 32


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "alexnet", "googlenet"])
def test_paper_padding_is_100_at_the_first_convolution(name, built):
    net = built(name)
    first = next(layer for layer in net.body.modules() if isinstance(layer, torch.nn.Conv2d))
    assert net.margin + first.padding[0] == 100


def test_same_padding_of_vgg16_is_the_fields_usual_network(built, field):
    net = built("vgg16", "same")
    assert net.margin == 0
    assert [str(tap.y.map) for tap in net.taps.values()][-1] == "32·i + 31/2"
    assert field("vgg16", "pool3", "same").offset == Fraction(7, 2)


def test_weights_of_the_classifier_are_carried_over(tmp_path):
    torch.manual_seed(1)
    classifier = torchvision.models.alexnet()
    save_file(classifier.state_dict(), tmp_path / "alexnet.safetensors")
    torch.save(classifier.state_dict(), tmp_path / "alexnet.pth")
    for file in ("alexnet.safetensors", "alexnet.pth"):
        built = trunk("alexnet", weights=tmp_path / file)
        fc6 = next(layer for layer in built.context if isinstance(layer, torch.nn.Conv2d))
        assert torch.equal(fc6.weight.flatten(1), classifier.classifier[1].weight)
        assert torch.equal(built.body["conv1"][0].weight, classifier.features[0].weight)


@pytest.mark.parametrize(("context", "said"), [("fc", 1), (None, 1), ("none", 0)])
def test_a_file_without_fc6_and_fc7_is_said(tmp_path, context, said):
    weights = {f"features.{name}": value for name, value in torchvision.models.alexnet().features.state_dict().items()}
    save_file(weights, tmp_path / "features.safetensors")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trunk("alexnet", weights=tmp_path / "features.safetensors", context=context)
    lines = [str(one.message) for one in caught]
    assert lines == [f"{tmp_path}/features.safetensors: holds no fc6 and fc7, which start from random weights"] * said


def test_a_pickled_object_is_not_loaded(tmp_path):
    torch.save(torchvision.models.squeezenet1_1(), tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"evil\.pth: not a readable weight file"):
        trunk("resnet18", weights=tmp_path / "evil.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="none of its tensors fits this trunk"):
        trunk("resnet18", weights=tmp_path / "other.safetensors")


def test_weights_that_fit_in_part_are_refused(tmp_path):
    """Where a convolution is missing, or another; fully connected layers may be."""
    path, own = tmp_path / "trunk.safetensors", torchvision.models.get_model("resnet18").state_dict()
    save_file({name: tensor for name, tensor in own.items() if "fc." not in name}, path)
    with pytest.raises(ModelError, match=r"its layer1\.0\.conv1\.weight is 64×64×3×3, this trunk's 64×64×1×1"):
        trunk("resnet50", weights=path)
    trunk("resnet18", weights=path)
    save_file(own | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}, path)
    trunk("resnet18", weights=path)
    del own["layer3.1.conv2.weight"]
    save_file(own, path)
    with pytest.raises(ModelError, match=r"of another network: it lacks layer3\.1\.conv2\.weight"):
        trunk("resnet18", weights=path)


def test_missing_and_damaged_weight_files_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.safetensors: no such weight file"):
        trunk("resnet18", weights=tmp_path / "nowhere.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match=r"cut\.safetensors: not a readable weight file"):
        trunk("resnet18", weights=tmp_path / "cut.safetensors")


def test_unknown_trunks_get_the_nearest_name():
    with pytest.raises(UsageError, match="unknown trunk 'vgg61'; did you mean vgg"):
        trunk("vgg61")
    pytest.importorskip("timm", reason="needs the extra 'timm'")
    with pytest.raises(UsageError, match="timm has no network 'resnet19'; did you mean"):
        trunk("timm:resnet19")


def test_trunks_whose_branches_do_not_align_are_refused_by_name():
    pytest.importorskip("timm", reason="needs the extra 'timm'")
    with torch.device("meta"), pytest.raises(UsageError, match=r"level2.*do not align"):
        trunk("timm:dla34")


def test_options_out_of_range_are_errors():
    with pytest.raises(UsageError, match="in_channels is 0"):
        trunk("resnet18", in_channels=0)
    with pytest.raises(UsageError, match="no fully connected layers"):
        trunk("resnet18", context="fc")


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels):
    built = trunk("resnet18", in_channels=channels)
    assert len(built.normalisation.mean) == len(built.normalisation.std) == channels
    assert built.eval()(torch.zeros(1, channels, 32, 32))["layer4"].shape == (1, 512, 1, 1)


@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_a_light_context_replaces_or_adds(name):
    with torch.device("meta"):
        built = trunk(name, context=32)
    assert built.taps["context"].channels == 32
    assert "fc7" not in built.taps


@pytest.mark.parametrize(
    "error", [URLError("no network"), RuntimeError('invalid hash value (expected "f37072fd", got "a0")')]
)
def test_weights_that_cannot_be_downloaded_are_said(monkeypatch, error):
    """Or not to their end."""

    def cut_off(*_, **__):
        raise error

    monkeypatch.setattr(torchvision.models, "get_model", cut_off)
    seen = r"the weights of resnet18 cannot be downloaded \(.*(no network|invalid hash value).*\); go online"
    with pytest.raises(ModelError, match=seen):
        trunk("resnet18", weights="imagenet")
    with pytest.raises(type(error)):
        trunk("resnet18")


def test_a_network_of_timm_without_weights_is_named():
    pytest.importorskip("timm", reason="needs the extra 'timm'")
    with pytest.raises(ModelError, match="timm has no weights of vovnet39a: give the path of a file"):
        trunk("timm:vovnet39a", weights="imagenet")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto"])
def test_weights_of_a_network_of_timm_come_from_a_file(tmp_path, name):
    """Of the whole network, whose parts timm calls otherwise where it gives features only."""
    timm = pytest.importorskip("timm", reason="needs the extra 'timm'")
    own = timm.create_model(name).state_dict()
    save_file(own, tmp_path / "trunk.safetensors")
    loaded = trunk(f"timm:{name}", weights=tmp_path / "trunk.safetensors").body.network.state_dict()
    theirs = {key.replace(".", "_"): value for key, value in own.items()}
    assert len(loaded) > 50
    assert all(value.equal(theirs[key.replace(".", "_")]) for key, value in loaded.items())


def test_a_network_of_timm_that_cannot_compute_again_says_so():
    with pytest.raises(UsageError, match="leave recompute out"):
        TimmBody(torch.nn.Identity(), []).save_memory()


def test_weights_of_googlenet_may_do_without_the_auxiliary_classifiers(tmp_path):
    """As torchvision's own have none once they are loaded; or have them."""
    for auxiliary in (False, True):
        weights = torchvision.models.googlenet(aux_logits=auxiliary, init_weights=False).state_dict()
        save_file(weights, tmp_path / "googlenet.safetensors")
        loaded = trunk("googlenet", weights=tmp_path / "googlenet.safetensors")
        assert torch.equal(next(loaded.body.parameters()), weights["conv1.conv.weight"])


class Apart(torch.nn.Module):
    """Two nets side by side, of which each sees three of six channels."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Conv2d(3, 4, 3, stride=8, padding=1) for _ in range(2))

    def forward(self, image):
        return {"both": torch.cat([self.first(image[:, :3]), self.second(image[:, 3:])], 1)}


def test_a_body_may_have_a_first_convolution_that_sees_a_part_of_the_channels():
    tap = Trunk(Apart(), normalisation=Normalisation((0.0,) * 6, (1.0,) * 6)).taps["both"]
    assert (tap.channels, tap.stride) == (8, 8)
