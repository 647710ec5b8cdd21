"""Scores of label maps against the truth, from one confusion matrix over a whole data set."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from .errors import DataError, UsageError

AbsentClasses = Literal["exclude", "zero"]
Ids: TypeAlias = Integer[Tensor, "*shape"] | Integer[np.ndarray, "*shape"]
METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")
"""The paper's four, as :class:`Scores` names them."""

KEYS = (*METRICS, "per_class", "absent_classes")


def confusion_matrix(
    target: Ids, labels: Ids, num_classes: int, ignore_index: int = 255
) -> Int64[Tensor, "{num_classes} {num_classes}"]:
    """Return n[truth, prediction], the number of labelled pixels of each pair of classes.

    Matrices of several images add up: score a data set by one matrix, never by the mean of per-image scores.

    Args:
        target: True class ids, or ``ignore_index``.
        labels: Predicted class ids, of the same shape; ids where the truth is ignored are of no account.
        num_classes: Number of classes k.
        ignore_index: Id of the target pixels that do not count.

    Raises:
        DataError: The shapes differ, or a counted pixel's id is not a class, or no whole number.

    Source: Long, Shelhamer & Darrell 2015, section 5.

    >>> confusion_matrix(torch.tensor([0, 1, 1, 255]), torch.tensor([0, 0, 1, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    truth, predicted = _tensor(target), _tensor(labels)
    if truth.shape != predicted.shape:
        raise DataError(
            f"the target is {_size(truth)} but the labels are {_size(predicted)}: predict at the target's resolution"
        )
    counted = truth != ignore_index
    truth = _checked("target", truth[counted], num_classes)
    predicted = _checked("labels", predicted.to(truth.device)[counted], num_classes)
    pairs = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


@dataclass(frozen=True, eq=False)
class Scores(Mapping[str, Any]):
    """The paper's four metrics and every class's own, between 0 and 1.

    Also a read-only mapping: ``scores["mean_iu"]``, ``dict(scores)``. Where nothing is labelled, the four metrics are
    NaN; ``to_dict()`` turns that into None, JSON's ``null``.

    What counts for a class that does not occur in the truth must be said, since published numbers differ in it:
    ``"exclude"`` leaves it out of mean accuracy and mean IU (predictions of it still are errors of the true classes);
    ``"zero"`` gives it IU 0 if it was predicted anywhere, as the reference implementation does.

    Attributes:
        pixel_accuracy: Share of labelled pixels that are right.
        mean_accuracy: Mean over classes of the share of the class's pixels that are right.
        mean_iu: Mean over classes of intersection over union.
        frequency_weighted_iu: The same mean, weighted by the classes' shares of the labelled pixels.
        per_class: For every class ``name``, ``accuracy``, ``iu`` (None where undefined or left out) and ``pixels``,
            the number of its labelled pixels.
        absent_classes: The policy, ``"exclude"`` or ``"zero"``.
        confusion: The confusion matrix [truth, prediction].

    Source: Long, Shelhamer & Darrell 2015, section 5.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    per_class: list[dict[str, Any]]
    absent_classes: AbsentClasses
    confusion: Int64[Tensor, "k k"]

    @classmethod
    def from_confusion(
        cls, matrix: Int64[Tensor, "k k"], names: Sequence[str], absent: AbsentClasses = "exclude"
    ) -> "Scores":
        """Return the scores of a confusion matrix [truth, prediction].

        Args:
            matrix: From :func:`confusion_matrix`, summed over the whole data set.
            names: One per class.
            absent: What counts for a class that does not occur in the truth.

        Raises:
            UsageError: ``absent`` is unknown, or there is not one name per class.
        """
        if absent not in ("exclude", "zero"):
            raise UsageError(f"Scores: absent is {absent!r}; use 'exclude' or 'zero'")
        if len(names) != len(matrix):
            raise UsageError(f"Scores: {len(names)} names for {len(matrix)} classes; give one name per class")
        rows = [_class_scores(matrix, index, name, absent) for index, name in enumerate(names)]
        total = int(matrix.sum())
        return cls(
            pixel_accuracy=_ratio(int(matrix.trace()), total),
            mean_accuracy=_mean([row["accuracy"] for row in rows]),
            mean_iu=_mean([row["iu"] for row in rows]),
            frequency_weighted_iu=_ratio(sum(row["pixels"] * (row["iu"] or 0.0) for row in rows), total),
            per_class=rows,
            absent_classes=absent,
            confusion=matrix,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a copy that can be written as JSON: the mapping's keys, with None for what is undefined."""
        return {key: _defined(copy.deepcopy(value)) for key, value in self.items()}

    def __getitem__(self, key: str) -> Any:
        if key not in KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(KEYS)

    def __len__(self) -> int:
        return len(KEYS)


def _tensor(ids: Tensor | np.ndarray) -> Tensor:
    if not isinstance(ids, Tensor):
        # Arrays may be read-only, flipped, or of another byte order: a copy is none of these.
        kind = np.float64 if np.asarray(ids).dtype.kind == "f" else np.int64
        return torch.from_numpy(np.array(ids, dtype=kind, order="C"))
    return ids if ids.is_floating_point() else ids.long()


def _class_scores(matrix: Tensor, index: int, name: str, absent: AbsentClasses) -> dict[str, Any]:
    right, pixels, predicted = int(matrix[index, index]), int(matrix[index].sum()), int(matrix[:, index].sum())
    counts = pixels > 0 or (absent == "zero" and predicted > 0)
    return {
        "name": name,
        "accuracy": right / pixels if pixels else None,
        "iu": right / (pixels + predicted - right) if counts else None,
        "pixels": pixels,
    }


def _ratio(part: int | float, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return _ratio(math.fsum(defined), len(defined))


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _size(ids: Tensor) -> str:
    return "×".join(str(side) for side in ids.shape)


def _checked(what: str, values: Tensor, num_classes: int) -> Tensor:
    ids, verb = values.long(), "holds" if what == "target" else "hold"
    if values.is_floating_point() and (wrong := values[ids != values]).numel():
        raise DataError(
            f"the {what} {verb} {wrong[0].item():g}, but class ids must be whole numbers: take argmax, or a threshold, "
            f"first"
        )
    if ids.numel() == 0:
        return ids
    low, high = torch.stack(torch.aminmax(ids)).tolist()
    if low < 0 or high >= num_classes:
        raise DataError(
            f"the {what} {verb} id {low if low < 0 else high}, but there are "
            f"{num_classes} classes (0 to {num_classes - 1}): correct the masks or the number of classes"
        )
    return ids
