"""How many images a second does a training step take, against torchfcn and torchvision?

    pip download torchfcn --no-deps --no-binary :all: && tar xzf torchfcn-*.tar.gz
    python benchmarks/training_step.py --torchfcn torchfcn-1.9.7 --rounds 5

* FCN-8s on VGG16, 360×480, batch 1, fp32, 21 classes: torchfcn's class in the steps of its ``Trainer.train_epoch``
  (summed loss, momentum 0.99, its scores of every image), and ours with both paddings (bf16 with ``same`` alone). The
  same weights and dropout switched off for the check that the losses agree; as users run it for the time.
* torchvision's ``fcn_resnet50`` with its auxiliary head in the steps of its reference script, and our FCN-8s on the
  same trunk in both precisions, batch 2 (its batch normalisation wants two). Each takes its loss as users run it:
  theirs at every pixel, ours, as the default recipe has it, at each second row and column.

Sides alternate; medians over the rounds. With ``--rounds 0`` the losses alone are compared, with ``--size`` of smaller
images. Where bf16 is not multiplied in hardware, steps in it take minutes: ``--precisions fp32`` leaves them out.
"""

import argparse
import copy
import importlib
import statistics
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models.segmentation import fcn_resnet50

import fullconv
from fullconv.data import Batch
from fullconv.training.config import load_config
from fullconv.training.optim import build_optimiser
from fullconv.training.runtime import Runtime
from fullconv.training.step import Objective, train_step

CLASSES = 21
RATE = 1.7e-3
"""Of the steps whose losses are compared, for the mean over the pixels: a hundred times the reference's, so that they
fall."""

Step = Callable[[], float]


def torchfcn_net(folder: Path) -> torch.nn.Module:
    """Import torchfcn's FCN-8s alone: its other modules want packages that are long gone."""
    package = types.ModuleType("torchfcn")
    package.__path__ = [str(folder / "torchfcn")]
    sys.modules |= {"torchfcn": package, "fcn": types.ModuleType("fcn")}
    return importlib.import_module("torchfcn.models.fcn8s").FCN8s(n_class=CLASSES)


def torchfcn_step(
    net: torch.nn.Module, folder: Path, images: torch.Tensor, target: torch.Tensor, rate: float = 1e-10
) -> Step:
    """``train_epoch`` of torchfcn 1.9.7, its examples' optimiser, for one batch."""
    accuracy = importlib.import_module("torchfcn.utils").label_accuracy_score
    weights = [layer.weight for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    biases = [layer.bias for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    groups = [{"params": weights}, {"params": biases, "lr": 2 * rate, "weight_decay": 0}]
    optimiser = torch.optim.SGD(groups, lr=rate, momentum=0.99, weight_decay=5e-4)

    def step() -> float:
        net.train()
        optimiser.zero_grad()
        score = net(images)
        classes = score.shape[1]
        log_p = F.log_softmax(score, dim=1).transpose(1, 2).transpose(2, 3).contiguous()
        log_p = log_p[target.view(*target.shape, 1).repeat(1, 1, 1, classes) >= 0].view(-1, classes)
        loss = F.nll_loss(log_p, target[target >= 0], reduction="sum") / len(images)
        loss.backward()
        optimiser.step()
        predicted = score.detach().max(1)[1].cpu().numpy()
        for truth, found in zip(target.cpu().numpy(), predicted, strict=True):
            accuracy([truth], [found], n_class=classes)
        return float(loss.detach())

    return step


def our_step(net: fullconv.FCN, images: torch.Tensor, target: torch.Tensor, recipe: str, **changes: object) -> Step:
    config = load_config(recipe, {f"optim.{key}": value for key, value in changes.items()})
    runtime = Runtime(config.optim.precision, device="cpu")
    runtime.prepare(net)
    optimiser = build_optimiser(net, config.optim)
    batch = Batch(images, target, tuple(map(str, range(len(images)))), 255)
    objective = Objective(config, runtime, {"semantic": torch.ones(CLASSES)})
    return lambda: train_step(net, [batch], optimiser, objective)


def torchvision_step(images: torch.Tensor, target: torch.Tensor) -> Step:
    """``train_one_epoch`` of references/segmentation: its criterion, SGD, and its auxiliary loss."""
    net = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> float:
        net.train()
        output = net(images / 255)
        losses = {name: F.cross_entropy(logits, target, ignore_index=255) for name, logits in output.items()}
        loss = losses["out"] + 0.5 * losses["aux"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def time_sides(sides: dict[str, Step], rounds: int, images: int) -> dict[str, float]:
    """Return images a second of each side: medians of alternating steps, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, step in sides.items():
            start = time.perf_counter()
            step()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: images / statistics.median(times) for name, times in seconds.items()}


def report(title: str, rates: dict[str, float]) -> None:
    print(title)
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"  {name:44} {rate:7.3f} images/s  {rate / first:5.2f} ×")


def losses_agree(
    theirs: torch.nn.Module, folder: Path, images: torch.Tensor, target: torch.Tensor, precisions: Sequence[str]
) -> None:
    """Print the losses of ten steps of both, from the same weights, without dropout, at a rate at which they fall.

    Raises:
        SystemExit: They hardly fall, or are apart by more than a hundredth of the fall; in bf16 by a tenth.
    """
    ours = fullconv.fcn8s("vgg16", num_classes=CLASSES, padding="paper", context="fc", dropout=0.0)
    source = [layer for layer in ours.trunk.modules() if isinstance(layer, torch.nn.Conv2d)]
    layers = dict(theirs.named_children())
    convolutions = [layer for name, layer in layers.items() if name.startswith(("conv", "fc"))]
    with torch.no_grad():
        for mine, other in zip(source, convolutions, strict=True):
            other.weight.copy_(mine.weight)
            other.bias.copy_(mine.bias)
        for layer, tap in (("score_fr", "fc7"), ("score_pool4", "pool4"), ("score_pool3", "pool3")):
            mine = ours.heads["semantic"].score[tap]
            torch.nn.init.normal_(mine.weight, std=0.01)
            layers[layer].weight.copy_(mine.weight)
            torch.nn.init.zeros_(layers[layer].bias)
    for name in ("drop6", "drop7"):
        layers[name].p = 0.0
    normalised = (images - ours.mean) / ours.std
    rough = copy.deepcopy(ours)
    rate = RATE / target.numel()
    one = torchfcn_step(theirs, folder, normalised, torch.where(target == 255, -1, target), rate)
    losses = [one() for _ in range(10)]
    print("  torchfcn       " + "  ".join(f"{loss:.0f}" for loss in losses), flush=True)
    fall = losses[0] - losses[-1]
    if fall < 0.03 * losses[0]:
        raise SystemExit("the loss hardly falls: nothing is known of the gradients")
    for net, precision, allowed in ((ours, "fp32", 0.01), (rough, "bf16", 0.1)):
        if precision not in precisions:
            continue
        step = our_step(net, images, target, "paper-heavy", rate=rate, precision=precision)
        apart = [abs(step() - loss) / fall for loss in losses]
        print(
            f"  ours, {precision}: apart, as a share of the fall: " + "  ".join(f"{part:.1e}" for part in apart),
            flush=True,
        )
        if max(apart) > allowed:
            raise SystemExit("the losses do not agree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchfcn", type=Path, required=True, help="folder of the unpacked sdist")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), help="height and width, multiples of 40")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    options = parser.parse_args()
    torch.manual_seed(0)
    height, width = options.size
    images = torch.rand(2, 3, height, width) * 255
    blocks = torch.randint(0, CLASSES, (2, height // 40, width // 40))
    target = blocks.repeat_interleave(40, 1).repeat_interleave(40, 2)
    target[:, :3] = 255
    print("losses of FCN-8s on VGG16, from the same weights")
    losses_agree(torchfcn_net(options.torchfcn), options.torchfcn, images[:1], target[:1], options.precisions)
    if not options.rounds:
        return
    theirs = torchfcn_net(options.torchfcn)
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    one, void = images[:1], torch.where(target[:1] == 255, -1, target[:1])
    sides = {"torchfcn, padding 100": torchfcn_step(theirs, options.torchfcn, one, void)}
    for padding, precision in (("paper", "fp32"), ("same", "fp32"), ("same", "bf16")):
        if precision not in options.precisions:
            continue
        net = fullconv.fcn8s("vgg16", num_classes=CLASSES, padding=padding, context="fc")
        name = f"fullconv, padding {padding}, {precision}"
        sides[name] = our_step(net, one, target[:1], "paper-heavy", precision=precision)
    report(f"FCN-8s on VGG16, {height}×{width}, batch 1", time_sides(sides, options.rounds, 1))
    sides = {"torchvision fcn_resnet50, reference script": torchvision_step(images, target)}
    net = fullconv.fcn8s("resnet50", num_classes=CLASSES)
    for precision in options.precisions:
        changes = {"optimiser": "sgd", "rate": 0.01, "precision": precision}
        sides[f"fullconv FCN-8s on ResNet-50, {precision}"] = our_step(
            copy.deepcopy(net), images, target, "modern", **changes
        )
    report(f"ResNet-50, {height}×{width}, batch 2", time_sides(sides, options.rounds, 2))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, numpy {np.__version__}")


if __name__ == "__main__":
    main()
