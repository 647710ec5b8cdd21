"""Runs of an epoch on small images, and the weights they leave."""

import torch
from safetensors.torch import load_file

from fullconv import train
from fullconv.data import write_shapes

TINY = {
    "model.trunk": "small",
    "model.context": "none",
    "data.crop": 48,
    "data.batch_size": 4,
    "optim.precision": "fp32",
}


def opened_shapes(tmp_path_factory):
    """What ``shapes`` is in a file of such runs: a data set of twelve images, opened."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), count=12, sizes=(48, 64))


def run(source, folder, **options):
    settings = {**TINY, **options.pop("settings", {})}
    return train(source, folder, quiet=True, settings=settings, **{"epochs": 1, **options})


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())
