"""What ``check`` prints, writes and refuses."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from commands import first, run
from fullconv import open_dataset


def test_check_of_a_good_set(data, tmp_path):
    text = run("check", data, "--report", tmp_path / "page.html", "--write", tmp_path / "dataset.yaml").stdout
    assert "format folder" in text and "stride 8" in text and "triangle" in text
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 5 and "triangle" in page and 'src="http' not in page
    first, second = (json.loads(run("check", path, "--json").stdout) for path in (data, tmp_path / "dataset.yaml"))
    assert all(second[key] == value for key, value in first.items() if key not in ("root", "problems"))


def test_a_description_that_was_written_is_read_again(data, tmp_path):
    """With ids that are mapped, also those of a further task."""
    task = "  all: {masks: masks, classes: [any], label_map: {0: any, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}}"
    (data / "dataset.yaml").write_text(f"label_map: {{5: void}}\ntasks:\n{task}\n")
    run("check", data, "--write", tmp_path / "dataset.yaml")
    found, again = (open_dataset(path) for path in (data, tmp_path / "dataset.yaml"))
    assert again.labels == found.labels and again.further["all"].labels == found.further["all"].labels
    target = again.dataset("train")[0].further["all"]
    assert torch.equal(target, found.dataset("train")[0].further["all"]) and set(target.unique().tolist()) <= {0, 255}


def test_check_of_a_bad_set(data):
    bad = first(data / "masks")
    Image.fromarray(np.full((10, 10), 99, np.uint8)).save(bad)
    first(data / "images").write_bytes(b"")
    record = json.loads(run("check", data, "--json", code=3).stdout)
    assert record["format"] == "folder" and sum(record["splits"].values()) == 6
    assert record["classes"][0] == "background" and record["ignore_index"] == 255
    assert set(record["upper_bound"]) == {"4", "8", "16", "32"}
    found = {problem["kind"]: problem for problem in record["problems"]}
    assert found["stray_ids"]["severity"] == "error" and found["stray_ids"]["files"] == [str(bad)]
    assert found["stray_ids"]["remedy"] and "empty_file" in found
    assert "remedy: " in run("check", data, code=3).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name of a file is text")
def test_check_of_names_that_are_no_text(data, tmp_path):
    """Names in Latin-1, as old archives hold them; without lists, so that the split is made."""
    strange = os.fsdecode(b"caf\xe9")
    for path in data.glob("*.txt"):
        path.unlink(missing_ok=path.name == "classes.txt")
    for folder in ("images", "masks"):
        first(data / folder).rename(data / folder / f"{strange}.png")
    (data / "masks" / f"{strange}.png").write_bytes(b"")
    assert r"caf\udce9.png" in run("check", data, "--report", tmp_path / "page.html", code=3).stdout
    assert "caf" in (tmp_path / "page.html").read_text("utf-8")
    record = json.loads(run("check", data, "--json", code=3).stdout)
    assert record["problems"][0]["files"] == [str(data / "masks" / f"{strange}.png")]


def test_check_of_what_is_no_data_set(tmp_path):
    assert "give a folder with images/ and masks/" in run("check", tmp_path, code=3).stderr
    assert "did you mean 'voc'" in run("check", tmp_path, "--format", "vco", code=2).stderr
    record = json.loads(run("check", tmp_path, "--json", code=3).stdout)
    assert record["splits"] == {} and [problem["kind"] for problem in record["problems"]] == ["layout"]


def test_check_says_what_it_found_before_it_writes(data, tmp_path):
    (tmp_path / "file").write_text("")
    for words in (["--report", tmp_path / "file" / "page.html"], ["--write", tmp_path / "file" / "a.yaml", "--json"]):
        assert "triangle" in run("check", data, *words, code=2).stdout


def test_check_writes_over_no_description(data, tmp_path):
    """It may have been edited since."""
    (tmp_path / "dataset.yaml").write_text("classes: [mine]")
    assert "is there already" in run("check", data, "--write", tmp_path / "dataset.yaml", code=2).stderr
    assert (tmp_path / "dataset.yaml").read_text() == "classes: [mine]"
