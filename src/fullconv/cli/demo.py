"""``fullconv demo``: the whole main job in about two minutes, offline."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

IMAGES = 800
PASS_MARK = 0.80
FELL_SHORT = 1


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to create.")] = Path("fullconv-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of images, weights and order.")] = 0,
) -> None:
    """Generate images, train a small FCN-8s, evaluate, predict, and leave pictures: about two minutes."""
    from ..data.generated import write_shapes
    from ..evaluation import as_predictor, evaluate, save_panels
    from ..training import train
    from .options import print_scores

    start = time.monotonic()
    folder = _fresh(out)
    source = write_shapes(folder / "data", count=IMAGES, seed=seed)
    result = train(folder / "data", folder / "run", recipe="demo", seed=seed)
    predictor = as_predictor(result.run)
    scores = evaluate(predictor, source, "test")
    pictures = save_panels(predictor, source, "test", folder / "pictures")
    print_scores(scores)
    print(f"\n{time.monotonic() - start:.0f} s; data, run and pictures in {folder}; look at {pictures[0]}")
    if not scores.mean_iu >= PASS_MARK:
        print(
            f"fullconv: mean IU {scores.mean_iu:.3f} is below {PASS_MARK}: something is wrong here",
            file=sys.stderr,
        )
        raise typer.Exit(FELL_SHORT)


def _fresh(out: Path) -> Path:
    """Return ``out``, or the first of out-2, out-3, … that does not exist: an earlier demo is never overwritten."""
    if not out.name:
        raise UsageError(f"--out {out}: give the name of a folder to create, such as --out fullconv-demo")
    names = (out if number == 1 else out.with_name(f"{out.name}-{number}") for number in range(1, 1000))
    folder = next(name for name in names if not name.exists())
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
    return folder
