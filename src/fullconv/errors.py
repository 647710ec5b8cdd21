"""The errors fullconv raises for things a caller can put right.

Each names the file, option or layer, what was seen, and what to do. The command line prints the message as one
line and leaves with ``exit_code``::

    FullconvError            1   anything we know went wrong
    ├── UsageError           2   an option, a configuration key, an output that cannot be written
    ├── DataError            3   a data set, an image, a mask
    ├── ModelError           4   a model folder or a weight file
    ├── NotFinite            1   a loss, gradient or weight in training that is no number
    ├── Interrupted        130   a signal ended a run, with its state saved (143 SIGTERM, 129 SIGHUP)
    └── GeometryError        2   layers whose strides, offsets or sizes do not fit
"""

from typing import ClassVar


class FullconvError(Exception):
    """Base of every error that fullconv raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(FullconvError):
    """An option or a configuration value that cannot be used, or an output that cannot be written."""

    exit_code = 2


class DataError(FullconvError):
    """A data set, image or mask that cannot be used; the message names the file."""

    exit_code = 3


class ModelError(FullconvError):
    """A model folder or weight file that cannot be used; the message names the file."""

    exit_code = 4


class NotFinite(FullconvError):
    """A loss, a gradient or a weight in training that is infinite or no number."""


class GeometryError(FullconvError):
    """Layers that do not fit together: unequal strides, an offset that is not whole, an empty output."""

    exit_code = 2


class Interrupted(FullconvError):
    """A signal ended the run; its state after the last whole step was saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number  # type: ignore[misc]

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int, str]]:
        """Be sent from one process to another."""
        return type(self), (self.number, str(self))


def plain(text: object) -> str:
    r"""Return text for a terminal: control characters, with which a file's name could work it, are shown instead.

    >>> print(plain("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return str(text).translate(_CONTROLS)


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


def in_one_line(error: BaseException, most: int | None = 300) -> str:
    r"""Return what another library says of an error, at most so many characters of it; its kind, where it says nothing.

    >>> in_one_line(ValueError("line 3:\n    no such key"))
    'line 3: no such key'
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the processor or of a GPU, is short."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or any(words in str(error) for words in _NO_MEMORY)


_NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "not enough memory",  # as Windows has it
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "ALLOCATION_FAILED",
    "unable to find an engine",  # cuDNN: none whose workspace there is room for
    "valid cuDNN algorithm",
    "could not create a primitive",  # oneDNN, which says no more (seen under a limit of the address space)
    "could not create a memory",
)
