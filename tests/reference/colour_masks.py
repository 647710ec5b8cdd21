"""Masks to class ids, one pixel at a time."""

import numpy as np


def by_table(mask: np.ndarray, table: dict[object, int]) -> np.ndarray:
    target = np.empty(mask.shape[:2], np.int64)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            pixel = mask[y, x]
            target[y, x] = table[int(pixel) if mask.ndim == 2 else tuple(int(channel) for channel in pixel)]
    return target
