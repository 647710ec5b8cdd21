"""Benchmarks ask ``train`` for what it takes."""

import importlib.util
from pathlib import Path

import pytest

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
