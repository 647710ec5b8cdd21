"""What ``evaluate`` prints and refuses."""

import json
import shutil

from commands import first, fresh, run
from fullconv import FCN, open_dataset
from fullconv.data.labels import LabelSet
from fullconv.files.images import read_image


def test_evaluate_prints_a_table_and_json(shapes):
    text = run("evaluate", shapes / "run", shapes / "data", call=fresh).stdout
    assert "mean iu" in text and text.startswith("test: 1 images\n")
    scores = json.loads(run("evaluate", shapes / "run", shapes / "data", "--split", "val", "--json").stdout)
    keys = {"pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu", "per_class"}
    assert keys <= set(scores)
    assert (scores["split"], scores["images"]) == ("val", len(open_dataset(shapes / "data").splits["val"]))
    assert [row["name"] for row in scores["per_class"]][:2] == ["background", "disc"]


def test_names_of_classes_are_printed_as_they_are(shapes, tmp_path):
    """Brackets and colons mean something to the library that draws the tables."""
    names = ["[red]sky[/red]", "[/]", ":car:", "[1]", "x", "y\x1b[2J"]
    model = FCN.from_pretrained(shapes / "run" / "best")
    model.labels["semantic"] = LabelSet.of(names)
    model.save_pretrained(tmp_path / "model")
    shutil.copytree(shapes / "data", tmp_path / "data")
    (tmp_path / "data" / "classes.txt").write_text("\n".join(names))
    for words in (("evaluate", tmp_path / "model", tmp_path / "data"), ("check", tmp_path / "data")):
        lines = run(*words).stdout.splitlines()
        shown = [*names[:-1], r"y\x1b[2J"]
        assert all(any(line.startswith(f"{name} ") for line in lines) for name in shown)


def test_views_change_scores_and_predictions(shapes, tmp_path, noisy):
    """A network whose scores are noise, which every view sees differently."""
    data = shapes / "data"
    image = first(data / "images")
    model = FCN.from_pretrained(shapes / "run" / "best")
    noisy(model, read_image(image)[None].float()).save_pretrained(tmp_path / "noise")
    scores, labels = [], []
    for views in ((), ("--scales", "0.5,1,1.5", "--mirror")):
        scores.append(json.loads(run("evaluate", tmp_path / "noise", data, "--json", *views).stdout)["mean_iu"])
        run("predict", tmp_path / "noise", image, "--out", tmp_path / "out", *views)
        labels.append((tmp_path / "out" / f"{image.stem}.png").read_bytes())
    assert scores[0] != scores[1]
    assert labels[0] != labels[1]
    for wrong in ("big", "0", ""):
        assert "0.75,1,1.25" in run("evaluate", tmp_path / "noise", data, "--scales", wrong, code=2).stderr


def test_wrong_model_folder(shapes, tmp_path):
    assert "nowhere" in run("evaluate", tmp_path / "nowhere", shapes / "data", code=4).stderr
    assert "config.json" in run("evaluate", shapes / "data", shapes / "data", code=4).stderr


def test_missing_split(shapes):
    assert "has no split 'exam'" in run("evaluate", shapes / "run", shapes / "data", "--split", "exam", code=3).stderr
