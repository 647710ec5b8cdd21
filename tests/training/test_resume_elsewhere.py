"""A run that goes on where its files, its data or its machine are others, ends as one that stayed."""

import os
import shutil
import signal

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from fullconv import train
from fullconv.errors import DataError
from fullconv.models import FCN
from fullconv.training import loop, runtime
from fullconv.training.config import load_config
from fullconv.training.interrupt import Interrupted
from training.stopped_runs import EPOCHS, TINY, digests, stopped


def test_resumed_from_elsewhere_without_the_files_it_began_with(shapes, tmp_path, monkeypatch):
    """A model to start from, named by a relative path."""
    monkeypatch.chdir(tmp_path)
    train(shapes, "first", settings=TINY, epochs=1, quiet=True)
    sources = {"model.init": "first"}
    train(shapes, "whole", settings=TINY | sources, epochs=EPOCHS, quiet=True)
    real = loop.train_step

    def stopping(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    for name in ("there", "gone"):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", stopping)
            with pytest.raises(Interrupted):
                train(shapes, name, settings=TINY | sources, epochs=EPOCHS, quiet=True)
    # As if it had not come to a checkpoint yet.
    shutil.rmtree(tmp_path / "there" / "checkpoints")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(resume=tmp_path / "there", quiet=True)
    (tmp_path / "first").rename(tmp_path / "moved")
    train(resume=tmp_path / "gone", quiet=True)
    assert digests(tmp_path / "there") == digests(tmp_path / "gone") == digests(tmp_path / "whole")


def test_resumed_without_the_weights_of_the_trunk(shapes, tmp_path, monkeypatch):
    """GoogLeNet's say how an image is normalised; a link to them, as in a cache of downloads, stays one."""
    torch.manual_seed(0)
    weights = torchvision.models.googlenet(aux_logits=False, init_weights=False).state_dict()
    save_file(weights, tmp_path / "blob")
    (tmp_path / "trunk.safetensors").symlink_to(tmp_path / "blob")
    settings = {
        **TINY,
        "model.trunk": "googlenet",
        "model.trunk_weights": str(tmp_path / "trunk.safetensors"),
        "data.crop": 64,
        "stages": [{"model.finest_stride": 32}, {"model.finest_stride": 16}],
        "model.input_scale": 1,
    }
    train(shapes, tmp_path / "whole", settings=settings, epochs=0.4, quiet=True)
    stopped(monkeypatch, "train_step", shapes, tmp_path / "run", settings=settings, epochs=0.4)
    assert load_config(str(tmp_path / "run" / "config.yaml")).model.trunk_weights == str(tmp_path / "trunk.safetensors")
    (tmp_path / "trunk.safetensors").unlink()
    train(resume=tmp_path / "run", quiet=True)
    for name in ("best", "stage-1-32s/last"):
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / "run" / name / file).read_bytes() == (tmp_path / "whole" / name / file).read_bytes()
    assert FCN.from_pretrained(tmp_path / "run" / "best").config.normalisation == ((127.5,) * 3, (127.5,) * 3)


def test_resumed_where_the_data_set_was_moved(shapes, tmp_path, monkeypatch, uninterrupted):
    shutil.copytree(shapes, tmp_path / "data")
    stopped(monkeypatch, "validate", tmp_path / "data", tmp_path / "run", settings=TINY, epochs=EPOCHS)
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"data: the data set of .*run is gone; .*fullconv train DATA --resume"):
        train(resume=tmp_path / "run", quiet=True)
    train(tmp_path / "moved", resume=tmp_path / "run", quiet=True)
    assert digests(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("layouts", [("contiguous_format", "channels_last"), ("channels_last", "contiguous_format")])
def test_resumed_on_a_machine_where_weights_lie_otherwise(shapes, tmp_path, monkeypatch, uninterrupted, layouts):
    """Its sums are in another order, so that it ends near the run that was not stopped."""
    first, second = (getattr(torch, layout) for layout in layouts)
    monkeypatch.setattr(runtime, "fastest_layout", lambda *_: first)
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=TINY, epochs=EPOCHS)
    monkeypatch.setattr(runtime, "fastest_layout", lambda *_: second)
    train(resume=tmp_path / "run", quiet=True)
    for line, twin in zip(digests(tmp_path / "run")[1], uninterrupted[1], strict=True):
        assert line["loss"] == pytest.approx(twin["loss"], rel=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_on_a_gpu(shapes, tmp_path, monkeypatch, precision):
    """Its sums are not always in the same order, so that it ends near the run that was not stopped."""
    settings = TINY | {"optim.precision": precision, "model.dropout": 0}
    whole = train(shapes, tmp_path / "whole", settings=settings, epochs=EPOCHS, quiet=True)
    stopped(monkeypatch, "validate", shapes, tmp_path / "run", settings=settings, epochs=EPOCHS)
    again = train(resume=tmp_path / "run", quiet=True)
    assert again.scores.pixel_accuracy == pytest.approx(whole.scores.pixel_accuracy, abs=0.02)
