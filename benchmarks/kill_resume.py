"""Does a run that is killed again and again end as one that was not? SHA-256 of its weights and metrics.

    python benchmarks/kill_resume.py --kills 25 --seed 0

Small nets on generated images, with 0 and 2 loader workers, and with checkpoints after every step and every few. A
process is killed (SIGKILL) at a random moment, up to 0.8 times what the whole run takes; or, every third time, as
soon as a checkpoint is being written: its temporary file is then still there. ``fullconv train --resume`` goes on,
until the run is finished.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fullconv.data import write_shapes

SETTINGS = {
    "model.trunk": "small",
    "model.context": 64,
    "data.crop": 32,
    "data.batch_size": 2,
    "optim.average": 0.9,
    "evaluations": 4,
}
EPOCHS = 40
CONFIGURATIONS = [(workers, minutes) for workers in (0, 2) for minutes in (0, 0.005)]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "fullconv", "train", *map(str, words)]


def digest(run: Path) -> str:
    """Return one SHA-256 of both models and of the log without its times."""
    found = hashlib.sha256()
    for name in ("best", "last"):
        found.update((run / name / "model.safetensors").read_bytes())
    for line in (run / "log.jsonl").read_text().splitlines():
        found.update(json.dumps({key: value for key, value in json.loads(line).items() if key != "seconds"}).encode())
    return found.hexdigest()


def half_written(run: Path) -> list[str]:
    """Return the names of checkpoints that are being, or were, written and not put in place."""
    folder = run / "checkpoints"
    return [path.name for path in folder.iterdir() if path.name.startswith(".")] if folder.is_dir() else []


def killed(words: list[str], run: Path, after: float, in_write: bool) -> tuple[bool, bool]:
    """Start or resume the run and kill it after so many seconds, or at the next checkpoint that is then being written.

    Return whether it came to that, and whether inside a checkpoint's write.
    """
    before = set(half_written(run))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moment = time.monotonic() + after
    while process.poll() is None:
        if time.monotonic() > moment and (not in_write or set(half_written(run)) - before):
            break
        time.sleep(0.0002 if in_write else 0.01)
    finished = process.poll() is not None
    process.kill()
    if process.wait() != 0 and finished:
        raise SystemExit(f"{' '.join(map(str, words))} ended with exit code {process.returncode}")
    return not finished, bool(set(half_written(run)) - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    kills = writes = runs = unequal = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_shapes(folder / "data", count=12, sizes=(40, 48))
        whole: dict[tuple[int, float], tuple[str, float]] = {}
        while kills < options.kills:
            workers, minutes = CONFIGURATIONS[runs % len(CONFIGURATIONS)]
            settings = SETTINGS | {"data.workers": workers, "checkpoint_minutes": minutes}
            words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
            first = [folder / "data", "--epochs", EPOCHS, *words, "--out"]
            if (workers, minutes) not in whole:
                reference = folder / f"whole-{len(whole)}"
                start = time.monotonic()
                subprocess.run(command(*first, reference), check=True, capture_output=True)
                whole[workers, minutes] = digest(reference), time.monotonic() - start
            expected, seconds = whole[workers, minutes]
            run = folder / f"run-{runs}"
            mine = 0
            while not (run / "summary.json").is_file():
                begun = (run / "config.yaml").is_file()
                words = command("--resume", run) if begun else command(*first, run)
                if kills >= options.kills or mine >= 4:
                    subprocess.run(words, check=True, capture_output=True)
                    break
                was_killed, in_write = killed(words, run, chance.uniform(0.2, 0.8) * seconds, in_write=kills % 3 == 0)
                kills, writes, mine = kills + was_killed, writes + (was_killed and in_write), mine + was_killed
            equal = digest(run) == expected
            unequal += not equal
            runs += 1
            print(
                f"run {runs}: {workers} workers, a checkpoint every {60 * minutes:g} s: killed {mine} times, "
                f"{'equal' if equal else 'NOT EQUAL'}",
                flush=True,
            )
    print(f"{kills} kills, {writes} of them inside the write of a checkpoint; {runs} runs, {unequal} not equal")
    if unequal or 10 * writes < kills:
        raise SystemExit("not every run ended equal, or less than a tenth of the kills were inside a write")


if __name__ == "__main__":
    main()
