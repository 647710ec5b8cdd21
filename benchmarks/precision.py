"""In which precision does a training step take less time? FCN-8s in fp32 and bf16, in turn.

    python benchmarks/precision.py --trunks timm:tf_efficientnet_lite0 resnet18 vgg16 --rounds 5

On the CPU, 21 classes, batch 8 of 256×256, the default recipe's loss and optimiser; medians over the rounds, after one
that does not count. Where bf16 is not multiplied in hardware, a step in it may take minutes.
"""

import argparse
import copy

import torch
from training_step import CLASSES, our_step, time_sides

import fullconv
from fullconv.training.runtime import Runtime


def seconds_per_step(trunk: str, size: int, batch_size: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of a step in each precision."""
    model = fullconv.fcn8s(trunk, num_classes=CLASSES)
    images = torch.rand(batch_size, 3, size, size) * 255
    target = torch.randint(CLASSES, (batch_size, size // 32, size // 32))
    target = target.repeat_interleave(32, 1).repeat_interleave(32, 2)
    steps = {
        precision: our_step(copy.deepcopy(model), images, target, "modern", precision=precision)
        for precision in ("fp32", "bf16")
    }
    return {precision: batch_size / rate for precision, rate in time_sides(steps, rounds, batch_size).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunks", nargs="+", default=["timm:tf_efficientnet_lite0", "resnet18", "vgg16"])
    parser.add_argument("--size", type=int, default=256, help="height and width, a multiple of 32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    auto = Runtime("auto", device="cpu").precision
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; auto is {auto}")
    for trunk in options.trunks:
        found = seconds_per_step(trunk, options.size, options.batch_size, options.rounds)
        ratio = found["fp32"] / found["bf16"]
        print(f"{trunk:32} fp32 {found['fp32']:.3f} s  bf16 {found['bf16']:.3f} s  {ratio:.2f} ×", flush=True)


if __name__ == "__main__":
    main()
