"""One process at a time."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UsageError

_HELD = (errno.EACCES, errno.EAGAIN)

_OURS: dict[Path, UsageError] = {}
"""What this process holds: its threads would not keep each other out."""


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[Callable[[], bool]]:
    """Hold a folder while the block runs; the system lets go of it when the process ends, however it does.

    Processes that this one starts do not hold it. Meanwhile the folder, which is made, has an empty file ``.lock``.
    Where a file system, or Windows, has no such locks, there is none. What is yielded says whether it is still held:
    not so where the folder was removed or moved, and there is another of its name.

    Args:
        folder: What is held.
        doing: What another process does that holds it, for the message.

    Raises:
        UsageError: Another process holds it, or the folder cannot be written.
    """
    lock, held = folder / ".lock", UsageError(f"{folder}: {doing}; wait until it has ended, or end it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place, there = folder.resolve(), folder.stat()
        if _OURS.setdefault(place, held) is not held:  # To open and close the file would let go of it.
            raise held
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        del _OURS[place]
        raise _unwritable(folder, error) from error
    try:
        if not (_taken(file) and _is_there(lock, file)):
            raise held
        try:
            yield lambda: _is_there(lock, file) if lock.exists() else os.path.samestat(there, folder.stat())
        finally:
            with suppress(OSError):  # Windows removes no open file.
                if _is_there(lock, file):
                    lock.unlink()
    finally:
        os.close(file)
        del _OURS[place]


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"{folder}: cannot be written: {error.strerror or error}; look at who may use it")


def _taken(file: int) -> bool:
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return True
    except OSError as error:
        return error.errno not in _HELD
    return True


def _is_there(lock: Path, file: int) -> bool:
    """Return whether an open file is the one of that name: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(file), lock.stat())
    except FileNotFoundError:
        return False
