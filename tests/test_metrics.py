import inspect
import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.errors import DataError, UsageError
from fullconv.metrics import Scores, confusion_matrix
from reference.scores import four_metrics

FOUR = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")
ids = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 255]), st.integers(0, 3)), min_size=1, max_size=40)
policies = st.sampled_from(["exclude", "zero"])


def matrix_of(pairs, classes=4):
    truth, labels = (torch.tensor(column, dtype=torch.int64) for column in zip(*pairs, strict=True))
    return confusion_matrix(truth, labels, classes)


def scores_of(rows, absent="exclude"):
    matrix = torch.tensor(rows)
    return Scores.from_confusion(matrix, [f"class {index}" for index in range(len(matrix))], absent)


@settings(deadline=None, max_examples=100)
@given(ids, policies)
def test_metrics_are_those_of_the_definition(pairs, absent):
    scores = Scores.from_confusion(matrix_of(pairs), list("abcd"), absent)
    expected = four_metrics(*zip(*pairs, strict=True), 4, 255, absent)
    assert [scores[key] for key in FOUR] == pytest.approx(list(expected), nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(ids, ids)
def test_matrices_add_over_splits(first, second):
    assert torch.equal(matrix_of(first) + matrix_of(second), matrix_of(first + second))


@settings(deadline=None, max_examples=50)
@given(ids)
def test_matrix_counts_every_labelled_pixel_once(pairs):
    matrix = matrix_of(pairs)
    assert matrix.dtype == torch.int64
    for truth in range(4):
        for label in range(4):
            assert matrix[truth, label] == pairs.count((truth, label))


@settings(deadline=None, max_examples=50)
@given(ids, policies)
def test_perfect_prediction_scores_one(pairs, absent):
    labelled = [(truth, truth) for truth, _ in pairs if truth != 255] or [(0, 0)]
    scores = Scores.from_confusion(matrix_of(labelled), list("abcd"), absent)
    assert [scores[key] for key in FOUR] == [1.0] * 4


@settings(deadline=None, max_examples=50)
@given(ids, st.permutations(range(4)))
def test_renumbering_classes_changes_nothing(pairs, order):
    renumbered = [(truth if truth == 255 else order[truth], order[label]) for truth, label in pairs]
    one, other = (Scores.from_confusion(matrix_of(p), list("abcd")) for p in (pairs, renumbered))
    assert [one[key] for key in FOUR] == pytest.approx([other[key] for key in FOUR], nan_ok=True)


def test_worked_example():
    scores = scores_of([[3, 1], [2, 4]])
    assert scores.pixel_accuracy == 7 / 10
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scores.mean_iu == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert scores.frequency_weighted_iu == pytest.approx((4 * 3 / 6 + 6 * 4 / 7) / 10)
    assert scores.per_class[1] == {"name": "class 1", "accuracy": 4 / 6, "iu": 4 / 7, "pixels": 6}


def test_class_absent_from_the_truth_but_predicted():
    rows = [[6, 2, 0], [0, 0, 0], [0, 0, 4]]
    excluded, zero = scores_of(rows), scores_of(rows, "zero")
    assert excluded.mean_iu == (6 / 8 + 1) / 2
    assert zero.mean_iu == (6 / 8 + 0 + 1) / 3
    assert excluded.mean_accuracy == zero.mean_accuracy == (6 / 8 + 1) / 2
    assert excluded.frequency_weighted_iu == zero.frequency_weighted_iu == pytest.approx((8 * 6 / 8 + 4) / 12)
    assert excluded.per_class[1] == {"name": "class 1", "accuracy": None, "iu": None, "pixels": 0}
    assert zero.per_class[1]["iu"] == 0


@pytest.mark.parametrize("absent", ["exclude", "zero"])
def test_class_in_neither_truth_nor_prediction_is_undefined(absent):
    scores = scores_of([[2, 0], [0, 0]], absent)
    assert scores.mean_iu == 1
    assert scores.per_class[1]["iu"] is None


@pytest.mark.parametrize("absent", ["exclude", "zero"])
def test_nothing_labelled_is_nan_and_null(absent):
    matrix = confusion_matrix(torch.full((2, 2), 255), torch.zeros(2, 2, dtype=torch.int64), 3)
    scores = Scores.from_confusion(matrix, list("abc"), absent)
    assert all(math.isnan(scores[key]) for key in FOUR)
    record = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert [record[key] for key in FOUR] == [None] * 4


def test_is_a_read_only_mapping():
    scores = scores_of([[3, 1], [2, 4]], "zero")
    assert list(scores) == [*FOUR, "per_class", "absent_classes"]
    assert dict(scores) == scores.to_dict() == json.loads(json.dumps(scores.to_dict()))
    assert scores["mean_iu"] == scores.mean_iu
    assert scores["absent_classes"] == "zero"
    assert scores == scores_of([[3, 1], [2, 4]], "zero") != scores_of([[3, 1], [2, 5]], "zero")
    assert torch.equal(scores.confusion, torch.tensor([[3, 1], [2, 4]]))
    with pytest.raises(KeyError):
        scores["confusion"]
    with pytest.raises(TypeError):
        scores["mean_iu"] = 1.0
    with pytest.raises(FrozenInstanceError):
        scores.mean_iu = 1.0


def test_dictionary_is_a_copy():
    scores = scores_of([[3, 1], [2, 4]])
    scores.to_dict()["per_class"][0]["name"] = "changed"
    assert scores.per_class[0]["name"] == "class 0"


def test_counts_beyond_single_precision():
    scores = scores_of([[2**40 + 1, 1], [0, 2**40]])
    assert scores.per_class[0]["pixels"] == 2**40 + 2
    assert scores.pixel_accuracy == (2**41 + 1) / (2**41 + 2)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "int64"])
def test_accepts_arrays_and_tensors_of_any_integers(kind):
    truth, labels = np.array([[0, 1], [1, 255 if kind == "uint8" else -1]], kind), np.array([[0, 0], [1, 1]], "uint8")
    ignored = int(truth[1, 1])
    from_arrays = confusion_matrix(truth, labels, 2, ignored)
    from_tensors = confusion_matrix(torch.from_numpy(truth), torch.from_numpy(labels).short(), 2, ignored)
    assert from_arrays.tolist() == from_tensors.tolist() == [[1, 0], [1, 1]]


def test_ids_where_nothing_is_labelled_do_not_matter():
    assert confusion_matrix(torch.tensor([0, 255]), torch.tensor([1, 200]), 2).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("bad", [2, -1])
def test_ids_that_are_no_class(bad):
    good = torch.tensor([0, 1, 1])
    with pytest.raises(DataError, match=rf"target holds id {bad}.*2 classes"):
        confusion_matrix(torch.tensor([0, 1, bad]), good, 2)
    with pytest.raises(DataError, match=rf"labels hold id {bad}.*2 classes"):
        confusion_matrix(good, torch.tensor([0, 1, bad]), 2)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("bad", [0.97, -0.5, math.nan, math.inf])
def test_numbers_that_are_no_ids(kind, bad):
    """A probability of 0.97 is not class 0. Whole numbers count, whatever their type."""
    unchecked = inspect.unwrap(confusion_matrix)  # as users run it, without the tests' type checks
    good, wrong = np.array([0.0, 1.0, 255.0]), np.array([0.0, bad, 0.5])
    if kind == "torch":
        good, wrong = torch.from_numpy(good).float(), torch.from_numpy(wrong).float()
    assert unchecked(good, good, 2).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(DataError, match=rf"labels hold {bad:g}, but class ids must be whole numbers: take argmax"):
        unchecked(good, wrong, 2)
    with pytest.raises(DataError, match=rf"target holds {bad:g}, but"):
        unchecked(wrong, good, 2)


def test_shapes_that_differ():
    unchecked = inspect.unwrap(confusion_matrix)  # as users run it, without the tests' type checks
    with pytest.raises(DataError, match="target is 2×2 but the labels are 2×3"):
        unchecked(torch.zeros(2, 2).long(), torch.zeros(2, 3).long(), 2)


def test_unknown_policy_and_missing_names():
    unchecked = inspect.unwrap(Scores.from_confusion.__func__)
    with pytest.raises(UsageError, match="2 classes"):
        unchecked(Scores, torch.eye(2).long(), ["a"])
    with pytest.raises(UsageError, match="absent is 'ignore'"):
        unchecked(Scores, torch.eye(2).long(), ["a", "b"], "ignore")


@pytest.mark.parametrize(
    "twist",
    [
        lambda ids: ids[::-1, ::-1],
        lambda ids: ids.astype(">u2"),
        lambda ids: np.frombuffer(ids.tobytes(), ids.dtype).reshape(ids.shape),
    ],
)
@pytest.mark.filterwarnings("error")
def test_any_array_of_ids_is_counted(twist):
    """Flipped, of another byte order, read-only."""
    ids = np.random.default_rng(0).integers(0, 3, (4, 5)).astype(np.uint8)
    twisted = twist(ids)
    expected = confusion_matrix(torch.from_numpy(twisted.astype(np.int64).copy()), torch.zeros(4, 5).long(), 3)
    assert torch.equal(confusion_matrix(twisted, np.zeros((4, 5), np.int64), 3), expected)
