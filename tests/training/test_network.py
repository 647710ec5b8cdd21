"""From settings and a data set to the network as its training begins, and what of it is trained."""

import json

import pytest
import torch

from fullconv import fcn8s, train
from fullconv.errors import ModelError
from fullconv.models import FCN
from fullconv.training.config import load_config
from fullconv.training.network import build_model, initialised
from training.short_runs import TINY, opened_shapes, run, weights

shapes = pytest.fixture(opened_shapes, scope="module")


def test_a_model_to_start_from_brings_its_trunk(shapes, tmp_path):
    """Which need not be named; another one, named, is refused."""
    fcn8s("small", shapes.labels.num_classes, context="none").save_pretrained(tmp_path / "saved")
    settings = {key: value for key, value in TINY.items() if key != "model.trunk"}
    settings["model.init"] = str(tmp_path / "saved")
    result = train(shapes, tmp_path / "run", settings=settings, epochs=1, quiet=True)
    assert FCN.from_pretrained(result.run / "best").config.trunk == "small"
    with pytest.raises(ModelError, match="another trunk"):
        train(shapes, tmp_path / "other", trunk="resnet18", settings=settings, epochs=1, quiet=True)


def test_a_model_to_start_from_brings_its_context(shapes, tmp_path):
    """So that its scores are of the same features; another one, asked for, leaves none of them, and that is said."""
    model = fcn8s("small", shapes.labels.num_classes, context=24)
    model.labels["semantic"] = shapes.labels
    model.save_pretrained(tmp_path / "saved")
    settings = {"data.crop": 32, "model.init": str(tmp_path / "saved"), "model.input_scale": 1}
    same = train(shapes, tmp_path / "same", settings=settings, epochs=0.01, quiet=True).run
    assert FCN.from_pretrained(same / "best").config.context == 24
    coarse = {"model.finest_stride": 32, "model.context": 8}
    other = train(shapes, tmp_path / "other", settings=settings | coarse, epochs=0.01, quiet=True).run
    assert FCN.from_pretrained(other / "best").config.context == 8
    reports = [json.loads((run / "transplant.json").read_text()) for run in (same, other)]
    assert [report["classes"]["semantic"] for report in reports] == [list(shapes.labels.names), []]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("padding", "paper"),
        ("dropout", 0.25),
        ("global_context", 8),
        ("context", 16),
        ("finest_stride", 16),
        ("scaled_skips", True),
        ("learnable_upsampling", True),
    ],
)
def test_the_network_is_what_the_settings_say(shapes, name, value):
    model = build_model(shapes, load_config("modern", TINY | {f"model.{name}": value}))
    assert getattr(model.config, name) == value


@pytest.mark.parametrize("recompute", [False, True])
def test_less_is_kept_where_that_is_asked_for(shapes, recompute):
    model = build_model(shapes, load_config("modern", {**TINY, "model.recompute": recompute}))
    assert model.trunk.body.recompute == recompute


def test_every_seed_has_weights_of_its_own(shapes):
    def first(seed):
        network, _ = initialised(shapes, load_config("modern", {**TINY, "seed": seed}))
        return next(network.parameters())

    assert first(0).equal(first(0)) and not first(0).equal(first(1))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("imagenet", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("caffe", [123.68, 116.779, 103.939], [1, 1, 1]),
        ("half", [127.5, 127.5, 127.5], [127.5, 127.5, 127.5]),
    ],
)
def test_images_are_normalised_as_for_the_weights(shapes, name, mean, std):
    """Torchvision's, times 255; of Caffe's models, VGG's; of TensorFlow's, −1 to 1."""
    model = build_model(shapes, load_config("modern", TINY | {"model.normalisation": name}))
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    assert model.std.flatten().tolist() == pytest.approx(std)


def test_a_frozen_trunk_stays_as_it_was(shapes, tmp_path):
    """Its running statistics too."""
    torch.manual_seed(0)
    model = fcn8s("small", shapes.labels.num_classes, context="none")
    model.save_pretrained(tmp_path / "saved")
    settings = {"model.init": str(tmp_path / "saved"), "optim.trunk_rate": 0}
    found, before = weights(run(shapes, tmp_path / "run", settings=settings).run / "last"), model.state_dict()
    changed = {name for name in before if not torch.equal(found[name], before[name])}
    assert changed and all(name.startswith("heads.") for name in changed)
