"""Table files of any kind as columns of text: CSV, its gzip, Parquet, Arrow, Excel, ARFF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from os import SEEK_END
from pathlib import Path
from typing import Any

from fedinfer.errors import DataError, MissingExtra
from fedinfer.reading.arff import read_arff
from fedinfer.reading.decode import GZIP, decoded, encoding_of, unpacked
from fedinfer.reading.dialect import check_header, declared_delimiter, guess_delimiter, parsed
from fedinfer.reading.packed import PackedColumns, packed_csv
from fedinfer.reading.rules import BLANKS, ReadingRules
from fedinfer.reading.spellings import is_nothing, text_of
from fedinfer.reading.table import FIRST_ROW, RawTable, looks_like_data

LARGE_BYTES = 1 << 20
"""From this size on a CSV is read by pyarrow where it is installed."""
_LOOKED_AT = 1 << 24
"""Characters of a file from which its dialect is guessed."""
_PARQUET, _ARROW = (b"PAR1",), (b"ARROW1", b"FEA1", b"\xff\xff\xff\xff")
_EXCEL = (".xlsx", ".xlsm")
_OLD = {
    ".xls": "save it as .xlsx or CSV",
    ".ods": "save it as .xlsx or CSV",
    ".zip": "unpack it",
    ".json": "write it as CSV or Parquet",
    ".sav": "write it as CSV",
}


def read_file(path: Path, rules: ReadingRules, verbatim: str = "", wanted: Sequence[str] = ()) -> RawTable:
    """Read a table file; its kind follows from its first bytes or its ending.

    Args:
        path: the file.
        rules: how a CSV is cut into cells.
        verbatim: column whose cells are not stripped, as a device does not strip them; empty: none.
        wanted: columns that the caller needs, see `dialect.parsed`.

    Raises:
        DataError: missing, unreadable, ragged, a duplicate header; names the row.
        MissingExtra: a package that reads this kind is not installed.
    """
    kind = path.suffix.lower()
    if kind in _OLD:
        raise DataError(f"{path}: files of kind {kind} are not read", hint=_OLD[kind])
    try:
        if path.exists() and not path.is_file():  # a pipe gives its bytes once
            return read_bytes(path, path.read_bytes(), rules, verbatim, wanted)
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(_PARQUET) or kind in (".parquet", ".pq"):
            return _arrow_file(path, "parquet", verbatim)
        if head.startswith(_ARROW) or kind in (".arrow", ".feather", ".ipc"):
            return _arrow_file(path, "arrow", verbatim)
        if kind in _EXCEL:
            return _excel(path, rules, verbatim)
        return _large(path, head, rules, verbatim, wanted) or read_bytes(
            path, path.read_bytes(), rules, verbatim, wanted
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", hint="check the path") from error


def text_of_file(path: Path) -> tuple[str | None, str]:
    """The text of a CSV file behind a line `sep=;`, of a large one its beginning, and the encoding if it was a guess.

    Args:
        path: any table file; the text is None where it is no CSV.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", hint="check the path") from error
    if data.startswith((*_PARQUET, *_ARROW)) or {*path.suffixes} & {".arff", ".parquet", *_EXCEL, *_OLD}:
        return None, ""
    data = unpacked(path, data)
    text, note = decoded(path, data, "")
    text = text if len(text) <= _LOOKED_AT else text[: text.rfind("\n", 0, _LOOKED_AT) + 1]
    return declared_delimiter(text)[1], encoding_of(data) if note else ""


def read_bytes(
    path: Path, data: bytes, rules: ReadingRules, verbatim: str = "", wanted: Sequence[str] = ()
) -> RawTable:
    """Read the bytes of a CSV or ARFF file, also from standard input.

    Args:
        path: where they come from: its ending tells ARFF, its name is for messages.
        data: whole content, perhaps in gzip.
        rules: how a CSV is cut into cells.
        verbatim: column whose cells are not stripped; empty: none.
        wanted: columns that the caller needs.

    Raises:
        DataError: as `read_file`.
    """
    text, note = decoded(path, unpacked(path, data), rules.encoding)
    notes = (note,) if note else ()
    if path.with_suffix("").suffix.lower() == ".arff" or path.suffix.lower() == ".arff":
        return RawTable(str(path), read_arff(str(path), text), 1, notes)
    return read_text(str(path), text, rules, verbatim, wanted, notes)


def read_text(
    name: str,
    text: str,
    rules: ReadingRules,
    verbatim: str = "",
    wanted: Sequence[str] = (),
    notes: tuple[str, ...] = (),
) -> RawTable:
    """Read a CSV text.

    Args:
        name: of the table, for messages.
        text: whole content.
        rules: how it is cut into cells.
        verbatim: column whose cells are not stripped; empty: none.
        wanted: columns that the caller needs.
        notes: of the table.

    Raises:
        DataError: as `read_file`.
    """
    if len(text) >= LARGE_BYTES:
        packed = _packed(name, text.encode("utf-8", "surrogatepass"), text[: 1 << 16], rules, verbatim, wanted)
        if packed is not None:
            return replace(packed, notes=(*notes, *packed.notes))
    header, rows, numbers = parsed(name, text, rules, wanted)
    columns = zip(*rows, strict=True) if rows else (() for _ in header)
    named = {column: list(cells) for column, cells in zip(header, columns, strict=True)}
    notes = (*notes, *_header_notes(name, header, rules))
    first_row = numbers[0] if numbers else FIRST_ROW
    gaps = bool(numbers) and numbers[-1] - first_row >= len(numbers)
    return RawTable(name, stripped(named, verbatim), first_row, notes, tuple(numbers) if gaps else ())


def stripped(columns: Mapping[str, Sequence[str]], verbatim: str = "") -> dict[str, Sequence[str]]:
    """Columns without blanks around their cells, but for the one called `verbatim`.

    Args:
        columns: cells by column name.
        verbatim: column that stays as it is; empty: none.
    """
    return {
        name: cells if name == verbatim else [cell.strip(BLANKS) for cell in cells] for name, cells in columns.items()
    }


def _large(path: Path, head: bytes, rules: ReadingRules, verbatim: str, wanted: Sequence[str]) -> RawTable | None:
    """A large CSV by pyarrow; None: small, compressed, or of a dialect that is left to the slow way."""
    plain = not head.startswith(GZIP) and path.suffix.lower() != ".arff" and rules.encoding in ("", "utf-8", "utf8")
    if not plain:
        return None
    with path.open("rb") as file:
        sample, size = file.read(1 << 16).decode("utf-8-sig", errors="replace"), file.seek(0, SEEK_END)
    if size < LARGE_BYTES:
        return None
    return _packed(str(path), path, sample, rules, verbatim, wanted)


def _packed(
    name: str, source: Path | bytes, sample: str, rules: ReadingRules, verbatim: str, wanted: Sequence[str]
) -> RawTable | None:
    if declared_delimiter(sample)[0]:
        return None
    delimiter = rules.delimiter or guess_delimiter(sample, rules.quote)
    if rules.delimiter and not set(wanted) <= {cell.strip(' "') for cell in sample.split("\n")[0].split(delimiter)}:
        return None
    columns = packed_csv(source, delimiter, rules, verbatim)
    if columns is None:
        return None
    return RawTable(name, columns, FIRST_ROW, _header_notes(name, list(columns), rules))


def _header_notes(name: str, header: Sequence[str], rules: ReadingRules) -> tuple[str, ...]:
    if not (rules.header and looks_like_data(header)):
        return ()
    shown = ", ".join(header[:4])
    return (f"{name}: the header looks like a row of data ({shown}): [data] header = false, or init --no-header",)


def _arrow_file(path: Path, kind: str, verbatim: str) -> RawTable:
    """Parquet and Arrow; numbers become their shortest text, nulls become empty."""
    try:
        import pyarrow as arrow
        from pyarrow import feather, ipc, parquet
    except ImportError as error:
        what = "Parquet" if kind == "parquet" else "Arrow"
        raise MissingExtra(f"{path}: {what} needs pyarrow", hint="pip install 'fedinfer[data]'") from error
    try:
        if kind == "parquet":
            with parquet.ParquetFile(path) as file:
                check_header(str(path), file.schema_arrow.names)
                table = file.read()
        elif path.read_bytes()[:4] == b"\xff\xff\xff\xff":
            with path.open("rb") as stream:
                table = ipc.open_stream(stream).read_all()
        else:
            table = feather.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="check the path") from error
    check_header(str(path), table.column_names)
    return RawTable(str(path), PackedColumns(table, verbatim), 1)


def _excel(path: Path, rules: ReadingRules, verbatim: str) -> RawTable:
    """The first sheet of a workbook."""
    try:
        import pandas

        if find_spec("openpyxl") is None:  # what pandas reads workbooks with
            raise ImportError("openpyxl")
    except ImportError as error:
        raise MissingExtra(f"{path}: Excel needs pandas and openpyxl", hint="pip install 'fedinfer[excel]'") from error
    try:
        frame = pandas.read_excel(path, header=None, dtype=object, na_filter=False, engine="openpyxl")
    except Exception as error:  # openpyxl and zipfile raise what they like
        raise DataError(f"{path}: not a workbook that can be read: {error}", hint="save it as CSV") from error
    rows: list[list[Any]] = frame.to_numpy(dtype=object).tolist()
    cells = [["" if is_nothing(cell) else text_of(cell) for cell in row] for row in rows]
    first = cells[0] if cells else []
    header = [(cell if rules.header and cell else f"column_{place}") for place, cell in enumerate(first, start=1)]
    check_header(str(path), header)
    body = cells[1:] if rules.header else cells
    columns = {name: [row[place] for row in body] for place, name in enumerate(header)}
    return RawTable(str(path), stripped(columns, verbatim), FIRST_ROW if rules.header else 1)
