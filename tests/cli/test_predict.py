"""What ``predict`` reads, writes and never overwrites."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from commands import first, run
from fullconv.cli import main as main_module
from fullconv.cli import predict as predict_module


def test_predict_writes_labels_and_overlays_and_skips_what_it_cannot_read(shapes, tmp_path):
    good = first(shapes / "data" / "images")
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:200])
    done = run("predict", shapes / "run", good, tmp_path / "broken.png", "--out", tmp_path / "out", code=5)
    assert "broken.png" in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{good.stem}.png", f"{good.stem}_overlay.png"}
    labels, image = Image.open(tmp_path / "out" / f"{good.stem}.png"), Image.open(good)
    assert labels.mode == "P"
    assert labels.size == image.size
    assert np.asarray(labels).max() < 6


def test_predict_of_what_is_not_there(shapes, tmp_path):
    error = run("predict", shapes / "run", tmp_path / "typo.png", "--out", tmp_path / "out", code=2).stderr
    assert "typo.png: no such file or folder" in error and not (tmp_path / "out").exists()


def test_predict_takes_a_folder(shapes, tmp_path):
    done = run("predict", shapes / "run" / "best", shapes / "data" / "images", "--out", tmp_path / "out")
    assert "16 of 16" in done.stdout


def test_predict_leaves_hidden_files_out(shapes, tmp_path):
    """As macOS puts them beside every file on a foreign disk."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(first(shapes / "data" / "images").read_bytes())
    (tmp_path / "photos" / "._a.png").write_bytes(b"\0\5\x16\7")
    assert "1 of 1" in run("predict", shapes / "run", tmp_path / "photos", "--out", tmp_path / "out").stdout


def test_a_pattern_that_no_shell_has_expanded(shapes, tmp_path):
    """A hidden file is none of it, and of a folder the images."""
    folder = shutil.copytree(shapes / "data" / "images", tmp_path / "photos")
    (tmp_path / "._photo.png").write_bytes(b"\0\5")
    for pattern in (folder / "*.*", tmp_path / "*"):
        done = run("predict", shapes / "run", pattern, "--out", tmp_path / "out" / pattern.name.replace("*", "x"))
        assert "16 of 16" in done.stdout
        shutil.rmtree(tmp_path / "out")
    for pattern in ("*.png", "a**.png"):
        assert "no such file" in run("predict", shapes / "run", tmp_path / pattern, "--out", tmp_path, code=2).stderr


def test_two_images_of_one_name(shapes, tmp_path):
    image = first(shapes / "data" / "images")
    (tmp_path / image.name).write_bytes(image.read_bytes())
    assert (
        "two images"
        in run("predict", shapes / "run", image, tmp_path / image.name, "--out", tmp_path / "o", code=2).stderr
    )


def test_names_that_a_file_system_does_not_tell_apart(shapes, tmp_path, monkeypatch, capsys):
    for folder, name in (("one", "Café.png"), ("two", "CAFE\u0301.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(first(shapes / "data" / "images").read_bytes())
    words = ["predict", shapes / "run", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out"]
    if sys.platform == "linux":
        assert "2 of 2" in run(*words).stdout
    monkeypatch.setattr(predict_module, "SAME_IN_ANY_CASE", True)
    with pytest.raises(SystemExit) as ended:
        main_module.main([str(word) for word in words])
    assert ended.value.code == 2 and "two images would be written to" in capsys.readouterr().err


def test_an_image_is_never_overwritten(shapes, tmp_path, monkeypatch):
    """Neither by labels nor by an overlay, whatever its path is called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").symlink_to("here")
    photo, overlay, other = (tmp_path / name for name in ("here/photo.png", "here/a_overlay.png", "a.png"))
    for path in (photo, overlay, other):
        path.write_bytes(first(shapes / "data" / "images").read_bytes())
    (tmp_path / "link.png").symlink_to(overlay)
    before = [path.read_bytes() for path in (photo, overlay)]
    for words, out, lost in (
        ([other, photo], "here", photo),
        (["there"], tmp_path / "here", overlay),
        (["here/photo.png"], "there", photo),
        (["link.png", other], "here", overlay),
    ):
        error = run("predict", tmp_path / "no model", *words, "--out", out, code=2).stderr
        assert f"{out}/{lost.name}: is an image to be predicted and would be overwritten; choose another --out" in error
    assert [path.read_bytes() for path in (photo, overlay)] == before
    assert len(list((tmp_path / "here").iterdir())) == 2


def test_masks_are_never_overwritten_and_predictions_may_be(shapes, tmp_path):
    image = first(shapes / "data" / "images")
    masks = shutil.copytree(shapes / "data" / "masks", tmp_path / "masks")
    before = (masks / f"{image.stem}.png").read_bytes()
    error = run("predict", shapes / "run", image, "--out", masks, code=2).stderr
    assert f"{image.stem}.png: is no earlier prediction ({image.stem}_overlay.png is not there)" in error
    assert (masks / f"{image.stem}.png").read_bytes() == before
    for _ in range(2):
        run("predict", shapes / "run", image, "--out", tmp_path / "out")
