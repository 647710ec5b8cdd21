"""Runs that are stopped, and what they ended with: to be equal to one that was not."""

import hashlib
import json
import os
import signal

import pytest

from fullconv import train
from fullconv.training import loop
from fullconv.training.interrupt import Interrupted

TINY = {
    "model.trunk": "small",
    "model.context": 8,
    "model.dropout": 0.3,
    "data.crop": 32,
    "data.batch_size": 2,
    "optim.average": 0.9,
    "optim.precision": "fp32",
    "evaluations": 2,
}
EPOCHS = 2.5


def settings(**changes):
    return [word for key, value in (TINY | changes).items() for word in ("--set", f"{key}={value}")]


def stopped(monkeypatch, name, *arguments, **options):
    """Train until the loop calls its function ``name``: then SIGTERM comes."""
    real = getattr(loop, name)

    def stopping(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, name, stopping)
        with pytest.raises(Interrupted):
            train(*arguments, quiet=True, **options)


def digests(run):
    """SHA-256 of the weights and the table of metrics, and the log without times."""
    names = ("best/model.safetensors", "last/model.safetensors", "metrics.csv")
    files = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return files, [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def digest_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
