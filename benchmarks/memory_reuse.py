"""What does it bring that training keeps freed memory (fullconv.training.runtime)? Steps with and without, in turn.

    python benchmarks/memory_reuse.py --classes 33 --rounds 5

Each round starts two processes, one after the other; each takes 2 steps to warm up and times 5. FCN-8s on
EfficientNet-Lite0, batch 8 of 256×256, AdamW, label smoothing.
"""

import argparse
import statistics
import subprocess
import sys
import time


def seconds_per_step(classes: int, keep: bool) -> float:
    """Time training steps in this process."""
    import torch

    import fullconv
    from fullconv.losses import pixel_cross_entropy
    from fullconv.training.runtime import _keep_freed_memory

    model = fullconv.fcn8s("timm:tf_efficientnet_lite0", num_classes=classes, context=128).train()
    model.to(memory_format=torch.channels_last)
    if keep:
        _keep_freed_memory()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images, targets = torch.rand(8, 3, 256, 256) * 255, torch.randint(classes, (8, 256, 256))
    start = 0.0
    for step in range(7):
        if step == 2:
            start = time.perf_counter()
        loss = pixel_cross_entropy(model(images), targets, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (time.perf_counter() - start) / 5


def in_a_process(classes: int, keep: bool) -> float:
    command = [sys.executable, __file__, "--classes", str(classes), "--one", str(int(keep))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=33)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", type=int, choices=(0, 1), help="time one side in this process")
    options = parser.parse_args()
    if options.one is not None:
        print(seconds_per_step(options.classes, bool(options.one)))
        return
    rounds = [[in_a_process(options.classes, keep) for keep in (False, True)] for _ in range(options.rounds)]
    without, with_it = (statistics.median(side) for side in zip(*rounds, strict=True))
    print(
        f"{options.classes} classes: {without:.3f} s a step without, {with_it:.3f} with: ratio {without / with_it:.2f}"
    )


if __name__ == "__main__":
    main()
