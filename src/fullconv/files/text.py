"""Text files in; every error names the file."""

from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError


def read_text(path: Path) -> str:
    """Return the contents of a text file, without a byte order mark.

    Raises:
        DataError: The file is missing or is not UTF-8 text.
    """
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; create it, or correct its name") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); save it as UTF-8 text") from error


def parse_yaml(text: str) -> Any:
    """Return what YAML says; a date is text, as a folder may be called 2026-11-27.

    Raises:
        yaml.YAMLError: It is not YAML, or a key stands twice in one place.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
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
