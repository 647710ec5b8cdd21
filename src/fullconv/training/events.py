"""TensorBoard: the numbers of ``log.jsonl`` as curves, and pictures of predictions (extra ``tensorboard``)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DataSource
from ..data.sampling import evenly
from ..errors import UsageError
from ..evaluation import panel
from ..inference import Predictor
from ..models import FCN
from .checkpoint import GO_ON

FOLDER, PICTURES, LARGEST_SIDE = "tensorboard", 4, 2048
"""Where events lie in a run; how many pictures they have, and how many pixels the longer side of one at most."""


def summary_writer() -> Any:
    """Return torch's class that writes what TensorBoard reads.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ModuleNotFoundError as error:
        raise UsageError(
            "tensorboard is not installed: pip install 'fullconv[tensorboard]', or leave tensorboard=true out"
        ) from error
    return SummaryWriter


class Events:
    """Writes what TensorBoard reads.

    Args:
        run: The run folder; the events lie in ``tensorboard/`` inside it.
        epoch: The first epoch that will be written: later ones, of a process that was killed, are taken back.

    Raises:
        UsageError: TensorBoard is not installed, or there is no room for the events.
    """

    def __init__(self, run: Path, epoch: int) -> None:
        self._folder = run / FOLDER
        with self._writing():
            self._writer: Any = summary_writer()(self._folder, purge_step=epoch)

    def epoch(self, record: dict[str, Any], rate: float, model: FCN, source: DataSource) -> None:
        """Write an epoch's line of the log and its highest learning rate; where it was scored, also a few pictures.

        Those are image | truth | prediction | errors of validation images.

        Raises:
            UsageError: There is no room for it.
        """
        numbers = {name: value for name, value in record.items() if isinstance(value, float)} | {"rate": rate}
        with self._writing():
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, record["epoch"])
            if "mean_iu" in record:
                predictor, samples = Predictor(model, device=model.mean.device), source.dataset("val")
                for index in evenly(len(samples), PICTURES).tolist():
                    sample = samples[index]
                    picture = panel(sample, predictor)
                    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
                    self._writer.add_image(sample.stem, np.asarray(picture), record["epoch"], dataformats="HWC")
            self._writer.flush()  # What is not flushed is lost at the end of the process.

    def close(self) -> None:
        """End the thread that writes.

        Raises:
            UsageError: There is no room for what is left to write.
        """
        with self._writing():
            self._writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"{self._folder}: cannot be written: {error.strerror or error}; {GO_ON}") from error
