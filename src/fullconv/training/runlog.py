"""What a run leaves behind besides weights: its configuration, environment, log and summary."""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml

from ..errors import UsageError
from ..files.atomic import write_atomically
from .config import TrainConfig


class RunLog:
    """A run folder: ``config.yaml``, ``env.json``, ``log.jsonl``, ``summary.json``, ``best/``, ``last/``.

    Raises:
        UsageError: The folder already holds something, or cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            occupied = any(self.folder.iterdir())
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror}); choose another --out") from error
        if occupied:
            raise UsageError(f"{self.folder}: already holds files; choose another --out, or remove it first")

    @property
    def best(self) -> Path:
        """Model folder with the best validation score (or the last weights, where there is no validation split)."""
        return self.folder / "best"

    @property
    def last(self) -> Path:
        """Model folder with the last weights."""
        return self.folder / "last"

    def start(self, config: TrainConfig) -> None:
        """Write what the run was asked to do, and on what."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_atomically(self.folder / "config.yaml", lambda path: path.write_text(text))
        self.write_json("env.json", environment())

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to ``log.jsonl``."""
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def write_json(self, name: str, record: dict[str, Any]) -> None:
        """Write a JSON file into the run folder, whole or not at all."""
        text = json.dumps(record, indent=2) + "\n"
        write_atomically(self.folder / name, lambda path: path.write_text(text))


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "command": sys.argv,
    }
