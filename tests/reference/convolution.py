"""Convolution of one image, one multiplication at a time."""

from itertools import product

import numpy as np


def convolve(image, weight, bias, stride, padding, dilation, groups) -> np.ndarray:
    """c×h×w → o×h'×w'; stride, padding and dilation are (vertical, horizontal)."""
    outputs, per_group, rows, columns = weight.shape
    sides = [
        (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for size, pad, gap, kernel, step in zip(
            image.shape[1:], padding, dilation, (rows, columns), stride, strict=True
        )
    ]
    output = np.zeros((outputs, *sides))
    for o, y, x in product(range(outputs), *map(range, sides)):
        first = o // (outputs // groups) * per_group
        for c, i, j in product(range(per_group), range(rows), range(columns)):
            v, u = y * stride[0] - padding[0] + i * dilation[0], x * stride[1] - padding[1] + j * dilation[1]
            if 0 <= v < image.shape[1] and 0 <= u < image.shape[2]:
                output[o, y, x] += weight[o, c, i, j] * image[first + c, v, u]
        output[o, y, x] += bias[o]
    return output
