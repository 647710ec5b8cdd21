import copy
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fullconv import fcn8s
from fullconv.data import Sample, write_shapes
from fullconv.data.labels import VOID_COLOUR, LabelSet
from fullconv.errors import DataError, UsageError
from fullconv.evaluation import as_predictor, default_split, evaluate, panel, save_panels
from fullconv.evaluation.pictures import CAPTION, GAP, RIGHT, WRONG, errors
from fullconv.inference import Predictor, Views


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), count=10, sizes=(40, 60))


@pytest.fixture(scope="module")
def model(shapes, noisy):
    torch.manual_seed(0)
    model = noisy(fcn8s("small", shapes.labels.num_classes))
    model.labels["semantic"] = shapes.labels
    return model


class Oracle(Predictor):
    """Knows the truth; void becomes class 0."""

    def __init__(self, model, answers):
        super().__init__(model)
        self.answers = answers

    def labels(self, image):
        return next(self.answers)


def test_the_truth_scores_one(model, shapes):
    samples = shapes.dataset("train")
    targets = (samples[index].target for index in range(len(samples)))
    scores = evaluate(Oracle(model, (torch.where(target == 255, 0, target) for target in targets)), shapes, "train")
    assert scores["pixel_accuracy"] == scores["mean_accuracy"] == scores["mean_iu"] == 1


def test_scores_are_those_of_a_plain_loop(model, shapes):
    """Twin: count every pixel of the split by hand."""
    samples, classes = shapes.dataset("train"), shapes.labels.num_classes
    right = total = 0
    union, common = np.zeros(classes), np.zeros(classes)
    for index in range(len(samples)):
        target = samples[index].target.numpy()
        labels = model(samples[index].image[None].float()).argmax(1)[0].numpy()
        counted = target != 255
        right += (labels == target)[counted].sum()
        total += counted.sum()
        for label in range(classes):
            common[label] += ((labels == label) & (target == label) & counted).sum()
            union[label] += (((labels == label) | (target == label)) & counted).sum()
    scores = evaluate(model, shapes, "train")
    assert scores.pixel_accuracy == pytest.approx(right / total)
    present = [row["pixels"] > 0 for row in scores.per_class]
    assert scores.mean_iu == pytest.approx((common / union)[present].mean())


def test_the_default_split_is_test(model, shapes):
    assert evaluate(model, shapes).to_dict() == evaluate(model, shapes, "test").to_dict()


@pytest.mark.parametrize(("left_out", "split"), [((), "test"), (("test",), "val"), (("test", "val"), "train")])
def test_the_default_split_is_what_was_seen_least(shapes, left_out, split):
    left = {name: records for name, records in shapes.splits.items() if name not in left_out}
    assert default_split(replace(shapes, splits=left)) == split


def test_other_classes_are_refused(shapes):
    with pytest.raises(DataError, match="has 6 classes, the model 2"):
        evaluate(fcn8s("small", 2), shapes)


def test_the_same_classes_in_another_order_are_refused(model, shapes):
    twisted = copy.copy(model)
    twisted.labels = {"semantic": LabelSet.of(shapes.labels.names[::-1])}
    first, last = shapes.labels.names[0], shapes.labels.names[-1]
    with pytest.raises(DataError, match=f"class 0 is {first}, the model's is {last}, and {first} its class 5"):
        evaluate(twisted, shapes)
    twisted.labels = {"semantic": LabelSet.of([f"other {name}" for name in shapes.labels.names])}
    assert evaluate(twisted, shapes).mean_iu == evaluate(model, shapes).mean_iu


def test_progress_is_told(model, shapes):
    seen = []
    evaluate(model, shapes, "val", progress=lambda done, total: seen.append((done, total)))
    total = len(shapes.splits["val"])
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_an_unknown_policy_is_refused_before_all_is_scored(model, shapes):
    unchecked = inspect.unwrap(evaluate)  # as users run it, without the tests' type checks
    with pytest.raises(UsageError, match="absent is 'wrong'; use 'exclude' or 'zero'"):
        unchecked(model, shapes, "val", absent="wrong", progress=lambda done, total: pytest.fail("an image was scored"))


def test_error_maps():
    target = np.array([[0, 1, 255]])
    picture = errors(target, np.array([[0, 0, 0]]), write_labels())
    assert [tuple(pixel) for pixel in picture[0]] == [RIGHT, WRONG, VOID_COLOUR]


def write_labels():
    return LabelSet.of(["a", "b"])


def test_panels_show_four_pictures_side_by_side(model, shapes, tmp_path):
    sample = shapes.dataset("test")[0]
    height, width = sample.target.shape
    assert panel(sample, Predictor(model)).size == (4 * width + 3 * GAP, height + CAPTION)
    paths = save_panels(Predictor(model), shapes, "train", tmp_path / "pictures", count=3)
    assert len(paths) == 3
    assert all(Image.open(path).mode == "RGB" for path in paths)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_panels_of_any_channels_and_task(channels):
    """Truth and errors are those of the predictor's task."""
    torch.manual_seed(0)
    model = fcn8s("small", {"semantic": 2, "object": 3}, in_channels=channels)
    for score in model.heads["object"].score.values():
        torch.nn.init.normal_(score.weight)
    predictor = Predictor(model, task="object")
    image = torch.rand(channels, 40, 60) * 255
    truth = predictor.labels(image if channels > 1 else image.expand(3, -1, -1)).cpu()
    sample = Sample("a", image, torch.zeros(40, 60, dtype=torch.long), further={"object": truth})
    sheet = np.asarray(panel(sample, predictor))[CAPTION:, -60:]
    assert (sheet == RIGHT).all()


@pytest.mark.parametrize("given", [lambda network: network, Predictor])
@pytest.mark.parametrize("views", [None, Views(mirror=True)])
def test_a_network_that_is_scored_goes_on_being_trained(shapes, model, given, views):
    """In the mode and on the device that it was."""
    network = copy.deepcopy(model)
    scored = given(network)
    network.train()
    network.heads.eval()
    modes = [layer.training for layer in network.modules()]
    found = evaluate(scored, shapes, "val", views=views)
    assert [layer.training for layer in network.modules()] == modes and {True, False} == set(modes)
    assert found.confusion.equal(evaluate(model, shapes, "val", views=views).confusion)


@pytest.mark.parametrize("given", [lambda network: network, Predictor])
def test_the_task_and_the_views_are_those_asked_for(given):
    model, views = given(fcn8s("small", {"semantic": 4, "object": 2}, context="none")), Views((0.5,), mirror=True)
    predictor = as_predictor(model, "object", views)
    assert (predictor.task, predictor.label_set.num_classes, predictor.views) == ("object", 2, views)
    assert as_predictor(predictor) is predictor


def test_a_predictor_of_another_kind_stays_of_its_kind(model):
    oracle, views = Oracle(model, iter(())), Views(mirror=True)
    seen = as_predictor(oracle, views=views)
    assert isinstance(seen, Oracle) and seen.views == views and seen.answers is oracle.answers
    assert oracle.views == Views()


@pytest.mark.parametrize("absent", ["exclude", "zero"])
def test_what_an_absent_class_counts_is_told(model, shapes, absent):
    assert evaluate(model, shapes, "val", absent=absent).absent_classes == absent
