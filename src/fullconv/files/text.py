"""Text files in; every error names the file."""

from pathlib import Path

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
