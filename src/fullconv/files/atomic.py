"""Output files: whole, or not at all."""

import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import UsageError

ELSEWHERE = "choose another --out"
"""What to do where an output cannot be written."""

_WAITS = 0.1, 0.4, 1.5
"""Seconds to wait before trying again: Windows refuses to replace a file that another program just reads."""

_HALF_WRITTEN = re.compile(r"\.(tmp\w{6}|.+\.half-[0-9a-f]{8}(\.\w+)?)")
"""Names of temporary files: safetensors', which writes such a file of its own, and ours."""


def write_atomically(path: str | Path, write: Callable[[Path], object], remedy: str = ELSEWHERE) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place: never a half-written output.

    Missing folders are made. The temporary name keeps the extension, from which writers tell the format.

    Args:
        path: The output.
        write: Called once with the path to write to.
        remedy: What to do when the output cannot be written.

    Raises:
        UsageError: The output cannot be written; the message names path, reason and remedy.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Replacing a device such as /dev/null by a file would break the machine.
        if path.exists() and not path.is_file() and not path.is_dir():
            write(path)
        else:
            _write_and_replace(path, write)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}; {remedy}") from error


def remove_half_written(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder or below it; none may be writing there."""
    for path in folder.rglob(".*"):
        if path.is_file() and _HALF_WRITTEN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _write_and_replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.stem[:64]}.half-{secrets.token_hex(4)}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:  # safetensors puts a file in its place that nobody else may read.
            with suppress(OSError):
                temporary.chmod(mode)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        _replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    for wait in _WAITS:
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(wait)
        else:
            return
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    """Let the new name be there after a power cut as well, where the system can: before anything older is removed."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
