"""Transposed convolution with a bilinear kernel, one multiplication at a time."""

import numpy as np


def triangle(distance: float) -> float:
    return max(0.0, 1.0 - abs(distance))


def upsample(image: np.ndarray, factor: int, kernel_size: int, padding: int) -> np.ndarray:
    """Scatter every pixel of an h×w image; each leaves a pyramid of half-width ``factor``."""
    rows = (image.shape[0] - 1) * factor + kernel_size - 2 * padding
    columns = (image.shape[1] - 1) * factor + kernel_size - 2 * padding
    middle = (kernel_size - 1) / 2
    output = np.zeros((rows, columns))
    for (y, x), value in np.ndenumerate(image):
        for row in range(rows):
            for column in range(columns):
                down = (row + padding - middle - y * factor) / factor
                across = (column + padding - middle - x * factor) / factor
                output[row, column] += value * triangle(down) * triangle(across)
    return output
