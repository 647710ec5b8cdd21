import pyarrow as pa
import pytest
from pyarrow import parquet

from fullconv.data import open_dataset
from fullconv.errors import DataError


def test_a_table_without_pictures_says_which_columns_are_needed(tmp_path):
    parquet.write_table(pa.table({"text": ["a"], "image": [b"x"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"has the columns text, image; one must be called .* mask"):
        open_dataset(tmp_path)
    parquet.write_table(pa.table({"mask": [b"b"], "image": [b"x"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet\[mask, group 0, row 0\]: is not an image that Pillow can read"):
        open_dataset(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is no readable Parquet file"):
        open_dataset(tmp_path)
