"""``fullconv predict``: images in, label pictures out."""

import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError, UsageError, plain
from .options import Mirror, ModelPath, Scales, Task, progress_bar, views

SKIPPED_SOME = 5
SAME_IN_ANY_CASE = sys.platform in ("win32", "darwin")
"""Whether the usual file systems here take names for one that differ in case, or in how accents are composed."""


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
    _keep_images(paths, out)
    predictor = load(model, task=task, views=views(scales, mirror))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    skipped = 0
    with progress_bar("predicting") as progress:
        for done, path in enumerate(paths):
            progress(done, len(paths))
            try:
                prediction = predictor.predict(path)
            except DataError as error:
                skipped += 1
                print(f"fullconv: skipped: {plain(error)}", file=sys.stderr)
                continue
            labels, overlay = _outputs(path, out)
            save_image(prediction.overlay(), overlay)  # First: what lies beside one is a prediction.
            prediction.save(labels)
    print(f"{len(paths) - skipped} of {len(paths)} images predicted, in {out}")
    if skipped:
        raise typer.Exit(SKIPPED_SOME)


def _image_files(paths: Iterable[Path]) -> list[Path]:
    from ..data.pairing import files_in
    from ..files.pictures import PICTURE_SUFFIXES

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = files_in(path, PICTURE_SUFFIXES)
            if not inside:
                raise DataError(f"{path}: holds no images; give image files or a folder of them")
            files += inside
        elif path.exists():
            files.append(path)
        elif found := _matching(path):  # No shell of Windows does it.
            files += _image_files(found)
        else:
            raise UsageError(f"{path}: no such file or folder; check the path")
    return files


def _matching(pattern: Path) -> list[Path]:
    from ..data.pairing import visible

    with suppress(ValueError):  # It is no pattern.
        return visible(path for path in pattern.parent.glob(pattern.name) if path.exists())
    return []


def _outputs(path: Path, out: Path) -> tuple[Path, Path]:
    """Return where an image's labels and its overlay are written."""
    return out / f"{path.stem}.png", out / f"{path.stem}_overlay.png"


def _check_names(paths: Iterable[Path]) -> None:
    counts = Counter(_as_stored(file.name) for path in paths for file in _outputs(path, Path()))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UsageError(
            f"two images would be written to {twice[0]}: predict them in separate calls with another --out"
        )


def _as_stored(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold() if SAME_IN_ANY_CASE else name


def _keep_images(paths: Sequence[Path], out: Path) -> None:
    """Refuse to write over an image that is to be predicted, whatever the two paths look like, or over a mask."""
    images = {(found.st_dev, found.st_ino) for path in paths if path.exists() for found in [path.stat()]}
    for path in paths:
        for file in _outputs(path, out):
            if file.exists() and (file.stat().st_dev, file.stat().st_ino) in images:
                raise UsageError(f"{file}: is an image to be predicted and would be overwritten; choose another --out")
        labels, overlay = _outputs(path, out)
        if labels.exists() and not overlay.exists():
            raise UsageError(f"{labels}: is no earlier prediction ({overlay.name} is not there); choose another --out")
