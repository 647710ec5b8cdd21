"""The best mean IU that scores of one class per s×s cell can reach on given masks."""

import numpy as np
from jaxtyping import Int64, Integer

STRIDES = (4, 8, 16, 32)
"""Cell sizes in pixels; each twice the one before."""


class StrideBound:
    """Sums, over masks, what the best prediction of one class per cell gets right.

    In every s×s cell the class with the most pixels is predicted: no prediction that is constant on cells is right on
    more pixels. (Bilinear scores can do a little better along edges, so the bound is that of the stride, not of a
    network.)

    Args:
        num_classes: Number of classes k.

    Source: Long, Shelhamer & Darrell 2015, appendix A, which downsamples the truth instead.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.hits = np.zeros((len(STRIDES), num_classes), np.int64)
        self.predicted = np.zeros((len(STRIDES), num_classes), np.int64)
        self.truth = np.zeros(num_classes, np.int64)

    def add(self, target: Integer[np.ndarray, "h w"]) -> None:
        """Count one mask of class ids; ids of ``num_classes`` and above are void."""
        # Most masks hold few of many classes: the others are left out.
        present = np.unique(target[target < self.num_classes])
        size = len(present)
        if not size:
            return
        places = np.full(self.num_classes + 1, size)
        places[present] = np.arange(size)
        cells = _cell_counts(places[np.minimum(target, self.num_classes)], size)
        self.truth[present] += cells.sum(axis=(0, 1))
        for index in range(len(STRIDES)):
            best, most = cells.argmax(axis=2).ravel(), cells.max(axis=2).ravel()
            self.hits[index, present] += np.bincount(best, most, size).astype(np.int64)
            self.predicted[index, present] += np.bincount(best, cells.sum(axis=2).ravel(), size).astype(np.int64)
            cells = _merged(cells)

    def mean_iu(self) -> dict[int, float]:
        """Return the best mean IU by stride, over the classes that occur; NaN where nothing is labelled."""
        occurs = self.truth > 0
        if not occurs.any():
            return dict.fromkeys(STRIDES, float("nan"))
        union = self.truth + self.predicted - self.hits
        return {
            stride: float((self.hits[index] / np.maximum(union[index], 1))[occurs].mean())
            for index, stride in enumerate(STRIDES)
        }


def _cell_counts(target: Integer[np.ndarray, "h w"], num_classes: int) -> Int64[np.ndarray, "ch cw k"]:
    height, width = target.shape
    rows, columns = -(-height // STRIDES[0]), -(-width // STRIDES[0])
    cells = (np.arange(height) // STRIDES[0] * columns)[:, None] + np.arange(width) // STRIDES[0]
    keys = np.minimum(target, num_classes) + cells * (num_classes + 1)
    counts = np.bincount(keys.ravel(), minlength=rows * columns * (num_classes + 1))
    return counts.reshape(rows, columns, num_classes + 1)[:, :, :num_classes]


def _merged(cells: Int64[np.ndarray, "ch cw k"]) -> Int64[np.ndarray, "dh dw k"]:
    """Return the counts of cells of twice the size."""
    height, width, classes = cells.shape
    even = np.pad(cells, ((0, height % 2), (0, width % 2), (0, 0)))
    return np.asarray(even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, classes).sum(axis=(1, 3)))
