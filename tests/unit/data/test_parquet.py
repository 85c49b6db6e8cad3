"""Parquet tables."""

import sys
from pathlib import Path

import pyarrow as arrow
import pytest
from pyarrow import parquet

from fedinfer.data.read import read_table
from fedinfer.errors import DataError, MissingExtra


def write(path: Path, columns: dict[str, list[object]]) -> Path:
    parquet.write_table(arrow.table(columns), path)
    return path


def test_numbers_text_booleans_and_nulls_become_text(tmp_path: Path) -> None:
    columns = {"n": [1, None], "f": [0.1, 1e-7], "t": [" a ", None], "b": [True, False]}
    table = read_table(write(tmp_path / "t.parquet", columns))
    assert table.columns == {"n": ["1", ""], "f": ["0.1", "1e-07"], "t": ["a", ""], "b": ["True", "False"]}


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet", {"n": [1, 2]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="needs pyarrow") as caught:
        read_table(path)
    assert caught.value.hint == "pip install 'fedinfer[data]'"


def test_a_broken_or_missing_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really PAR1")
    for path in (broken, tmp_path / "absent.parquet"):
        with pytest.raises(DataError, match=path.name):
            read_table(path)


def test_too_few_rows_and_columns_named_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 rows; at least 2"):
        read_table(write(tmp_path / "one.parquet", {"n": [1]}))
    twice = arrow.Table.from_arrays([arrow.array([1, 2]), arrow.array([3, 4])], names=["n", "n"])
    parquet.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="duplicate column 'n'"):
        read_table(tmp_path / "twice.parquet")
