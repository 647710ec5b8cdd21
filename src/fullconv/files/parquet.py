"""Images and masks that lie as encoded files in the cells of a Parquet table."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DataError
from .arrays import Window
from .images import image_size, read_image, read_mask
from .masks import RawMask
from .pictures import Pixels
from .text import refuse_no_file


@dataclass(frozen=True)
class Cell:
    """One encoded file in a table.

    Attributes:
        table: The Parquet file.
        column: Name of the column: structs of ``bytes`` and ``path``, or bytes.
        group: Number of the row group, from 0.
        row: Number of the row in its group, from 0.
    """

    table: Path
    column: str
    group: int
    row: int

    @property
    def path(self) -> Path:
        """What messages call it."""
        return Path(f"{self.table}[{self.column}, group {self.group}, row {self.row}]")

    def content(self) -> bytes:
        """Return the encoded file.

        Raises:
            DataError: The table cannot be read, or the cell is empty.
        """
        value = _column(self.table, self.column, self.group)[self.row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise DataError(f"{self.path}: holds no bytes of an image; store the files themselves, not their paths")
        return content


@dataclass(frozen=True)
class CellImage(Cell):
    """An image in a cell, as red, green, blue."""

    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels, upright."""
        return image_size(self.path, self.content())

    def channels(self) -> int:
        """Return 3."""
        return 3

    def read(self, window: Window | None = None) -> Pixels:
        """Return red, green, blue."""
        pixels = read_image(self.path, self.content())
        if window is None:
            return pixels
        return pixels[:, window.top : window.top + window.height, window.left : window.left + window.width].clone()


@dataclass(frozen=True)
class CellMask(Cell):
    """A mask in a cell."""

    def read(self, window: Window | None = None) -> RawMask:
        """Return the ids or colours."""
        mask = read_mask(self.path, self.content())
        return mask if window is None else window.cut(mask).copy()


def open_table(path: Path) -> Any:
    """Return pyarrow's reader of a Parquet file.

    Raises:
        DataError: It cannot be read, or pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet files need pyarrow; pip install 'fullconv[parquet]'") from error
    refuse_no_file(path)
    try:
        return parquet.ParquetFile(path)
    except Exception as error:
        raise DataError(f"{path}: is no readable Parquet file ({error}); download it again") from None


@lru_cache(maxsize=16)
def _column(table: Path, column: str, group: int) -> Any:
    try:
        return open_table(table).read_row_group(group, columns=[column]).column(0)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{table}: row group {group} cannot be read ({error}); download it again") from None
