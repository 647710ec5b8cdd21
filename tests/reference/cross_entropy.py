"""Softmax cross-entropy of a batch, pixel by pixel."""

from math import exp, log


def summed(logits, target, ignore_index, label_smoothing=0.0):
    """n×k×h×w scores and n×h×w ids → (sum over labelled pixels, number of them)."""
    total, labelled = 0.0, 0
    for scores, truth in zip(logits.tolist(), target.tolist(), strict=True):
        for y, row in enumerate(truth):
            for x, wanted in enumerate(row):
                if wanted == ignore_index:
                    continue
                pixel = [plane[y][x] for plane in scores]
                partition = log(sum(exp(score) for score in pixel))
                surprises = [partition - score for score in pixel]
                spread = sum(surprises) / len(surprises)
                total += (1 - label_smoothing) * surprises[wanted] + label_smoothing * spread
                labelled += 1
    return total, labelled
