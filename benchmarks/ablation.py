"""What does every part of the default recipe give? One change at a time, the same few epochs, one split held out.

    python benchmarks/ablation.py dataset.yaml --weights tf_efficientnet_lite0.safetensors --split dev --seed 0

Images are not enlarged (``model.input_scale``) but by the change of that name, which takes less than half the time.
``--only`` takes names of changes. Prints a line for every change as soon as its run is done. Lovász, focal and
hard-example losses, which the recipe does not use and the library does not have, are below.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import fullconv
from fullconv.losses import upsampled_cross_entropy
from fullconv.metrics import METRICS
from fullconv.nn.strips import Upsampling
from fullconv.training import step

CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "SGD, rate 0.01": {"optim.optimiser": "sgd", "optim.rate": 1e-2, "optim.weight_decay": 1e-4},
    "rate 2e-3": {"optim.rate": 2e-3},
    "rate 5e-4": {"optim.rate": 5e-4},
    "trunk's rate × 0.3": {"optim.trunk_rate": 0.3},
    "layer decay 0.9": {"optim.layer_decay": 0.9},
    "weight decay 0.01": {"optim.weight_decay": 1e-2},
    "constant rate": {"optim.schedule": "constant"},
    "cosine": {"optim.schedule": "onecycle"},
    "no warm-up": {"optim.warmup": 0.0},
    "no averaged weights": {"optim.average": 0.0},
    "frozen batch normalisation": {"optim.batch_norm": "frozen"},
    "scale 1": {"data.scale": [1, 1]},
    "scale 0.5–2": {"data.scale": [0.5, 2]},
    "no colour": {"data.colour": 0.0},
    "whole images": {"data.crop": "none"},
    "batches of 4": {"data.batch_size": 4},
    "batches of 16": {"data.batch_size": 16},
    "label smoothing 0.1": {"optim.label_smoothing": 0.1},
    "no balance": {"optim.balance": 0.0},
    "balance 0.5": {"optim.balance": 0.5},
    "no Jaccard": {"optim.jaccard": 0.0},
    "Jaccard 1": {"optim.jaccard": 1.0},
    "Lovász for Jaccard": {"loss": "lovasz"},
    "focal, γ 2": {"loss": "focal"},
    "hardest quarter": {"loss": "hardest"},
    "head of 64": {"model.context": 64},
    "head of 256": {"model.context": 256},
    "no head": {"model.context": "none"},
    "dropout 0.5": {"model.dropout": 0.5},
    "no global context": {"model.global_context": 0},
    "images 1.5 times as large": {"model.input_scale": 1.5},
    "finest stride 16": {"model.finest_stride": 16},
    "finest stride 4": {"model.finest_stride": 4},
}


def lovasz(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Return the Lovász-softmax loss over the classes that occur (Berman, Triki & Blaschko 2018)."""
    counted = target != ignore_index
    probabilities, labels = logits.movedim(1, -1)[counted].softmax(1), target[counted]
    losses = []
    for label in labels.unique().tolist():
        truth = (labels == label).float()
        errors, order = (truth - probabilities[:, label]).abs().sort(descending=True)
        truth = truth[order]
        jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
        losses.append((errors * jaccard.diff(prepend=jaccard.new_zeros(1))).sum())
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def of_whole(loss: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """Return a loss of upsampled scores, all at once, from one of logits."""

    def upsampled(scores: Tensor, up: Upsampling, target: Tensor, ignored: int) -> Tensor:
        return loss(up.strip(scores, up.kernels, 0, target.shape[1], target.shape[2]), target, ignored)

    return upsampled


def by_pixel(weigh: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """Return a loss that sums what ``weigh`` makes of every pixel's cross-entropy and of what the pixel counts."""

    def loss(scores: Tensor, up: Upsampling, target: Tensor, **options: Any) -> Tensor:
        logits = up.strip(scores, up.kernels, 0, target.shape[1], target.shape[2])
        weights, ignored = options["class_weights"], options["ignore_index"]
        each = F.cross_entropy(logits, target, ignore_index=ignored, reduction="none")
        counts = torch.where(target == ignored, 0.0, weights[torch.where(target == ignored, 0, target)])
        return weigh(each, counts, int((target != ignored).sum()))

    return loss


def focal(each: Tensor, counts: Tensor, labelled: int) -> Tensor:
    """Weigh every pixel with (1 − p)², p being its true class's probability (Lin et al. 2017)."""
    return (counts * each * (1 - torch.exp(-each)) ** 2).sum()


def hardest(each: Tensor, counts: Tensor, labelled: int) -> Tensor:
    """Let the quarter of the labelled pixels with the largest losses stand for all (Shrivastava et al. 2016)."""
    return 4 * (counts * each).flatten().topk(max(1, labelled // 4)).values.sum()


def run(options: argparse.Namespace, change: dict[str, Any]) -> tuple[list[float], float]:
    """Train with a change; return the scores and the seconds."""
    settings = {
        "model.input_scale": 1,
        "epochs": options.epochs,
        "model.trunk_weights": str(options.weights),
        "evaluations": 1,
        **change,
    }
    loss = settings.pop("loss", "")
    cross_entropy = {"focal": by_pixel(focal), "hardest": by_pixel(hardest)}.get(loss, upsampled_cross_entropy)
    jaccard = of_whole(lovasz) if loss == "lovasz" else step.upsampled_soft_jaccard
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(step, "upsampled_cross_entropy", cross_entropy),
        mock.patch.object(step, "upsampled_soft_jaccard", jaccard),
    ):
        fullconv.train(
            options.data, f"{folder}/run", settings=settings, trunk=options.trunk, seed=options.seed, quiet=True
        )
        seconds = time.perf_counter() - start
        scores = fullconv.evaluate(f"{folder}/run", options.data, options.split)
    return [scores[key] for key in METRICS], seconds


def main() -> None:
    """Train and score the recipe with every change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--trunk", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--split", default="dev", help="what is scored")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES))
    options = parser.parse_args()
    for name in options.only:
        scores, seconds = run(options, CHANGES[name])
        print(f"{name:28} {seconds:5.0f} s  {'  '.join(f'{score:.4f}' for score in scores)}", flush=True)


if __name__ == "__main__":
    main()
