import torch.nn.functional as F


def pixel_cross_entropy(logits, target, ignore_index=255, reduction="mean", label_smoothing=0.0):
    s = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="sum", label_smoothing=label_smoothing)
    return s if reduction == "sum" else s / (target != ignore_index).sum().clamp(min=1)
