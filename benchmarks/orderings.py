"""Do the paper's orderings hold at equal small budgets? 8s ≥ 16s > 32s; whole net ≫ scores only; staged ≈ at once.

    python benchmarks/orderings.py dataset.yaml --weights tf_efficientnet_lite0.safetensors --epochs 9 --seeds 0 1

Every net trains the same number of epochs with the default recipe, whose trunk, data and optimiser they share, but on
images that are not enlarged; what differs is below. Scored on ``test``. Prints a line for every run as soon as it is
done, then the means over the seeds.

Source: Long, Shelhamer & Darrell 2015, sections 4.2 and 4.3, tables 2 and 6.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import fullconv
from fullconv.metrics import METRICS


def nets(epochs: int) -> dict[str, dict[str, Any]]:
    """Return the settings of every net by name."""
    thirds = [{"model.finest_stride": stride, "epochs": epochs // 3} for stride in (32, 16, 8)]
    rates = [{"optim.rate": rate} for rate in (1e-3, 5e-4, 5e-4)]
    stages = [{**third, **rate} for third, rate in zip(thirds, rates, strict=True)]
    scores = {"optim.trunk_rate": 0.0, "optim.batch_norm": "frozen", "model.context": "none", "model.global_context": 0}
    return {
        "32s": {"model.finest_stride": 32, "epochs": epochs},
        "16s": {"model.finest_stride": 16, "epochs": epochs},
        "8s": {"epochs": epochs},
        "8s, scores only": {**scores, "epochs": epochs},
        "8s, staged": {"stages": stages},
        "8s, scaled skips": {"model.scaled_skips": True, "epochs": epochs},
    }


def main() -> None:
    """Train and score every net with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--trunk", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--epochs", type=int, default=9, help="a multiple of 3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    shared = {"model.trunk_weights": str(options.weights), "model.input_scale": 1}
    rows: dict[str, list[list[float]]] = {}
    for seed in options.seeds:
        for name, settings in nets(options.epochs).items():
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                fullconv.train(
                    options.data,
                    out=f"{folder}/run",
                    settings={**shared, **settings},
                    trunk=options.trunk,
                    seed=seed,
                    quiet=True,
                )
                spent = time.perf_counter() - start
                scores = fullconv.evaluate(f"{folder}/run", options.data, "test")
            rows.setdefault(name, []).append([scores[key] for key in METRICS])
            print(f"seed {seed}  {name:18} {spent:5.0f} s  {_line(rows[name][-1])}", flush=True)
    for name, values in rows.items():
        print(f"mean    {name:18}          {_line([statistics.mean(column) for column in zip(*values, strict=True)])}")


def _line(values: list[float]) -> str:
    return "  ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    main()
