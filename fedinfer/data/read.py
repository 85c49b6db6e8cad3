"""Table files as columns of text. CSV with the standard library; Parquet when pyarrow is installed."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedinfer.errors import DataError, MissingExtra

DELIMITERS = ",;\t|"
FIRST_ROW = 2
"""Rows are counted as a spreadsheet does: the header is row 1."""


@dataclass(frozen=True, slots=True)
class RawTable:
    """Columns of text, stripped of blanks but for a column of free text; empty text where a cell is empty.

    Args:
        name: file or table name, for messages.
        columns: cells by column name, all of the same length.
    """

    name: str
    columns: dict[str, list[str]]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), []))

    def column(self, key: str, name: str) -> list[str]:
        """Cells of column `name`, which the scenario asks for under `key`.

        Args:
            key: of the [data] section, for the message.
            name: of the column.

        Raises:
            DataError: no such column.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.name}: [data] {key} = {name!r}: no such column", hint=f"columns: {', '.join(self.columns)}"
            )
        return self.columns[name]


def read_table(path: Path, delimiter: str = "", verbatim: str = "") -> RawTable:
    """Read a CSV or, by its ending, a Parquet file.

    Args:
        path: the file.
        delimiter: character between the cells of a CSV; empty: one of , ; tab | is guessed from two lines.
        verbatim: column whose cells are not stripped, as a device does not strip them; empty: none.

    Raises:
        DataError: missing, unreadable, not UTF-8, ragged, duplicate header, fewer than two rows.
        MissingExtra: Parquet without pyarrow.
    """
    is_parquet = path.suffix.lower() in (".parquet", ".pq")
    table = read_parquet(path, verbatim) if is_parquet else read_csv(path, delimiter, verbatim)
    if table.rows < 2:
        raise DataError(f"{path}: {table.rows} rows; at least 2 are needed, one to train and one to test")
    return table


def read_csv(path: Path, delimiter: str, verbatim: str = "") -> RawTable:
    """Read a UTF-8 CSV with a header line, with or without a byte order mark.

    Args:
        path: the file.
        delimiter: character between cells; empty: one of , ; tab | is guessed from two lines.
        verbatim: column whose cells are not stripped; empty: none.

    Raises:
        DataError: missing, unreadable, not UTF-8, ragged, no header or a duplicate column in it; names the line or row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = delimiter or _guess_delimiter([file.readline(), file.readline()])
            file.seek(0)
            return _parsed(path, csv.reader(file, delimiter=separator, strict=True), verbatim)
    except UnicodeDecodeError as error:
        line = _line_of_byte(path, error)
        raise DataError(
            f"{path}: not UTF-8 near line {line}: byte {error.object[error.start]:#04x}",
            hint=f"convert it: iconv -f latin1 -t utf-8 {path.name} > utf8.csv",
        ) from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint="see [data] path") from error


def read_parquet(path: Path, verbatim: str = "") -> RawTable:
    """Read a Parquet file; numbers become their shortest text, nulls become empty.

    Args:
        path: the file.
        verbatim: column whose cells are not stripped; empty: none.

    Raises:
        MissingExtra: pyarrow is not installed.
        DataError: missing, unreadable, or a duplicate column.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra(f"{path}: Parquet needs pyarrow", hint="pip install 'fedinfer[data]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_header(path, file.schema_arrow.names)
            table = file.read()
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="see [data] path") from error
    columns = {name: as_text(table.column(name).to_pylist()) for name in table.column_names}
    return RawTable(str(path), stripped(columns, verbatim))


def as_text(values: Iterable[object]) -> list[str]:
    """Cells of another library as text; None becomes empty.

    Args:
        values: of one column.
    """
    return ["" if value is None else str(value) for value in values]


def stripped(columns: dict[str, list[str]], verbatim: str = "") -> dict[str, list[str]]:
    """Columns without blanks around their cells, but for the one called `verbatim`.

    Args:
        columns: cells by column name.
        verbatim: column that stays as it is; empty: none.
    """
    return {name: cells if name == verbatim else [cell.strip() for cell in cells] for name, cells in columns.items()}


def _parsed(path: Path, lines: Iterator[list[str]], verbatim: str) -> RawTable:
    """Columns of the lines that the csv module reads; blank lines are skipped."""
    header = [name.strip() or f"column_{place}" for place, name in enumerate(next(lines, []), start=1)]
    _check_header(path, header)
    rows: list[list[str]] = []
    for number, row in enumerate(lines, start=FIRST_ROW):
        if len(row) == len(header):
            rows.append(row)
        elif row:
            raise DataError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}")
    columns = zip(*rows, strict=True) if rows else (() for _ in header)
    named = {name: list(column) for name, column in zip(header, columns, strict=True)}
    return RawTable(str(path), stripped(named, verbatim))


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header:
        raise DataError(f"{path}: empty: no header line")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{path}: duplicate column {', '.join(map(repr, twice))} in the header", hint="rename one")


def _guess_delimiter(lines: Sequence[str]) -> str:
    """The character that cuts the header and the first row into equally many cells, the more the better."""

    def fit(delimiter: str) -> tuple[bool, int]:
        header, row = (len(next(csv.reader([line], delimiter=delimiter), [])) for line in lines)
        return header == row and header > 1, header

    return max(DELIMITERS, key=fit)


def _line_of_byte(path: Path, error: UnicodeDecodeError) -> int:
    """Line of the first bad byte; decoding works in chunks, so the file is read again."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return number
    return 0
