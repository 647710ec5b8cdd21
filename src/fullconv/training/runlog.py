"""The run folder: what is in it, and who may write there."""

import csv
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml

from .. import __version__
from ..errors import DataError, UsageError
from ..files.atomic import ELSEWHERE, remove_half_written, write_atomically
from ..files.lock import locked
from ..files.text import read_text
from ..metrics import METRICS, Scores
from ..models import FCN
from ..trunks import DOWNLOAD
from .checkpoint import GO_ON, Checkpoint, Checkpoints
from .config import FILES, TrainConfig, changed, load_config
from .runtime import Runtime, is_first

CONFIG, SUMMARY, ENVIRONMENT, TRANSPLANT = "config.yaml", "summary.json", "env.json", "transplant.json"

_STAGE = re.compile(r"stage-\d+-\d+s")
"""What folders of stages are called: see ``fit_stages``."""

COLUMNS = ("epoch", "loss", *METRICS)
"""Of ``metrics.csv``: without times, so that equal runs have equal files."""


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        run: The run folder; it stands for its best model wherever a model is asked for.
        scores: Best scores on the validation split; None where nothing was scored.
        epochs: Passes over the training images.
        seconds: Wall-clock time of training: from where the data set and the network are ready.
    """

    run: Path
    scores: Scores | None
    epochs: float
    seconds: float


class RunLog:
    """A run folder: its settings, environment, log, summary, models and checkpoints.

    Args:
        folder: The run's, or a stage's.

    Attributes:
        folder: See above.
        run: What ``--resume`` takes: the run, also of a stage.
        writes: Whether this process writes there; of several that train together only one does.
        moved_to: DATA as given to a resumed run, which remembers it; None where none was given.

    Raises:
        UsageError: From whatever writes: the folder was moved, removed or replaced, or has no room.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        place = self.folder.absolute()
        self.run = place.parent if _STAGE.fullmatch(place.name) and is_run(place.parent) else self.folder
        self.writes = is_first()
        self.moved_to: Path | None = None
        self._is_ours: Callable[[], bool] | None = None

    @classmethod
    def new(cls, folder: str | Path) -> "RunLog":
        """Return the log of a run that is to begin.

        Raises:
            UsageError: The folder already holds something, or cannot be written.
        """
        log = cls(folder)
        if not log.writes:
            return log
        there = next((path for path in (log.folder, *log.folder.absolute().parents) if path.exists()), None)
        if there is None:
            raise UsageError(f"{log.folder}: cannot be written (there is no such drive); choose another --out")
        if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            raise UsageError(
                f"{log.folder}: cannot be written ({there} is no folder, or not yours to write); choose another --out"
            )
        if is_run(folder) and not (log.folder / SUMMARY).is_file():
            raise UsageError(
                f"{log.folder}: holds a run that has not ended; go on with it by {log.going_on()}, or choose "
                f"another --out"
            )
        # Without ``config.yaml`` these are left of a run, or of a search for a rate, that was killed as it began.
        inside = log.folder.iterdir() if there == log.folder else ()
        if any(path.name not in (ENVIRONMENT, TRANSPLANT) and path.name[0] != "." for path in inside):
            raise UsageError(f"{log.folder}: already holds files; choose another --out, or remove it first")
        return log

    @classmethod
    def resumed(cls, folder: str | Path) -> "RunLog":
        """Return the log of a run that has begun.

        Raises:
            UsageError: It is no run.
        """
        if not is_run(folder):
            raise UsageError(f"{folder}: holds no {CONFIG}, so it is no run to resume; start one with --out")
        return cls(folder)

    def stage(self, folder: Path, config: TrainConfig) -> "RunLog":
        """Return the log of a stage of this run in a folder inside it: begun, finished, or begun now.

        What a process left there that was killed before it had begun is removed.
        """
        self._check_there()
        log = RunLog(folder)
        log.run, log.moved_to, log._is_ours = self.run, self.moved_to, self._is_ours
        if self.writes and not (folder / CONFIG).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            data = None
            with suppress(UsageError):  # Nor does the stage know it then.
                data = self._started_on()
            log.start(config, data, self.images_digest())
        elif self.writes and not (folder / SUMMARY).is_file():
            log.remember(config)  # The run's may have been edited since.
        return log

    @property
    def checkpoints(self) -> Checkpoints:
        """What ``--resume`` goes on from."""
        return Checkpoints(self.folder / "checkpoints")

    def config(self) -> TrainConfig:
        """Return what the run was asked to do.

        Raises:
            UsageError: The file is damaged.
        """
        return load_config(str(self.folder / CONFIG))

    def going_on(self) -> str:
        """Return what goes on with the run: a command, or in Python a call, where it has an opened data set."""
        with suppress(UsageError):
            if RunLog(self.run)._started_on() is None:
                return f"fullconv.train(source, resume={str(self.run)!r})"
        return resuming(self.run)

    def data(self) -> Path:
        """Return the data set that the run was started on.

        Raises:
            UsageError: It was an opened data set, which must be given again.
            DataError: It is not there any more.
        """
        if (path := self._started_on()) is None:
            raise UsageError(f"{self.folder}: was started from Python on an opened data set; give it again as data")
        if not path.exists():
            raise DataError(
                f"{path}: the data set of {self.folder} is gone; if it is elsewhere now: "
                f"{resuming(self.folder, 'DATA ')}"
            )
        return path

    def _started_on(self) -> Path | None:
        path = self.folder / ENVIRONMENT
        try:
            place = json.loads(read_text(path)).get("data")
            return None if place is None else Path(place)
        except (DataError, ValueError, AttributeError, TypeError) as error:
            raise UsageError(
                f"{path}: does not say on what data the run was started ({error}); {resuming(self.folder, 'DATA ')}"
            ) from error

    def _check_there(self) -> None:
        """See that the run that is held is where it was: to write on would make half of one anew, or spoil another.

        Raises:
            UsageError: The run's folder was moved, removed or replaced.
        """
        if self._is_ours is None:
            return
        if not is_run(self.run) or not self._is_ours() or (self.run / SUMMARY).is_file():
            raise UsageError(
                f"{self.run}: was moved or removed while it trained; go on with it where it is now, by "
                f"fullconv train --resume"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing into the run; what killed ones left half-written is removed.

        Raises:
            UsageError: Another one writes there, or this one may not.
        """
        if not self.writes:
            yield
            return
        with locked(self.run, "another process trains in it") as self._is_ours:
            remove_half_written(self.folder)
            yield

    def start(self, config: TrainConfig, data: str | Path | None = None, images: str | None = None) -> None:
        """Write what the run was asked to do, and on what, with paths that hold from anywhere; ``config.yaml`` last.

        Args:
            config: The settings.
            data: Where the data set is; None if it was opened in Python.
            images: What :meth:`images_digest` is to return.
        """
        place = None if data is None else str(Path(data).resolve())
        self.write_json(ENVIRONMENT, environment() | {"data": place, "images": images})
        self._write_config(config)

    def images_digest(self) -> str | None:
        """Return the digest of the names of the images to train on (see ``feed.names_digest``); None if unknown."""
        found = self._environment().get("images")
        return found if isinstance(found, str) else None

    def remember(self, config: TrainConfig) -> None:
        """Write what the run is asked to do, in the place of what was known before."""
        self._check_there()
        self._write_config(config)

    def _write_config(self, config: TrainConfig) -> None:
        text = yaml.safe_dump(with_absolute_paths(config).model_dump(mode="json"), sort_keys=False)
        self._write(CONFIG, text)

    def note_environment(self) -> list[str]:
        """Remember what is other than when the run was begun, or last gone on with, and return lines that say so.

        That is its environment, and where its data set is.
        """
        record, now = self._environment(), environment()
        before = [record, *record.get("resumed", [])][-1]
        changed = [name for name, value in now.items() if name != "command" and before.get(name) != value]
        if changed:
            record["resumed"] = [*record.get("resumed", []), now]
        if self.moved_to is not None:
            record["data"] = str(self.moved_to)
        if changed or self.moved_to is not None:
            self.write_json(ENVIRONMENT, record, GO_ON)
        if self.run != self.folder:  # Its run knows what it went on with last; a stage may only begin now.
            whole = RunLog(self.run)
            whole.moved_to = self.moved_to
            return whole.note_environment()
        return [f"goes on with {name} {now[name]}, not {before[name]}" for name in changed if name in before]

    def _environment(self) -> dict[str, Any]:
        with suppress(DataError, ValueError):  # Damaged: nothing is known of before.
            record = json.loads(read_text(self.folder / ENVIRONMENT))
            return record if isinstance(record, dict) else {}
        return {}

    def rewrite(self, records: Sequence[dict[str, Any]]) -> None:
        """Let ``log.jsonl``, and ``metrics.csv`` as a table, hold these epochs and no others."""
        self._check_there()
        lines = "".join(json.dumps(record) + "\n" for record in records)
        self._write("log.jsonl", lines, GO_ON)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: record.get(name, "") for name in COLUMNS} for record in records)
        try:
            self._write("metrics.csv", table.getvalue(), GO_ON)
        except UsageError as error:  # As where a spreadsheet holds it, on Windows.
            warnings.warn(f"{error}; until then log.jsonl holds the same numbers", stacklevel=2)

    def save(self, model: FCN, name: str) -> None:
        """Save the network as ``best`` (by validation score; the last where nothing is scored) or ``last``."""
        self._check_there()
        if self.writes:
            model.save_pretrained(self.folder / name, remedy=GO_ON)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write what ``--resume`` goes on from.

        Raises:
            UsageError: It cannot be written; those before are as they were.
        """
        self._check_there()
        if self.writes:
            self.checkpoints.write(checkpoint)

    def finish(self, result: TrainResult) -> None:
        """Write what the run ended with."""
        self._check_there()
        scores = result.scores
        summary = {
            "seconds": result.seconds,
            "epochs": result.epochs,
            "scores": scores.to_dict() if scores else None,
            "confusion": scores.confusion.tolist() if scores else None,
        }
        self.write_json(SUMMARY, summary, GO_ON)
        self.clear()

    def result(self) -> TrainResult | None:
        """Return what a finished run ended with, and remove its checkpoints; None where it is not finished."""
        if not (self.folder / SUMMARY).is_file():
            return None
        self.clear()
        summary = json.loads((self.folder / SUMMARY).read_text())
        scores = None
        if summary["scores"]:
            names = [row["name"] for row in summary["scores"]["per_class"]]
            scores = Scores.from_confusion(torch.tensor(summary["confusion"]), names)
        return TrainResult(self.folder, scores, summary["epochs"], summary["seconds"])

    def clear(self) -> None:
        """Remove what only an unfinished run needs: also where the run was killed as it finished."""
        if self.writes:
            with suppress(OSError):
                self.checkpoints.remove()

    def write_json(self, name: str, record: dict[str, Any], remedy: str = ELSEWHERE) -> None:
        """Write a JSON file into the run folder, whole or not at all."""
        self._write(name, json.dumps(record, indent=2) + "\n", remedy)

    def _write(self, name: str, text: str, remedy: str = ELSEWHERE) -> None:
        if self.writes:
            write_atomically(self.folder / name, lambda path: path.write_text(text), remedy)


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Return a configuration whose files are named from the root; links among them stay links."""

    def absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
        paths = {name: settings[name] for name in FILES if settings.get(name) not in (None, DOWNLOAD)}
        return {name: str(Path(path).absolute()) for name, path in paths.items()}

    own = absolute({name: getattr(config.model, name.removeprefix("model.")) for name in FILES})
    return changed(config, own | {"stages": tuple(stage | absolute(stage) for stage in config.stages)})


def starting_from(folder: str | Path) -> str:
    """Return the command that starts another run from the weights of a finished one."""
    return f"fullconv train DATA --out OTHER --set model.init={_quoted(folder)}"


def resuming(folder: Path, data: str = "") -> str:
    """Return the command that goes on with a run."""
    return f"fullconv train {data}--resume {_quoted(folder)}"


def _quoted(path: str | Path) -> str:
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def is_run(folder: str | Path) -> bool:
    """Return whether a run was started in a folder."""
    return (Path(folder) / CONFIG).is_file()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a result depends on."""
    runtime = Runtime()
    return {
        "fullconv": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "timm": _version("timm"),
        "threads": torch.get_num_threads(),
        "device": runtime.device_name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_in_hardware": runtime.bf16_in_hardware,
        "ranks": runtime.ranks,
        "command": sys.argv,
    }
