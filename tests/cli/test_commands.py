"""Every command as a process: what it prints, what it leaves behind, how it fails."""

import csv
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import fullconv
from commands import call
from fullconv import FCN, evaluation, open_dataset
from fullconv.cli import main as main_module
from fullconv.cli import predict as predict_module
from fullconv.data.generated import write_shapes
from fullconv.data.labels import LabelSet
from fullconv.files.images import read_image
from fullconv.training import runtime
from fullconv.training.runlog import COLUMNS

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": ""}


def fresh(*words):
    """Run a command as a user does, in a new interpreter."""
    command = [sys.executable, "-m", "fullconv", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def run(*words, code=0, call=call):
    """Run a command; it must end with ``code`` and, on failure, with one line on standard error and no traceback."""
    done = call(*words)
    assert done.returncode == code, done.stderr + done.stdout
    if code not in (0, 5):
        lines = [line for line in done.stderr.splitlines() if line.startswith("fullconv: ")]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A tiny data set, a run on it, and nothing that a test may change."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder / "data", count=16, sizes=(48, 64))
    run("train", folder / "data", "--out", folder / "run", "--recipe", "demo", "--epochs", 1, "--set", "data.crop=48")
    return folder


@pytest.fixture
def data(tmp_path):
    """A data set for one test to break."""
    write_shapes(tmp_path / "data", count=6, sizes=(40, 48))
    return tmp_path / "data"


def train_on(data, tmp_path, *words, code=3):
    done = run("train", data, "--out", tmp_path / "run", "--recipe", "demo", "--epochs", 1, *words, code=code)
    assert not (tmp_path / "run" / "best").exists()
    return done.stderr


def first(folder):
    return sorted(folder.iterdir())[0]


def test_help_names_every_command():
    text = run("--help", call=fresh).stdout
    assert all(command in text for command in ("demo", "check", "train", "evaluate", "predict", "inspect"))


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom fullconv.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT).returncode == 0


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


def test_no_command_is_a_question_for_help():
    assert run().stdout == run("--help").stdout and "Commands:" in run().stdout


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


@pytest.mark.skipif(sys.platform == "win32", reason="no file is called so there")
def test_names_do_not_work_the_terminal(shapes, data, tmp_path):
    name, shown = "a\x1b[2J\x9b2J.png", r"a\x1b[2J\x9b2J.png"
    for path in data.glob("*.txt"):
        path.unlink()
    for folder in ("images", "masks"):
        first(data / folder).rename(data / folder / name)
    (data / "masks" / name).write_bytes(b"")
    skipped = run("predict", shapes / "run", data / "masks" / name, "--out", tmp_path / "out", code=5)
    refused = run("train", tmp_path / name, "--out", tmp_path / "run", code=3)
    checked = run("check", data, code=3)
    for text in (skipped.stderr, refused.stderr, checked.stdout):
        assert shown in text and not {*"\x1b\x9b"} & {*text}


def test_check_of_what_is_no_data_set(tmp_path):
    assert "give a folder with images/ and masks/" in run("check", tmp_path, code=3).stderr
    assert "did you mean 'voc'" in run("check", tmp_path, "--format", "vco", code=2).stderr
    record = json.loads(run("check", tmp_path, "--json", code=3).stdout)
    assert record["splits"] == {} and [problem["kind"] for problem in record["problems"]] == ["layout"]


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


def test_inspect_prints_the_published_numbers():
    record = json.loads(run("inspect", "vgg16", "--finest-stride", 8, "--padding", "paper", "--json").stdout)
    assert set(record) == {"trunk", "padding", "taps", "crops", "parameters"}
    assert record["crops"] == [5, 9, 31]
    assert record["parameters"] == 134_346_581 + 10_773 + 5_397
    assert record["taps"][-1] == {
        "name": "fc7",
        "channels": 4096,
        "stride": 32,
        "receptive_field": 404,
        "offset": 12.5,
    }
    assert "5, 9, 31" in run("inspect", "vgg16").stdout


# Bad input, each with its exit code, a name and a remedy.


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


def test_unknown_option():
    error = run("train", "data", "--out", "run", "--epoch", 3, code=2, call=fresh).stderr
    assert "--epoch" in error


def test_unknown_command():
    assert "trian" in run("trian", code=2, call=fresh).stderr


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


def test_wrong_model_folder(shapes, tmp_path):
    assert "nowhere" in run("evaluate", tmp_path / "nowhere", shapes / "data", code=4).stderr
    assert "config.json" in run("evaluate", shapes / "data", shapes / "data", code=4).stderr


def test_missing_weight_file(data, tmp_path):
    assert "gone.safetensors" in train_on(data, tmp_path, "--trunk-weights", tmp_path / "gone.safetensors", code=4)


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


def test_two_images_of_one_name(shapes, tmp_path):
    image = first(shapes / "data" / "images")
    (tmp_path / image.name).write_bytes(image.read_bytes())
    assert (
        "two images"
        in run("predict", shapes / "run", image, tmp_path / image.name, "--out", tmp_path / "o", code=2).stderr
    )


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


def test_predict_leaves_hidden_files_out(shapes, tmp_path):
    """As macOS puts them beside every file on a foreign disk."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(first(shapes / "data" / "images").read_bytes())
    (tmp_path / "photos" / "._a.png").write_bytes(b"\0\5\x16\7")
    assert "1 of 1" in run("predict", shapes / "run", tmp_path / "photos", "--out", tmp_path / "out").stdout


def test_missing_split(shapes):
    assert "has no split 'exam'" in run("evaluate", shapes / "run", shapes / "data", "--split", "exam", code=3).stderr


def test_debug_shows_the_traceback(tmp_path):
    done = fresh("--debug", "evaluate", tmp_path / "nowhere", tmp_path)
    assert done.returncode == 4
    assert "Traceback" in done.stderr


def test_ctrl_c_is_noted(shapes, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["evaluate", str(shapes / "run"), str(shapes / "data")])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "fullconv: interrupted\n"


def test_a_rank_that_fails_does_not_wait_for_the_others(monkeypatch, capsys):
    """They wait for it: so NCCL's clean end would last until they are ended."""
    codes = []
    monkeypatch.setattr(runtime.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(runtime.os, "_exit", codes.append)
    for backend in ("gloo", "nccl"):
        monkeypatch.setattr(runtime.dist, "get_backend", lambda backend=backend: backend)
        with pytest.raises(SystemExit):
            main_module.main(["train"])
        with pytest.raises(SystemExit):
            main_module.main(["--help"])
    monkeypatch.setattr(main_module, "app", lambda **_: sys.exit(143))  # As SIGTERM does.
    with pytest.raises(SystemExit):
        main_module.main(["train"])
    assert codes == [2, 143]


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 30 GiB"), RuntimeError("can't allocate memory")])
def test_memory_that_is_short_is_no_bug_of_ours(monkeypatch, capsys, error):
    def short(**_):
        raise error

    monkeypatch.setattr(main_module, "app", short)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["train"])
    assert ended.value.code == 1
    assert f"out of memory: use smaller crops or batches (data.crop, data.batch_size), or smaller images ({error})" in (
        capsys.readouterr().err
    )


def test_a_path_that_may_not_be_looked_at_is_no_bug_of_ours(monkeypatch, capsys):
    def forbidden(**_):
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/run")

    monkeypatch.setattr(main_module, "app", forbidden)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["train"])
    assert ended.value.code == 2
    assert "fullconv: /secret/run: Permission denied; look at the path" in capsys.readouterr().err


def test_a_full_disk_behind_standard_output_is_no_bug_of_ours(shapes):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "fullconv", "inspect", "resnet18"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [
        "fullconv: an output: cannot be written: No space left on device; make room, and try again"
    ]


def test_a_full_disk_behind_standard_error_changes_no_exit_code(tmp_path):
    """Python would end with 120, as it tries to write it once more."""
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "fullconv", "check", tmp_path / "nowhere"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 3


def test_masks_are_never_overwritten_and_predictions_may_be(shapes, tmp_path):
    image = first(shapes / "data" / "images")
    masks = shutil.copytree(shapes / "data" / "masks", tmp_path / "masks")
    before = (masks / f"{image.stem}.png").read_bytes()
    error = run("predict", shapes / "run", image, "--out", masks, code=2).stderr
    assert f"{image.stem}.png: is no earlier prediction ({image.stem}_overlay.png is not there)" in error
    assert (masks / f"{image.stem}.png").read_bytes() == before
    for _ in range(2):
        run("predict", shapes / "run", image, "--out", tmp_path / "out")


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


def test_nobody_listens(shapes):
    """Standard output is closed, or a program that has read enough."""
    command = [sys.executable, "-m", "fullconv", "inspect", "resnet18", "--json"]
    closed = subprocess.run(["sh", "-c", f"{shlex.join(command)} >&-"], capture_output=True, text=True, env=ENVIRONMENT)
    assert "bug of ours" not in closed.stderr
    gone = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} | true"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert gone.stderr == ""


def test_check_says_what_it_found_before_it_writes(data, tmp_path):
    (tmp_path / "file").write_text("")
    for words in (["--report", tmp_path / "file" / "page.html"], ["--write", tmp_path / "file" / "a.yaml", "--json"]):
        assert "triangle" in run("check", data, *words, code=2).stdout


def test_check_writes_over_no_description(data, tmp_path):
    """It may have been edited since."""
    (tmp_path / "dataset.yaml").write_text("classes: [mine]")
    assert "is there already" in run("check", data, "--write", tmp_path / "dataset.yaml", code=2).stderr
    assert (tmp_path / "dataset.yaml").read_text() == "classes: [mine]"


@pytest.mark.parametrize("out", [".", "/"])
def test_a_demo_without_a_name(out):
    assert f"--out {out}: give the name of a folder" in run("demo", "--out", out, code=2).stderr


@pytest.mark.parametrize("contents", [b"", b"<html>", b"PK\x03\x04"])
def test_weights_that_are_none(data, tmp_path, contents):
    """Nobody is told to let what is in them run."""
    (tmp_path / "trunk.pth").write_bytes(contents)
    error = train_on(data, tmp_path, "--trunk-weights", tmp_path / "trunk.pth", code=4)
    assert "trunk.pth: not a readable weight file" in error and "save it as .safetensors" in error
    assert "weights_only" not in error and "\x1b" not in error
