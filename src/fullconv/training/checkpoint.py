"""Everything a run needs to go on where it stopped: one hashed file, written whole; damaged ones are passed over.

A file is safetensors followed by its SHA-256. It is written from where the tensors lie, those that lie channels last
with their second dimension last: beside a gigabyte of state there may be no room, and after a signal there is no time,
for its bytes once more.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from ..errors import ModelError, in_one_line
from ..files.atomic import write_atomically
from ..files.tensors import save_tensors

SCHEMA = 8
KEPT = 2
"""How many checkpoints stay: the newest, and the one before should that be damaged."""

GO_ON = "make room, and go on with fullconv train --resume"
"""What to do where a run cannot write any more."""

_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after a step.

    Attributes:
        step: Number of steps taken.
        tensors: By name; none share memory.
        facts: Plain values for JSON.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The newest checkpoints of a run.

    Args:
        folder: Where they lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, checkpoint: Checkpoint) -> None:
        """Write one, whole or not at all; then remove all but it and the last before it.

        Raises:
            UsageError: It cannot be written; those before are as they were.
        """
        moved = [name for name, tensor in checkpoint.tensors.items() if _lies_channels_last(tensor)]
        facts = json.dumps({"schema": SCHEMA, "step": checkpoint.step, "channels_last": moved, **checkpoint.facts})
        tensors = checkpoint.tensors | {name: checkpoint.tensors[name].permute(0, 2, 3, 1) for name in moved}

        def write(path: Path) -> None:
            save_tensors(path, tensors, {"facts": facts})
            with path.open("r+b") as file:
                file.write(hashlib.file_digest(file, "sha256").digest())

        path = self.folder / f"{checkpoint.step:09d}.ckpt"
        write_atomically(path, write, GO_ON)
        # Later ones were damaged, or the run would not have come here again.
        self._keep_only([other for other in self._paths() if other <= path][:KEPT])

    def latest(self) -> Checkpoint | None:
        """Return the newest that is whole; None where there is none. Damaged ones are named in a warning.

        Raises:
            ModelError: Another version wrote it; or one cannot be read, which does not say that it is damaged.
        """
        with _reading(self.folder):
            if self.folder.is_dir():
                next(self.folder.iterdir(), None)  # What may not be listed would pass for empty.
        for path in self._paths():
            payload = _read_whole(path)
            if payload is not None:
                return _parsed(path, payload)
            warnings.warn(f"{path}: damaged checkpoint (its hash does not fit); passed over", stacklevel=2)
        return None

    def exist(self) -> bool:
        """Return whether there is one, whole or not."""
        return bool(self._paths())

    def remove(self) -> None:
        """Remove them all: the run is finished."""
        self._keep_only([])
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.ckpt"), reverse=True)

    def _keep_only(self, kept: list[Path]) -> None:
        for path in self._paths():
            if path not in kept:
                with suppress(OSError):  # One that another program reads, on Windows: the next time it goes, too.
                    path.unlink()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say what cannot be read.

    Raises:
        ModelError: The file or folder cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror or error}); see who may read it, or remove it to do without"
        ) from error


def _read_whole(path: Path) -> bytes | None:
    """Return what a file holds before its hash; None where that does not fit."""
    with _reading(path), path.open("rb") as file:
        payload = file.read(max(0, path.stat().st_size - _DIGEST))
        digest = file.read()
    return payload if digest == hashlib.sha256(payload).digest() else None


def _parsed(path: Path, payload: bytes) -> Checkpoint:
    try:
        length = int.from_bytes(payload[:8], "little")
        facts = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["facts"])
        if facts.pop("schema") != SCHEMA:
            raise ModelError(f"{path}: written by another version of fullconv; resume with that one")
        tensors = load(payload)
        tensors |= {name: tensors[name].permute(0, 3, 1, 2) for name in facts.pop("channels_last")}
        return Checkpoint(facts.pop("step"), tensors, facts)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # As in models/folder.py, for want of a common base.
        reason = in_one_line(error)
        raise ModelError(
            f"{path}: holds no state of a run ({type(error).__name__}: {reason}); remove it to do without"
        ) from error


def _lies_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous()
