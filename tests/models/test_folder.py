"""A model on disk: written and read as the same, and what is said where it cannot be."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from fullconv import fcn8s, fcn32s
from fullconv.data.labels import LabelSet
from fullconv.errors import ModelError, UsageError
from fullconv.models import FCN


def test_folder_round_trip(tmp_path):
    torch.manual_seed(0)
    model = fcn8s("resnet18", 3, context=16).eval()
    torch.nn.init.normal_(model.heads["semantic"].score["context"].weight)
    model.labels["semantic"] = LabelSet.of(["sky", "tree", "road"], [(1, 2, 3), (4, 5, 6), (7, 8, 9)])
    model.save_pretrained(tmp_path / "model")
    again = FCN.from_pretrained(tmp_path / "model")
    image = torch.rand(1, 3, 37, 41) * 255
    assert torch.equal(model(image), again(image))
    assert again.labels == model.labels
    assert again.config == model.config
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    fcn32s("resnet18", 2).save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy of a good model folder, for one test to break."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def renamed(record, task):
    """Call the only task otherwise."""
    record["model"]["tasks"] = {task: 2}
    record["labels"] = {task: record["labels"]["semantic"]}


def edit(folder, change):
    record = json.loads((folder / "config.json").read_text())
    change(record)
    (folder / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("format"), "not written by fullconv"),
        (lambda record: record.update(schema=99), "schema 99, this version reads 1"),
        (lambda record: record["model"].update(trunk="resnet34"), "does not fit its config.json"),
        (lambda record: record["model"].update(trunk="resnet19"), "unknown trunk 'resnet19'"),
        (lambda record: record["model"].update(colour="red"), "not a valid model configuration"),
        (lambda record: record["model"].update(tasks={"semantic": 3}), "its table of names does not"),
        (lambda record: record.pop("labels"), "not a valid model configuration"),
        (lambda record: record["model"].update(value_range=[0, 0]), "config.json: not a valid .*ascending"),
        (lambda record: record["model"].update(value_range=[0, float("inf")]), "config.json: not a valid .*ascending"),
        (lambda record: renamed(record, "a.b"), "config.json: not a valid .*no name for a task"),
        (
            lambda record: record["model"].update(in_channels=10**15, normalisation=None),
            "config.json: cannot be built here",
        ),
        (lambda record: record["model"].update(trunk="timm:x", context="fc"), "config.json: cannot be built here"),
    ],
)
def test_a_wrong_configuration_is_named(damaged, change, message):
    edit(damaged, change)
    with pytest.raises(ModelError, match=message):
        FCN.from_pretrained(damaged)


def test_weights_that_may_not_be_read_are_not_called_damaged(damaged, monkeypatch):
    real = Path.open

    def refused(path, *arguments, **options):
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read \(Permission denied\)"):
        FCN.from_pretrained(damaged)


def test_missing_and_truncated_files_are_named(damaged, tmp_path):
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged"):
        FCN.from_pretrained(damaged)
    weights.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: missing"):
        FCN.from_pretrained(damaged)
    for text in ("{", "[" * 100_000):
        (damaged / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
            FCN.from_pretrained(damaged)
    (damaged / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json: missing"):
        FCN.from_pretrained(damaged)
    with pytest.raises(ModelError, match="no such model folder"):
        FCN.from_pretrained(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        fcn32s("resnet18", 2).save_pretrained(tmp_path / "file" / "model")


def test_a_full_disk_leaves_the_model_that_was_there(tmp_path, small_files):
    model = fcn32s("small", 2)
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        small_files(1000),
        pytest.raises(
            UsageError, match=r"model\.safetensors: cannot be written: .*File too large.*; make room, or choose"
        ),
    ):
        fcn32s("small", 3).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_whose_trunk_is_not_installed_is_whole(tmp_path, monkeypatch):
    fcn8s("small", 2, context="none").save_pretrained(tmp_path)

    def missing(name, **options):
        raise UsageError(f"trunk timm:{name} needs timm: pip install 'fullconv[timm]'")

    monkeypatch.setattr(importlib.import_module("fullconv.models.fcn"), "build_trunk", missing)
    with pytest.raises(ModelError, match=r"config\.json: cannot be built here: trunk timm:small needs timm: pip"):
        FCN.from_pretrained(tmp_path)
