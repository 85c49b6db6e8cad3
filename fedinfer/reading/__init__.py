"""Reading: how a cell of a table becomes a number. The same code for training, devices, services and gates."""

from fedinfer.reading.cells import (
    LARGEST,
    CellReader,
    CellRule,
    offset_for,
    plain_number_reader,
    told_apart,
)
from fedinfer.reading.decode import decoded, encoding_of, unpacked
from fedinfer.reading.dialect import DELIMITERS, guess_delimiter, parsed, records
from fedinfer.reading.files import read_bytes, read_file, read_text, stripped, text_of_file
from fedinfer.reading.numbers import LIMITS, PARENTHESES, is_number, number_reader, without_unit
from fedinfer.reading.packed import pack
from fedinfer.reading.rules import BLANKS, DEFAULT_RULES, MISSING_TEXT, SAME_TEXT, ReadingRules
from fedinfer.reading.spellings import Spellings, alike, as_text, one_spelling
from fedinfer.reading.table import FIRST_ROW, RawTable, number_hint, plain_numbers, read_column
from fedinfer.reading.times import time_reader, written

__all__ = [
    "BLANKS",
    "DEFAULT_RULES",
    "DELIMITERS",
    "FIRST_ROW",
    "LARGEST",
    "LIMITS",
    "MISSING_TEXT",
    "PARENTHESES",
    "SAME_TEXT",
    "CellReader",
    "CellRule",
    "RawTable",
    "ReadingRules",
    "Spellings",
    "alike",
    "as_text",
    "decoded",
    "encoding_of",
    "guess_delimiter",
    "is_number",
    "number_hint",
    "number_reader",
    "offset_for",
    "one_spelling",
    "pack",
    "parsed",
    "plain_number_reader",
    "plain_numbers",
    "read_bytes",
    "read_column",
    "read_file",
    "read_text",
    "records",
    "stripped",
    "text_of_file",
    "time_reader",
    "told_apart",
    "unpacked",
    "without_unit",
    "written",
]
