"""Columns held by pyarrow: a tenth of the memory of Python texts, and read many cells at a time.

Nothing here decides what a cell means. A shortcut is taken only where its result is that of `cells`; where it might
not be, it answers None and the cells are read one by one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fedinfer.reading.numbers import number_pattern
from fedinfer.reading.rules import BLANKS, ReadingRules
from fedinfer.reading.spellings import as_text

_CHUNK = 1 << 24


class PackedColumns(Mapping[str, Sequence[str]]):
    """The columns of a pyarrow table, each turned into texts when it is asked for.

    Args:
        table: of pyarrow; texts or any types that have one.
        verbatim: column whose cells are not stripped; empty: none.
    """

    def __init__(self, table: Any, verbatim: str = "") -> None:
        self._table, self._verbatim = table, verbatim

    def __getitem__(self, name: str) -> list[str]:
        if name not in self._table.column_names:
            raise KeyError(name)
        return [cell if name == self._verbatim else cell.strip(BLANKS) for cell in self._texts(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._table.column_names

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return int(self._table.num_columns)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def numbers(self, name: str, rules: ReadingRules) -> npt.NDArray[np.float64] | None:
        """A column of numbers with NaN for missing texts, float64 (n,); None where only the slow way is sure.

        Args:
            name: of the column.
            rules: of the table; sentinels and offsets are left to the caller.
        """
        import pyarrow as arrow
        import pyarrow.compute as compute

        column = self._table.column(name)
        if name in dict(rules.times) or rules.unit(name):
            return None
        if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
            column = _number_texts(column, rules, *rules.marks_of(name))
        elif not (arrow.types.is_float64(column.type) or arrow.types.is_integer(column.type)):
            return None
        try:
            values = None if column is None else compute.cast(column, arrow.float64())
        except arrow.ArrowInvalid:
            return None
        if values is None:
            return None
        found = values.to_numpy()
        odd = len(found) - int(np.isfinite(found).sum()) - values.null_count
        return np.array(found, np.float64) if odd == 0 else None

    def coded(self, name: str) -> tuple[list[str], npt.NDArray[np.int64]]:
        """A column as its different texts and the number of the text of each row.

        Args:
            name: of the column.

        Returns:
            (texts, int64 (n,) in [0, len(texts))).
        """
        import pyarrow as arrow
        import pyarrow.compute as compute

        column = self._table.column(name)
        if not (arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type)):
            column = arrow.chunked_array([arrow.array(self[name], arrow.string())])
        coded = compute.fill_null(column, "").dictionary_encode().unify_dictionaries()
        texts = coded.chunk(0).dictionary.to_pylist() if coded.num_chunks else []
        codes = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in coded.chunks]
        return texts, np.concatenate(codes).astype(np.int64) if codes else np.empty(0, np.int64)

    def _texts(self, name: str) -> list[str]:
        import pyarrow as arrow

        column = self._table.column(name)
        if arrow.types.is_float32(column.type) or arrow.types.is_float16(column.type):
            cells: list[Any] = [None if cell is None else np.float32(cell) for cell in column.to_pylist()]
            return as_text(cells)
        return as_text(column.to_pylist())


def pack(columns: Mapping[str, Sequence[str]]) -> PackedColumns:
    """Columns of texts as a large file has them; needs pyarrow.

    Args:
        columns: cells by column name.
    """
    import pyarrow as arrow

    return PackedColumns(
        arrow.table({name: arrow.array(list(cells), arrow.string()) for name, cells in columns.items()})
    )


def packed_csv(source: Path | bytes, delimiter: str, rules: ReadingRules, verbatim: str = "") -> PackedColumns | None:
    """A UTF-8 CSV read by pyarrow; None where the result might differ from that of `dialect.parsed`.

    Args:
        source: the file, not compressed, or its bytes.
        delimiter: one character.
        rules: quote and header.
        verbatim: column whose cells are not stripped; empty: none.
    """
    try:
        import pyarrow as arrow
        from pyarrow import csv
    except ImportError:
        return None
    if rules.quote not in ("", '"') or not rules.header or not _is_plain(source, delimiter, rules.quote):
        return None
    header = _first_cells(source, delimiter, rules.quote)
    if len(header) < 2 or len(set(header)) < len(header) or not all(header):
        return None
    try:
        table = csv.read_csv(
            arrow.BufferReader(source) if isinstance(source, bytes) else source,
            csv.ReadOptions(column_names=header, skip_rows=1, block_size=1 << 22),
            csv.ParseOptions(delimiter=delimiter, quote_char=rules.quote or False),
            csv.ConvertOptions(column_types=dict.fromkeys(header, arrow.string()), strings_can_be_null=False),
        )
    except (arrow.ArrowException, OSError):
        return None
    return PackedColumns(table, verbatim)


def _number_texts(column: Any, rules: ReadingRules, decimal: str, thousands: str) -> Any:
    """Texts that pyarrow reads as `numbers` does, missing ones null; None where it might not."""
    import pyarrow as arrow
    import pyarrow.compute as compute

    column = compute.utf8_trim(column, BLANKS)
    missing = compute.is_in(column, arrow.array(rules.missing_text, arrow.string()))
    column = compute.if_else(
        compute.or_kleene(missing, compute.is_null(column)), arrow.scalar(None, column.type), column
    )
    if thousands:
        pattern = f"^(?:{number_pattern(decimal, thousands).pattern})$"
        fits = compute.all(compute.match_substring_regex(column, pattern), min_count=0).as_py()
        if not fits:
            return None
        column = compute.replace_substring_regex(column, f"[^0-9eE+{re.escape(decimal)}-]", "")
    elif decimal != ".":
        column = compute.replace_substring(column, ".", "no number")
    return column if decimal == "." else compute.replace_substring(column, decimal, ".")


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _is_plain(source: Path | bytes, delimiter: str, quote: str) -> bool:
    """No NUL, no lone carriage return, and quotes only around whole cells of one line."""
    before = b"\n"
    ends = (delimiter.encode(), b"\n", b"\r")
    with _opened(source) as file:
        while block := file.read(_CHUNK):
            block += file.readline()  # blocks end with a line
            if b"\0" in block or (b"\r" in block and block.count(b"\r") != block.count(b"\r\n")):
                return False
            if quote and quote.encode() in block and not _quotes_fit(before + block, quote.encode(), ends):
                return False
            before = b"\n"
    return True


def _quotes_fit(block: bytes, quote: bytes, ends: tuple[bytes, ...]) -> bool:
    """Quotes come in pairs that open behind a delimiter and close before one, with no line end between."""
    pattern = b"[" + b"".join(re.escape(end) for end in ends) + b"]"
    q = re.escape(quote)
    whole = re.compile(b"(?<=" + pattern + b")" + q + b"[^" + q + b"\r\n]*" + q + b"(?=" + pattern + b"|\\Z)")
    return len(whole.findall(block)) * 2 == block.count(quote)


def _first_cells(source: Path | bytes, delimiter: str, quote: str) -> list[str]:
    from fedinfer.reading.dialect import records

    with _opened(source) as file:
        line = file.readline()
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return []
    return [cell.strip(BLANKS) for cell in next(records(text, delimiter, quote), [])]
