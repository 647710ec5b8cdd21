"""What ``train`` leaves behind; bad input, each with its exit code, a name and a remedy."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import fullconv
from commands import first, run
from fullconv.training.runlog import COLUMNS


def train_on(data, tmp_path, *words, code=3):
    done = run("train", data, "--out", tmp_path / "run", "--recipe", "demo", "--epochs", 1, *words, code=code)
    assert not (tmp_path / "run" / "best").exists()
    return done.stderr


def test_train_leaves_a_run_folder(shapes):
    run_folder = shapes / "run"
    names = {path.name for path in run_folder.iterdir()}
    assert names == {"best", "last", "config.yaml", "env.json", "log.jsonl", "metrics.csv", "summary.json"}
    for model in ("best", "last"):
        assert {path.name for path in (run_folder / model).iterdir()} == {"config.json", "model.safetensors"}
    record = json.loads((run_folder / "log.jsonl").read_text().splitlines()[-1])
    assert record["epoch"] == 1
    assert 0 <= record["mean_iu"] <= 1
    [row] = csv.DictReader((run_folder / "metrics.csv").read_text().splitlines())
    assert list(row) == list(COLUMNS)
    assert all(float(row[name]) == record[name] for name in COLUMNS)
    environment = json.loads((run_folder / "env.json").read_text())
    assert environment["fullconv"] == fullconv.__version__ and environment["torch"] == torch.__version__
    assert environment["data"] == str((shapes / "data").resolve())


# Bad input, each with its exit code, a name and a remedy.


def test_a_rate_is_looked_for_in_a_folder_of_its_own(tmp_path):
    for words in (["DATA"], ["--out", tmp_path / "rates"], ["DATA", "--out", tmp_path / "rates", "--resume", tmp_path]):
        error = run("train", *words, "--find-lr", code=2).stderr
        assert "--find-lr needs DATA and --out FOLDER, and no --resume" in error
    assert not (tmp_path / "rates").exists()


def test_missing_folder(tmp_path):
    error = train_on(tmp_path / "nowhere", tmp_path)
    assert "nowhere" in error
    assert not (tmp_path / "run").exists()


def test_unpaired_file(data, tmp_path):
    mask = first(data / "masks")
    mask.unlink()
    assert mask.stem in train_on(data, tmp_path)


def test_mask_of_another_size(data, tmp_path):
    mask = data / "masks" / f"{(data / 'train.txt').read_text().split()[0]}.png"
    Image.open(mask).crop((0, 0, 20, 20)).save(mask)
    error = train_on(data, tmp_path)
    assert mask.name in error
    assert "20×20" in error


def test_label_outside_the_classes(data, tmp_path):
    mask = data / "masks" / f"{(data / 'train.txt').read_text().split()[0]}.png"
    Image.fromarray(np.full_like(np.asarray(Image.open(mask)), 77)).save(mask)
    error = train_on(data, tmp_path)
    assert mask.name in error
    assert "77" in error
    assert "label_map" in error


def test_truncated_png(data, tmp_path):
    mask = data / "masks" / f"{(data / 'train.txt').read_text().split()[0]}.png"
    mask.write_bytes(mask.read_bytes()[:60])
    assert mask.name in train_on(data, tmp_path)


def test_unknown_trunk(data, tmp_path):
    assert "did you mean resnet18" in train_on(data, tmp_path, "--trunk", "resnet81", code=2)
    assert "unknown trunk" in run("inspect", "vgg61", code=2).stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.rat=1", "did you mean 'optim.rate'"),
        ("optim.rate=fast", "setting optim.rate"),
        ("epochs", "key=value"),
        ("data.batch_size=0", "setting data.batch_size"),
    ],
)
def test_wrong_settings(data, tmp_path, setting, message):
    assert message in train_on(data, tmp_path, "--set", setting, code=2)


def test_unknown_recipe(data, tmp_path):
    error = run("train", data, "--out", tmp_path / "run", "--recipe", "fancy", code=2).stderr
    assert "modern" in error


def test_missing_weight_file(data, tmp_path):
    assert "gone.safetensors" in train_on(data, tmp_path, "--trunk-weights", tmp_path / "gone.safetensors", code=4)


@pytest.mark.parametrize("contents", [b"", b"<html>", b"PK\x03\x04"])
def test_weights_that_are_none(data, tmp_path, contents):
    """Nobody is told to let what is in them run."""
    (tmp_path / "trunk.pth").write_bytes(contents)
    error = train_on(data, tmp_path, "--trunk-weights", tmp_path / "trunk.pth", code=4)
    assert "trunk.pth: not a readable weight file" in error and "save it as .safetensors" in error
    assert "weights_only" not in error and "\x1b" not in error


def test_unwritable_output(shapes, data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    error = run("train", data, "--out", tmp_path / "file" / "run", "--recipe", "demo", code=2).stderr
    assert "--out" in error
    image = first(shapes / "data" / "images")
    assert "--out" in run("predict", shapes / "run", image, "--out", tmp_path / "file", code=2).stderr
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_run_is_never_overwritten(shapes):
    before = (shapes / "run" / "log.jsonl").read_text()
    error = run("train", shapes / "data", "--out", shapes / "run", "--recipe", "demo", code=2).stderr
    assert "already holds files" in error
    assert (shapes / "run" / "log.jsonl").read_text() == before
