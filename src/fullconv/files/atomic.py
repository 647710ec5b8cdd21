"""Output files: whole, or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError

ELSEWHERE = "choose another --out"
"""What to do where an output cannot be written."""


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


def _write_and_replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.stem[:64]}-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
