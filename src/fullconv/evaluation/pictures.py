"""Pictures a person judges by: image, truth, prediction and errors side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, ImageDraw

from ..data import DataSource, Sample
from ..data.labels import VOID_COLOUR, LabelSet
from ..data.sampling import evenly
from ..files.pictures import as_colours
from ..inference import Predictor
from ..inference.prediction import colours, save_image

GAP = 6
CAPTION = 16
RIGHT, WRONG = (214, 230, 214), (200, 30, 40)


def errors(
    target: Integer[np.ndarray, "h w"], labels: Integer[np.ndarray, "h w"], label_set: LabelSet
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a map of what is wrong: red where the label is not the truth, light where it is, yellow for void."""
    void: Bool[np.ndarray, "h w"] = target >= label_set.num_classes
    picture = np.where((target == labels)[..., None], np.array(RIGHT), np.array(WRONG)).astype(np.uint8)
    picture[void] = VOID_COLOUR
    return picture


def panel(sample: Sample, predictor: Predictor) -> Image.Image:
    """Return image | truth | prediction | errors of one sample and the predictor's task, each with a caption."""
    labels = predictor.labels(sample.image).cpu().numpy()
    target, label_set = sample.further.get(predictor.task, sample.target).numpy(), predictor.label_set
    pictures = (
        as_colours(sample.image).permute(1, 2, 0).numpy(),
        colours(target, label_set),
        colours(labels, label_set),
        errors(target, labels, label_set),
    )
    valid = target < label_set.num_classes
    wrong = float((labels != target)[valid].mean()) if valid.any() else 0.0
    return _row(pictures, ("image", "truth", "prediction", f"errors: {wrong:.1%}"))


def _row(pictures: Sequence[UInt8[np.ndarray, "h w 3"]], captions: Sequence[str]) -> Image.Image:
    height, width = pictures[0].shape[:2]
    sheet = Image.new("RGB", ((width + GAP) * len(pictures) - GAP, height + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = index * (width + GAP)
        draw.text((left + 2, 2), caption, fill="black")
        sheet.paste(Image.fromarray(picture), (left, CAPTION))
    return sheet


def save_panels(predictor: Predictor, source: DataSource, split: str, folder: str | Path, count: int = 8) -> list[Path]:
    """Write panels of ``count`` samples, evenly spread over the split, and return their paths.

    Raises:
        UsageError: The folder cannot be written.
    """
    samples = source.dataset(split)
    paths = []
    for index in evenly(len(samples), count).tolist():
        sample = samples[index]
        path = Path(folder) / f"{sample.stem}.png"
        save_image(panel(sample, predictor), path)
        paths.append(path)
    return paths
