"""Two tasks on the same images: read, changed, trained and scored together."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fullconv
from commands import call
from fullconv.data import CachedDataset, TrainingTransform, collate, write_shapes
from fullconv.errors import DataError, UsageError


@pytest.fixture
def data(tmp_path):
    """Shapes, and whether there is any, but for the last rows, which are void."""
    root = tmp_path / "data"
    write_shapes(root, count=16, sizes=(48, 64))
    (root / "objects").mkdir()
    for path in sorted((root / "masks").iterdir()):
        ids = np.array(Image.open(path))
        some = np.where(ids == 255, 255, (ids > 0).astype(np.uint8))
        some[-4:] = 255
        Image.fromarray(some).save(root / "objects" / path.name)
    description(root, {"object": {"masks": "objects", "classes": ["nothing", "something"]}})
    return root


def description(root, tasks):
    (root / "dataset.yaml").write_text(yaml.safe_dump({"masks": "masks", "tasks": tasks}))


def test_samples_have_both_targets(data):
    source = fullconv.open_dataset(data)
    assert source.further["object"].labels.names == ("nothing", "something")
    sample = source.dataset("train")[0]
    expected = torch.where(sample.target == 255, 255, (sample.target > 0).long())
    assert torch.equal(sample.further["object"][:-4], expected[:-4])
    assert (sample.further["object"][-4:] == 255).all()


def test_both_targets_are_changed_alike(data):
    """What moves with the image moves with the other target; void and padding apart."""
    source = fullconv.open_dataset(data)
    transform = TrainingTransform((64, 64), keep=0.5, cell=8)
    kept = CachedDataset(source.dataset("train"), 1 << 20)
    samples = []
    for index in (0, 1, 0, 1):
        torch.manual_seed(index)
        samples.append(transform(kept[index]))
    batch = collate(samples, 255)
    first, second = batch.of_task("semantic"), batch.of_task("object")
    assert first.shape == second.shape == (4, 64, 64)
    both = (first != 255) & (second != 255)
    assert both.float().mean() > 0.1 and torch.equal((first[both] > 0).long(), second[both])
    assert torch.equal(second[:2], second[2:]), "from the cache as from the files"
    assert ((first == 255) <= (second == 255)).all()
    assert [part.of_task("object").shape[0] for part in batch.split(2)] == [2, 2]


def test_one_net_learns_both(data, tmp_path):
    model = {"model.trunk": "small", "model.context": "none", "model.input_scale": 1}
    settings = {**model, "data.crop": 64, "optim.rate": 3e-3}
    fullconv.train(data, tmp_path / "run", settings=settings, epochs=40, quiet=True)
    scores = {task: fullconv.evaluate(tmp_path / "run", data, "train", task=task) for task in ("semantic", "object")}
    assert len(scores["semantic"].per_class) == 6 and len(scores["object"].per_class) == 2
    assert scores["object"].mean_iu > 0.6
    assert scores["semantic"].mean_iu > 0.15, "one class everywhere has 0.125"
    predictor = fullconv.load(tmp_path / "run", task="object")
    assert fullconv.evaluate(predictor, data, "train").mean_iu == scores["object"].mean_iu
    with pytest.raises(UsageError, match="the model has no task 'depth'; it has semantic, object"):
        fullconv.evaluate(tmp_path / "run", data, task="depth")
    done = call("evaluate", tmp_path / "run", data, "--split", "train", "--task", "object", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mean_iu"] == scores["object"].mean_iu


def test_a_mask_of_the_further_task_is_checked_like_any(data, tmp_path):
    stem = fullconv.open_dataset(data).records("train")[0].stem
    mask = data / "objects" / f"{stem}.png"
    ids = np.array(Image.open(mask))
    ids[:3] = 9
    Image.fromarray(ids).save(mask)
    problems = fullconv.check(data).problems
    assert ("stray_ids", (mask,)) in [(problem.kind, problem.files) for problem in problems]
    with pytest.raises(DataError, match="holds id 9, which is none of the 2 classes"):
        fullconv.train(data, tmp_path / "run", settings={"model.trunk": "small"}, quiet=True)
    mask.unlink()
    with pytest.raises(DataError, match=r"no (file|mask)"):
        fullconv.open_dataset(data)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"semantic": {"masks": "objects", "classes": ["a"]}}, "is what the data set's own masks are called"),
        ({"a.b": {"masks": "objects", "classes": ["a"]}}, "tasks"),
        ({"object": {"masks": "objects", "classes": ["a"], "labels": {}}}, "did you mean 'label_map'"),
        ({"object": {"masks": "objects"}}, "tasks.object.classes"),
    ],
)
def test_tasks_that_make_no_sense(data, tasks, message):
    description(data, tasks)
    with pytest.raises(DataError, match=message):
        fullconv.open_dataset(data)


def test_a_written_description_is_read_as_the_same(data, tmp_path):
    source = fullconv.open_dataset(data)
    source.description.write(tmp_path / "dataset.yaml", source.root)
    again = fullconv.open_dataset(tmp_path / "dataset.yaml")
    assert again.further["object"].labels == source.further["object"].labels
    assert torch.equal(again.dataset("train")[0].further["object"], source.dataset("train")[0].further["object"])


def test_a_class_of_the_second_task_that_is_never_seen_is_said(data, tmp_path, capsys):
    description(data, {"object": {"masks": "objects", "classes": ["nothing", "something", "unicorn"]}})
    settings = {"model.trunk": "small", "model.context": "none", "data.crop": 32, "model.input_scale": 1}
    fullconv.train(data, tmp_path / "run", settings=settings, epochs=0.01)
    assert "no training mask holds unicorn" in capsys.readouterr().err


def test_splits_are_those_of_the_first_task(data):
    """Also where that finds them in lists of its own layout."""
    (data / "ImageSets" / "Segmentation").mkdir(parents=True)
    (data / "images").rename(data / "JPEGImages")
    (data / "masks").rename(data / "SegmentationClass")
    stems = sorted(path.stem for path in (data / "objects").iterdir())
    for name, part in {"train": stems[::2], "val": stems[1::2]}.items():
        (data / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(part))
    tasks = {"object": {"masks": "objects", "classes": ["nothing", "something"]}}
    text = {"format": "voc", "images": "JPEGImages", "masks": "SegmentationClass", "tasks": tasks}
    (data / "dataset.yaml").write_text(yaml.safe_dump(text))
    source = fullconv.open_dataset(data)
    for name in ("train", "val"):
        first, further = ([record.stem for record in each.records(name)] for each in (source, source.further["object"]))
        assert first == further


def test_splits_made_in_python_are_those_of_all_tasks(data, tmp_path):
    """Folds: of what is trained on, weighed and scored."""
    source = fullconv.open_dataset(data)
    records = [record for part in source.splits.values() for record in part]
    fold = replace(source, splits={"train": tuple(records[:3]), "val": tuple(records[3:5])})
    assert [record.stem for record in fold.tasks["object"].splits["val"]] == [record.stem for record in records[3:5]]
    counted = sum((fold.dataset("train")[place].further["object"] == 1).sum() for place in range(3))
    assert fold.tasks["object"].class_pixels("train")[1] == counted
    settings = {"model.trunk": "small", "model.context": "none", "data.crop": 32}
    run = fullconv.train(fold, tmp_path / "run", settings=settings, epochs=1, quiet=True).run
    scores = fullconv.evaluate(run, fold, "val", task="object")
    expected = [(sample.further["object"] != 255).sum() for sample in (fold.dataset("val")[place] for place in (0, 1))]
    assert scores.confusion.sum() == sum(expected)
