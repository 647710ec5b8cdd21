"""From an image of any size to a class for every pixel."""

import copy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..errors import DataError, ModelError, UsageError, in_one_line, out_of_memory
from ..files.images import read_image, to_rgb
from ..files.pictures import Bands, Pixels, as_colours
from ..models import FCN
from ..nn.mode import evaluation_mode
from .prediction import Prediction
from .views import Views

MODELS = "best", "last"
"""Model folders of a run, the better first."""

_STACKED = "of stacked files, give all in one array to load(MODEL).predict"

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class Predictor:
    """A network ready to predict.

    Args:
        model: The network; it is put into evaluation mode, in which it also predicts while the caller trains it on. It
            may be of bfloat16 or half precision.
        device: Where to run it; by default the first GPU, else the CPU.
        task: Which task to predict; by default the first.
        views: Scaled and mirrored versions of an image to predict and average; by default the image alone.

    Raises:
        UsageError: The network has no such task.
    """

    def __init__(
        self,
        model: FCN,
        *,
        device: str | torch.device | None = None,
        task: str | None = None,
        views: Views | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.eval().to(self.device)
        self._choose(task or next(iter(model.labels)), views or Views())
        self.channels = self.model.mean.shape[1]
        config = self.model.config
        self._bands, self._range = (None, None) if config is None else (config.bands, config.value_range)

    def seen_as(self, task: str, views: Views) -> "Predictor":
        """Return the same predictor of another task, or with other views; the network is shared.

        Raises:
            UsageError: The network has no such task.
        """
        other = copy.copy(self)
        other._choose(task, views)
        return other

    def _choose(self, task: str, views: Views) -> None:
        if task not in self.model.labels:
            raise UsageError(f"the model has no task {task!r}; it has {', '.join(self.model.labels)}")
        self.task, self.views, self.label_set = task, views, self.model.labels[task]

    def predict(self, image: ImageLike) -> Prediction:
        """Return the class of every pixel.

        Args:
            image: A path, a PIL image, a uint8 array (h×w, h×w×3, h×w×4), or a uint8 tensor 3×h×w. EXIF rotation is
                applied to files and PIL images. For a network of bands, or of other channels c than 3: a path, whose
                bands are read as they were for training, or an array h×w×c or tensor c×h×w of values 0–255. For a
                network of stacked files: such an array or tensor alone.

        Raises:
            DataError: The file cannot be read as an image, or is too large for the memory; the message names it.
            UsageError: It has other channels than the network, or values that are not scaled to 0–255.
        """
        pixels = self._read(Path(image)) if isinstance(image, (str, Path)) else self._pixels(image)
        try:
            labels, confidence = self._run(pixels)
        except (DataError, UsageError) as error:
            raise (type(error)(f"{image}: {error}") if isinstance(image, (str, Path)) else error) from None
        shown = as_colours(pixels.cpu()).permute(1, 2, 0).numpy()
        return Prediction(labels.cpu().numpy(), confidence.cpu().numpy(), self.label_set, shown)

    def _read(self, path: Path) -> Pixels:
        if self._bands == ():
            raise UsageError(f"{path}: the model takes {self.channels} channels {_STACKED}")
        return read_image(path) if self._bands is None else Bands(path, self._bands, self._range).read()

    def _pixels(self, image: Image.Image | np.ndarray | Tensor) -> Pixels:
        if isinstance(image, Image.Image) and self._bands == ():
            raise UsageError(f"the model takes {self.channels} channels {_STACKED}")
        if isinstance(image, Image.Image) or (self.channels in (1, 3) and self._bands is None):
            return to_rgb(image)
        if isinstance(image, np.ndarray):
            image = torch.from_numpy(np.array(np.moveaxis(np.atleast_3d(image), 2, 0), order="C"))
        if image.ndim != 3 or 0 in image.shape:
            raise UsageError(f"the image's shape is {tuple(image.shape)}; give {self.channels} channels of some pixels")
        return image if image.dtype == torch.uint8 else _in_range(image.float())

    def labels(self, image: Tensor) -> Tensor:
        """Return the class ids h×w of an image c×h×w, 0–255: what evaluation needs, and no more.

        Raises:
            DataError: It is too large for the memory.
            UsageError: It has other channels than the network.
        """
        with self._within_memory(image):
            return self._scores(image).argmax(0)

    def _run(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with self._within_memory(image):
            labels, confidence = _most_probable(self._scores(image))
        small = torch.uint8 if self.label_set.num_classes <= 256 else torch.int16
        return labels.to(small), confidence.clamp_(0, 1)

    @torch.inference_mode()
    def _scores(self, image: Tensor) -> Tensor:
        batch = image[None].to(self.model.mean)  # Its device and precision.
        if (self.channels, batch.shape[1]) == (1, 3):
            batch = batch.mean(1, keepdim=True)
        if self.channels != batch.shape[1]:
            raise UsageError(f"the model takes {self.channels} channels, the image has {batch.shape[1]}; {_STACKED}")
        with evaluation_mode(self.model):
            return self.views.scores(lambda view, scale: self.model.logits(view, scale)[self.task].float(), batch)[0]

    @contextmanager
    def _within_memory(self, image: Tensor) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # They hold the pass's tensors, and notebooks keep the error.
            height, width = image.shape[-2:]
            raise DataError(
                f"{height}×{width} pixels are too much for the memory ({self.device}); scale or cut the image first "
                f"({in_one_line(error)})"
            ) from error


def _most_probable(scores: Float[Tensor, "k h w"]) -> tuple[Tensor, Tensor]:
    best, labels = scores.max(0)
    return labels, torch.exp(best - torch.logsumexp(scores, 0))


def _in_range(image: Tensor) -> Tensor:
    """Return an image whose values are 0–255, to within rounding; one that holds what is no number is none such."""
    low, high = (value.item() for value in image.aminmax())
    if not (low > -0.5 and high < 255.5):
        raise UsageError(
            f"the image's values go from {low:g} to {high:g}; scale each channel to 0–255 by the range of its "
            f"dataset.yaml"
        )
    return image


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    task: str | None = None,
    views: Views | None = None,
) -> Predictor:
    """Return a predictor for a model folder, or for a run folder (its ``best``); options as for :class:`Predictor`.

    Raises:
        ModelError: There is no usable model; the message names the file.
        UsageError: The model has no such task.
    """
    model = FCN.from_pretrained(model_folder(path))
    model.to(memory_format=torch.channels_last)
    return Predictor(model, device=device, task=task, views=views)


def model_folder(path: str | Path) -> Path:
    """Return the model folder that ``path`` means: itself, or ``best`` inside a run folder.

    Raises:
        ModelError: There is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelError(f"{path}: no such model; give a model folder or a run folder")
    inside = [path / name for name in MODELS if (path / name).is_dir()]
    stages = sorted(stage for stage in path.glob("stage-*") if any((stage / name).is_dir() for name in MODELS))
    if stages and not inside:
        raise ModelError(f"{path}: not all of its stages have ended; give one: {', '.join(map(str, stages))}")
    return inside[0] if inside and not (path / "config.json").exists() else path
