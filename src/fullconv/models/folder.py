"""A model on disk: a folder with ``config.json`` and ``model.safetensors``, nothing that runs code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from ..data.labels import LabelSet
from ..errors import FullconvError, ModelError, in_one_line
from ..files.atomic import write_atomically
from ..files.tensors import save_tensors
from .config import ModelConfig

SCHEMA = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_model(
    folder: str | Path,
    config: ModelConfig,
    labels: Mapping[str, LabelSet],
    state: Mapping[str, Tensor],
    remedy: str,
) -> None:
    """Write a model folder; each file appears whole or not at all, ``config.json`` last.

    Raises:
        UsageError: The folder cannot be written.
    """
    folder = Path(folder)
    record = {
        "format": "fullconv",
        "schema": SCHEMA,
        "model": config.model_dump(mode="json"),
        "labels": {task: table.to_dict() for task, table in labels.items()},
    }
    tensors = {name: tensor.detach().cpu() for name, tensor in state.items()}
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(folder / WEIGHTS, lambda path: save_tensors(path, tensors), remedy)
    write_atomically(folder / CONFIG, lambda path: path.write_text(text), remedy)


def read_model(folder: str | Path) -> tuple[ModelConfig, dict[str, LabelSet], dict[str, Tensor]]:
    """Return configuration, class tables and tensors of a model folder.

    Raises:
        ModelError: The folder or one of its files is missing, damaged, or not fullconv's; the message names the file.
    """
    return *read_config(folder), _read_tensors(Path(folder) / WEIGHTS)


def read_config(folder: str | Path) -> tuple[ModelConfig, dict[str, LabelSet]]:
    """Return configuration and class tables of a model folder.

    Raises:
        ModelError: As :func:`read_model`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder; give a folder with {CONFIG} and {WEIGHTS}, or a run")
    path = folder / CONFIG
    record = _read_record(path)
    try:
        config = ModelConfig.model_validate(record["model"])
        labels = {task: LabelSet.from_dict(table) for task, table in record["labels"].items()}
    except (KeyError, AttributeError, TypeError, ValidationError, FullconvError) as error:
        raise ModelError(
            f"{path}: not a valid model configuration ({in_one_line(error)}); save the model again"
        ) from error
    for task, classes in config.tasks.items():
        if task not in labels or labels[task].num_classes != classes:
            raise ModelError(
                f"{path}: task {task!r} has {classes} classes, but its table of names does not; save it again"
            )
    return config, labels


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: missing, so {path.parent} is no model folder; give one that was saved by fullconv"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({in_one_line(error)}); save the model again") from error
    if not isinstance(record, dict) or record.get("format") != "fullconv":
        raise ModelError(f"{path}: not written by fullconv; give a folder that was saved by fullconv")
    if record.get("schema") != SCHEMA:
        raise ModelError(f"{path}: schema {record.get('schema')}, this version reads {SCHEMA}; update fullconv")
    return record


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: missing; the model folder is incomplete, save the model again")
    try:
        with path.open("rb"):  # safetensors says of what may not be read that it is not there.
            return load_file(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # safetensors has no common base for what a damaged file can cause
        raise ModelError(f"{path}: damaged ({in_one_line(error)}); save the model again") from error
