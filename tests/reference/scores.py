"""The paper's four metrics from lists of pixels, without a histogram."""

from math import nan


def mean(values):
    return sum(values) / len(values) if values else nan


def four_metrics(truth, labels, num_classes, ignore_index, absent):
    """Return pixel accuracy, mean accuracy, mean IU, frequency-weighted IU of two equally long lists of ids."""
    pixels = [(t, p) for t, p in zip(truth, labels, strict=True) if t != ignore_index]
    accuracies, ious, weighted = [], [], 0.0
    for c in range(num_classes):
        true = {i for i, (t, _) in enumerate(pixels) if t == c}
        predicted = {i for i, (_, p) in enumerate(pixels) if p == c}
        if true:
            accuracies.append(len(true & predicted) / len(true))
            weighted += len(true) / len(pixels) * len(true & predicted) / len(true | predicted)
        if true or (absent == "zero" and predicted):
            ious.append(len(true & predicted) / len(true | predicted))
    accuracy = mean([float(t == p) for t, p in pixels])
    return accuracy, mean(accuracies), mean(ious), weighted if pixels else nan
