"""How long after Ctrl-C or SIGTERM does a run end, with its state saved? The slowest case: VGG16 with fc6 and fc7.

    python benchmarks/stop_time.py --stops 12 --seed 0

Generated images of 360 to 500 pixels a side; by turns the recipes ``paper-accumulate`` (20 passes a step),
``paper-heavy`` (a checkpoint of 1 GB), that with ``--time`` and ``--find-lr``, whose measured steps save nothing, and
that at the end of an epoch, which writes two models of 0.5 GB as well. A run gets the signal 1 to 30 seconds after it
has said how it will train; those that do not say it before, 11 to 40 seconds after their start; the last, as soon as
the first of its models is being written. Prints the seconds from the signal to the end of the process, and its exit
code.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fullconv.data import write_shapes

CASES = (
    "paper-accumulate",
    "paper-heavy",
    "paper-heavy --time 60m",
    "paper-heavy --find-lr",
    "paper-heavy --epochs 0.1",
)
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stopped(case: str, folder: Path, number: int, wait: float) -> tuple[float, int]:
    """Start a run and send the signal so many seconds after its first words; return seconds and exit code."""
    words = [sys.executable, "-m", "fullconv", "train", str(folder / "data"), "--recipe", *case.split()]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        process = subprocess.Popen(
            [*words, "--out", f"{out}/run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        if "--epochs" in case:
            while process.poll() is None and not Path(out, "run", "best").is_dir():
                time.sleep(0.01)
        elif "--" in case:  # It is not said before these steps.
            time.sleep(10 + wait)
        else:
            next(line for line in process.stderr if line.startswith("rate "))
            time.sleep(wait)
        start = time.perf_counter()
        process.send_signal(number)
        process.communicate()
        return time.perf_counter() - start, process.returncode


def main() -> None:
    """Stop runs and print how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # What a shell starts in the background, and its children, would ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_shapes(folder / "data", count=50, sizes=(360, 500))
        for stop in range(options.stops):
            case, number = CASES[stop % len(CASES)], SIGNALS[stop // len(CASES) % 2]
            wait = chance.uniform(1, 30)
            seconds, code = stopped(case, folder, number, wait)
            moment = "as an epoch ends" if "--epochs" in case else f"after {wait:4.1f} s"
            print(f"{case:24} {number.name:8} {moment:16}: {seconds:5.2f} s, exit code {code}", flush=True)


if __name__ == "__main__":
    main()
