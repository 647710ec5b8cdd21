"""Text files in; every error names the file."""

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError


def refuse_no_file(path: Path) -> None:
    """Refuse what is neither a file nor missing: to read a pipe or a device may never end.

    Raises:
        DataError: It is a folder, a pipe or a device.
    """
    with suppress(OSError):  # What may not be looked at may not be read either, which says more.
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is no regular file; put a file in its place, or correct its name")


def read_text(path: Path) -> str:
    """Return the contents of a text file, without a byte order mark.

    Raises:
        DataError: The file is missing, is none, or is not UTF-8 text.
    """
    refuse_no_file(path)
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; create it, or correct its name") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); save it as UTF-8 text") from error


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file that are not empty, without the space around cells.

    Raises:
        DataError: As ``read_text``, or a quote in it is not closed.
    """
    text = read_text(path)
    reader, rows, line = csv.reader(io.StringIO(text), skipinitialspace=True), list[list[str]](), 1
    try:
        for row in reader:
            # A cell may hold a line's end; one that was not meant to swallows other cells.
            if any("\n" in cell for cell in row) and (text.count('"') % 2 or len(row) != len(rows[0] if rows else row)):
                raise csv.Error("a quote is not closed")
            rows.append([cell.strip() for cell in row])
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {line}: {error}; correct that line") from None
    return [row for row in rows if row]


def parse_yaml(text: str) -> Any:
    """Return what YAML says; a date is text, as a folder may be called 2026-11-27.

    Raises:
        yaml.YAMLError: It is not YAML, a key stands twice in one place, or aliases repeat far more than stands there.
    """
    try:
        return yaml.load(text, _Loader)
    except _LEAKS as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None


_LEAKS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What else PyYAML raises, as of values that are not of the kind they say, or of thousands of brackets."""

_MOST_REPEATED = 100_000


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values, self._repeated = 0, 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count what aliases repeat: ten of ten of ten, and so on, are a bomb."""
        before, alias = self._values, self.check_event(yaml.AliasEvent)
        node: Any = super().compose_node(parent, index)
        if alias and node not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands inside what it repeats", node.start_mark)
        again = self._sizes[node] if alias else 0
        self._values, self._repeated = self._values + (again or 1), self._repeated + again
        if self._repeated > _MOST_REPEATED:
            seen = f"aliases repeat more than {_MOST_REPEATED} values"
            raise yaml.composer.ComposerError(None, None, seen, node.start_mark)
        if not alias:
            self._sizes[node] = self._values - before
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in kinds if not tag.endswith(":timestamp")]
    for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
