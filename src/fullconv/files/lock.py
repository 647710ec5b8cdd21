"""One process at a time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UsageError

_HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock while the block runs; the system lets go of it when the process ends, however it does.

    Processes that this one starts do not hold it. Where a file system, or Windows, has no such locks, there is none.

    Args:
        path: A file that is made for it, in a folder that is there, and removed.
        doing: What another process does that holds it, for the message.

    Raises:
        UsageError: Another process holds it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _taken(file):
            raise UsageError(f"{path.parent}: {doing}; wait until it has ended, or end it")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def _taken(file: int) -> bool:
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return True
    except OSError as error:
        return error.errno not in _HELD
    return True
