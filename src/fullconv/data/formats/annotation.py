"""What the formats that describe shapes in JSON have in common."""

import errno
import json
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files.images import IMAGE_SUFFIXES
from ...files.text import read_text
from ..classes import ClassEntry
from ..source import SPLIT_WORDS, SPLITS

BACKGROUND = "background"

_MOST_PIXELS = 1 << 28


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        DataError: It cannot be read or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); export it again") from None


def begins_with(path: Path, *words: str) -> bool:
    """Return whether a file's first 64 KiB hold all these words: a cheap look before a big file is parsed."""
    try:
        if not path.is_file():  # A pipe would be waited for.
            return False
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except OSError:
        return False
    return all(word.encode() in start for word in words)


def holds(path: Path, *words: str) -> bool:
    """Return whether a file holds all these words: the whole of it is looked through, unparsed."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(text.find(word.encode()) >= 0 for word in words)


def split_named(name: str) -> str:
    """Return the split that some word of a name stands for, else ``""``; words may be run together asInThis.

    >>> split_named("instances_valid2017"), split_named("latest")
    ('val', '')
    """
    words = {SPLIT_WORDS.get(word.lower()) for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    return next((split for split in SPLITS if split in words), "")


def with_background(names: Iterable[str]) -> list[ClassEntry]:
    """Return a background with id 0 and the classes after it, each once, in the order given."""
    unique = dict.fromkeys([BACKGROUND, *names])
    return [ClassEntry(number, name) for number, name in enumerate(unique)]


def stated_size(row: Mapping[str, Any], height: str, width: str, path: Path) -> tuple[int, int] | None:
    """Return the (height, width) that an annotation states for its image under these keys, or None.

    Raises:
        DataError: One is no positive number of pixels, or they are too many to be drawn on.
    """
    if not (row.get(height) and row.get(width)):
        return None
    try:
        size = int(row[height]), int(row[width])
    except (TypeError, ValueError, OverflowError):
        size = 0, 0
    if min(size) < 1:
        raise DataError(
            f"{path}: has {height} {row[height]!r} and {width} {row[width]!r}; write the image's size in pixels there"
        )
    if size[0] * size[1] > _MOST_PIXELS:
        raise DataError(
            f"{path}: an image of {size[0]}×{size[1]} pixels is too large to draw on; cut it, and what is drawn on it, "
            f"into tiles"
        )
    return size


@contextmanager
def drawn_in(path: Path, name: str) -> Iterator[None]:
    """Read the shapes of one annotation in the block.

    Args:
        path: The file.
        name: What messages call the annotation.

    Raises:
        DataError: They are not as the format describes them; the message names both.
    """
    try:
        yield
    except (DataError, KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        what = str(error) if isinstance(error, DataError) else f"cannot be read ({type(error).__name__}: {error})"
        raise DataError(f"{path}: {name}: {what}; correct or remove it") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


class Images:
    """Finds the image files that annotations name, often with the path they had on another machine.

    Args:
        places: Folders to look in, the likeliest first.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = places
        self._by_name: Mapping[str, Path] | None = None

    def find(self, name: str) -> Path | None:
        """Return the file: by its path in one of the places, else by its bare name anywhere in them."""
        relative = Path(name.replace("\\", "/").lstrip("/"))
        if ".." not in relative.parts:
            for place in self.places:
                if _is_file(place / relative):
                    return place / relative
        if self._by_name is None:
            files = (file for place in reversed(self.places) for file in sorted(place.rglob("*")))
            self._by_name = {file.name: file for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
        return self._by_name.get(relative.name)
