"""The diagnosis as one HTML page that needs nothing else: numbers, pictures, worst offenders."""

import base64
import io
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..data import DataSource
from ..data.sampling import evenly
from ..data.source import Record
from ..errors import DataError
from ..files import write_atomically
from ..files.images import opened
from ..files.pictures import as_colours
from .diagnosis import Diagnosis

SAMPLES = 8
OFFENDERS = 12
_SIDE = 320


def write_report(diagnosis: Diagnosis, path: str | Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        UsageError: It cannot be written.
    """
    import jinja2

    template = (resources.files("fullconv") / "doctor" / "report.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(template).render(_facts(diagnosis))
    page = text.encode(errors="backslashreplace")  # Names of files need not be text.
    write_atomically(path, lambda temporary: temporary.write_bytes(page), "choose another --report")


def _facts(diagnosis: Diagnosis) -> dict[str, Any]:
    source = diagnosis.source
    names, palette = source.labels.names, source.labels.palette
    frequencies, weights = diagnosis.frequencies, diagnosis.class_weights
    classes = [
        {
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*colour),
            "share": float(share),
            "weight": float(weight),
            "counts": [int(pixels[index]) for pixels in diagnosis.pixels.values()],
        }
        for index, (name, colour, share, weight) in enumerate(zip(names, palette, frequencies, weights, strict=True))
    ]
    return {
        "root": str(source.root),
        "format": source.format,
        "splits": {split: len(records) for split, records in source.splits.items()},
        "classes": classes,
        "largest": max([float(share) for share in frequencies] + [1e-9]),
        "sizes": diagnosis.sizes,
        "mean": diagnosis.mean,
        "std": diagnosis.std,
        "upper_bound": diagnosis.upper_bound,
        "stride": diagnosis.recommended_stride,
        "problems": diagnosis.problems,
        "samples": _samples(source),
        "offenders": _offenders(diagnosis),
    }


def _samples(source: DataSource) -> list[dict[str, str]]:
    """Return overlays of samples spread evenly over the data set."""
    records = [record for part in source.splits.values() for record in part]
    chosen = [records[number] for number in evenly(len(records), SAMPLES)]
    pictures = [(record.stem, _overlay(source, record)) for record in chosen]
    return [{"title": stem, "picture": _data_url(picture)} for stem, picture in pictures if picture is not None]


def _offenders(diagnosis: Diagnosis) -> list[dict[str, str]]:
    """Return pictures of the first files of every kind of problem, as far as they can be shown."""
    shown: list[dict[str, str]] = []
    for problem in diagnosis.problems:
        for file in problem.files[:2]:
            if len(shown) < OFFENDERS and (picture := _picture(file)) is not None:
                shown.append({"title": f"{problem.kind}: {file.name}", "picture": _data_url(picture)})
    return shown


def _overlay(source: DataSource, record: Record) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        sample = source.read_sample(record)
    except DataError:
        return None
    image, target = as_colours(sample.image).permute(1, 2, 0).numpy(), sample.target.numpy()
    void = target >= source.labels.num_classes
    colours = np.array(source.labels.palette, np.uint8)[np.where(void, 0, target)]
    mixed = (image.astype(np.uint16) + colours) // 2
    return np.asarray(np.where(void[..., None], image, mixed), np.uint8)


def _picture(path: Path) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        with opened(path, colours=True) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (DataError, OSError):  # It is shown because it is broken, and may be no file's name at all.
        return None
    # Ids of a few classes are nearly black: stretch them.
    return (
        pixels
        if pixels.max(initial=0) > 64
        else (pixels.astype(np.uint16) * 255 // max(1, pixels.max())).astype(np.uint8)
    )


def _data_url(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
