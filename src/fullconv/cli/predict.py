"""``fullconv predict``: images in, label pictures out."""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError, UsageError
from .options import Mirror, ModelPath, Scales, Task, views

SKIPPED_SOME = 5


def predict(
    model: ModelPath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for NAME.png (labels) and NAME_overlay.png.")
    ],
    task: Task = None,
    scales: Scales = "1",
    mirror: Mirror = False,
) -> None:
    """Predict every pixel of images; unreadable ones are named and skipped (exit code 5)."""
    from ..inference import load
    from ..inference.prediction import save_image

    paths = _image_files(images)
    _check_names(paths)
    predictor = load(model, task=task, views=views(scales, mirror))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    skipped = 0
    for path in paths:
        try:
            prediction = predictor.predict(path)
        except DataError as error:
            skipped += 1
            print(f"fullconv: skipped: {error}", file=sys.stderr)
            continue
        prediction.save(out / f"{path.stem}.png")
        save_image(prediction.overlay(), out / f"{path.stem}_overlay.png", "PNG")
    print(f"{len(paths) - skipped} of {len(paths)} images predicted, in {out}")
    if skipped:
        raise typer.Exit(SKIPPED_SOME)


def _image_files(paths: Iterable[Path]) -> list[Path]:
    from ..files.pictures import PICTURE_SUFFIXES

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES)
            if not inside:
                raise DataError(f"{path}: holds no images; give image files or a folder of them")
            files += inside
        else:
            files.append(path)
    return files


def _check_names(paths: Iterable[Path]) -> None:
    counts = Counter(name for path in paths for name in (path.stem, f"{path.stem}_overlay"))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UsageError(
            f"two images would be written to {twice[0]}.png: predict them in separate calls with another --out"
        )
