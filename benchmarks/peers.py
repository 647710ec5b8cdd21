"""How good is what others would have you do, in the same time, with the same trunk, data and evaluation?

    pip install segmentation-models-pytorch
    python benchmarks/peers.py dataset.yaml --weights tf_efficientnet_lite0.safetensors --minutes 20 --seed 0

* segmentation_models.pytorch's Unet, FPN and DeepLabV3+ in the loop of its CamVid example: Adam at 2e-4 with a cosine
  to 1e-5, Dice loss, flips, scaling by 0.5–1.5, shifts, crops, blur and colours.
* torchvision's reference segmentation recipe with its FCN head on the trunk dilated to stride 16: SGD at 0.01 with
  momentum 0.9 and a polynomial decay, cross-entropy, scaling by 0.5–2 and flips, crops.
* fullconv's default recipe with ``--time``, crops and all; in bf16 where hardware has it, as that recipe is. The others
  are in fp32, as their loops are.

The others see batches of 8 crops of one size: the median shorter side up to a multiple of 32. A peer trains for the
given minutes, and its schedule follows the clock; scoring is not counted. Scored is every image of
``test`` at its own size, by one confusion matrix over all pixels. Prints one line a peer as soon as it is done.
"""

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.transforms import InterpolationMode, v2

import fullconv
from fullconv.data import DataSource, open_dataset
from fullconv.metrics import METRICS, Scores, confusion_matrix

TRUNK, BATCH, IGNORE = "tf_efficientnet_lite0", 8, 255
SMP = {"unet": smp.Unet, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus}


@dataclass
class Peer:
    """A network and its recipe: ``factor`` is the part of the rate after a fraction of the steps."""

    net: nn.Module
    optimiser: torch.optim.Optimizer
    factor: Callable[[float], float]
    loss: Callable[[Tensor, Tensor], Tensor]
    augment: v2.Transform


class TorchvisionFCN(nn.Module):
    """What torchvision's ``FCN`` does, on a trunk of timm."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(TRUNK, features_only=True, output_stride=16)
        self.classifier = FCNHead(self.backbone.feature_info.channels()[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of the image's size."""
        scores = self.classifier(self.backbone(image)[-1])
        return F.interpolate(scores, size=image.shape[-2:], mode="bilinear", align_corners=False)


def build(name: str, classes: int, crop: int, weights: Path) -> Peer:
    """Return a peer as its own documentation has it."""
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5,) * 3, (0.5,) * 3)])
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    cropped = v2.RandomCrop(crop, pad_if_needed=True, fill=fill)
    if name == "torchvision":
        net: nn.Module = TorchvisionFCN(classes)
        _load(net.backbone, weights)  # type: ignore[arg-type]
        sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        resize = v2.RandomResize(crop // 2, crop * 2, antialias=True)
        augment = v2.Compose([resize, v2.RandomHorizontalFlip(), cropped, normalise])
        return Peer(net, sgd, lambda done: (1 - done) ** 0.9, _cross_entropy, augment)
    net = SMP[name](f"tu-{TRUNK}", encoder_weights=None, classes=classes)
    _load(net.encoder.model, weights)  # type: ignore[union-attr, arg-type]
    adam = torch.optim.Adam(net.parameters(), lr=2e-4)
    affine = v2.RandomAffine(
        0, translate=(0.1, 0.1), scale=(0.5, 1.5), interpolation=InterpolationMode.BILINEAR, fill=fill
    )
    colour = v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.05)], 0.9)
    blur = v2.RandomChoice([v2.RandomAdjustSharpness(2, 1), v2.GaussianBlur(3), v2.Identity()])
    augment = v2.Compose([v2.RandomHorizontalFlip(), affine, cropped, colour, blur, normalise])
    dice = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, from_logits=True, ignore_index=IGNORE)
    return Peer(net, adam, _cosine, dice, augment)


def _cosine(done: float) -> float:
    return 0.05 + 0.95 * (1 + float(torch.cos(torch.tensor(torch.pi * done)))) / 2


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, ignore_index=IGNORE)


def _load(encoder: nn.Module, weights: Path) -> None:
    missing = encoder.load_state_dict(load_file(weights), strict=False).missing_keys
    if missing:
        raise SystemExit(f"{weights}: lacks {missing[:3]}")


def batches(source: DataSource, augment: v2.Transform) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches for ever, in epochs; images are read once and kept."""
    samples = source.dataset("train")
    kept = [samples[index] for index in range(len(samples))]
    while True:
        order = random.sample(kept, len(kept))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            pairs = [
                augment(tv_tensors.Image(s.image), tv_tensors.Mask(s.target)) for s in order[first : first + BATCH]
            ]
            yield torch.stack([image for image, _ in pairs]), torch.stack([target for _, target in pairs]).long()


def train_peer(peer: Peer, source: DataSource, seconds: float) -> int:
    """Train for so many seconds, in which the rate follows its whole course; return the number of steps."""
    rates = [group["lr"] for group in peer.optimiser.param_groups]
    peer.net.train()
    start, step = time.perf_counter(), 0
    for images, target in batches(source, peer.augment):
        done = (time.perf_counter() - start) / seconds
        if done >= 1:
            break
        for group, rate in zip(peer.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * peer.factor(done)
        loss = peer.loss(peer.net(images), target)
        peer.optimiser.zero_grad()
        loss.backward()
        peer.optimiser.step()
        step += 1
    return step


@torch.inference_mode()
def score_peer(net: nn.Module, source: DataSource) -> Scores:
    """Score every test image at its own size; networks that want multiples of 32 get the border repeated."""
    net.eval()
    samples, classes = source.dataset("test"), source.labels.num_classes
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for index in range(len(samples)):
        sample = samples[index]
        height, width = sample.target.shape
        image = (sample.image[None].float() / 255 - 0.5) / 0.5
        padded = F.pad(image, (0, -width % 32, 0, -height % 32), mode="replicate")
        predicted = net(padded)[0, :, :height, :width].argmax(0)
        matrix += confusion_matrix(sample.target, predicted, classes, sample.ignore_index)
    return Scores.from_confusion(matrix, source.labels.names)


def fullconv_side(options: argparse.Namespace) -> tuple[Scores, str]:
    """Train and score the default recipe in the same time."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"minutes": options.minutes, "model.trunk_weights": str(options.weights)}
        fullconv.train(
            options.data, out=f"{folder}/run", trunk=f"timm:{TRUNK}", settings=settings, seed=options.seed, quiet=True
        )
        done = json.loads(Path(folder, "run", "summary.json").read_text())
        return fullconv.evaluate(f"{folder}/run", options.data, "test"), f"{done['epochs']:g} epochs"


def side_line(side: str, options: argparse.Namespace) -> str:
    """Train and score one side; return its line."""
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    if side == "fullconv":
        scores, amount = fullconv_side(options)
    else:
        source = open_dataset(options.data)
        samples = source.dataset("train")
        shorter = statistics.median(min(samples[index].target.shape) for index in range(len(samples)))
        peer = build(side, source.labels.num_classes, 32 * math.ceil(shorter / 32), options.weights)
        steps = train_peer(peer, source, 60 * options.minutes)
        scores, amount = score_peer(peer.net, source), f"{steps * BATCH / len(samples):.1f} epochs"
    metrics = [scores[key] for key in METRICS]
    return f"{side:14} {amount:12} {'  '.join(f'{value:.4f}' for value in metrics)}"


def main() -> None:
    """Train and score every side, one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--weights", type=Path, required=True, help=f"ImageNet weights of {TRUNK}")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", default=["fullconv", *SMP, "torchvision"])
    options = parser.parse_args()
    for side in options.sides:
        start = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            line = process.submit(side_line, side, options).result()
        print(f"{line}  {time.perf_counter() - start:6.0f} s with scoring", flush=True)


if __name__ == "__main__":
    main()
