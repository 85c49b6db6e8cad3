"""The reading rules: how a cell of a table becomes a number. One value for training, devices and services.

They hold public facts only and travel with the schema: hashed into the task, signed into the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fedinfer.errors import ConfigError
from fedinfer.printable import STEERING
from fedinfer.reading.times import time_reader
from fedinfer.types import Json

MISSING_TEXT = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "?")
SAME_TEXT = tuple((word,) for word in ("true", "false", "yes", "no", "ja", "nein", "oui", "non", "s\u00ed"))
"""Words of yes and no that are the same in any case: `True`, `TRUE` and `true` are one category."""
BLANKS = "".join(map(chr, (*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)))) + (
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Taken off both ends of a cell, as `str.strip` does, but for a column of free text."""
MOST_ENTRIES, LONGEST_TEXT = 10_000, 1_000
TAB = "tab"
"""The delimiter of .tsv files by its name: no document that is signed holds a control character."""


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """How cells are read.

    What no key states: a number outside its public range is clamped inside the graph; a text that is no listed
    category counts as missing, one that is no listed label is refused; `nan` in any case is a missing number.

    Args:
        delimiter: character between the cells of a CSV; empty: guessed from the first lines of each file.
        decimal: decimal mark of numbers in texts, one character.
        thousands: mark between groups of digits; empty: none. A blank stands for every kind of blank, ' for ’ too.
        marks: (column, its decimal mark and, behind it, its thousands mark if any), where they differ from the table's.
        units: (column, text before or behind its numbers, such as % or EUR), which is taken off; cells may lack it.
        encoding: of a CSV; empty: UTF-8, or what its first bytes say, else a guess with a warning.
        quote: character around cells that hold delimiters; empty: quotes are ordinary characters.
        header: whether the first row names the columns; without, they are column_1, column_2 and so on.
        missing_text: cells that mean missing in every column, spelled exactly.
        missing_values: (column, numbers that mean missing there), in the unit of the table.
        times: (column, "UNIT since DATE" or "UNIT since DATE as FORMAT"): a date becomes a number, see `times`.
        offsets: (column, number taken off every value in double precision before it is rounded to float32).
        same_text: groups of texts that are the same category or label in any case of letters.
        spellings: `same`: whole numbers are the same category or label with and without `.0`, and `same_text`
            counts; `exact`: a category or label is found only as it is listed.
    """

    delimiter: str = ""
    decimal: str = "."
    thousands: str = ""
    marks: tuple[tuple[str, str], ...] = ()
    units: tuple[tuple[str, str], ...] = ()
    encoding: str = ""
    quote: str = '"'
    header: bool = True
    missing_text: tuple[str, ...] = MISSING_TEXT
    missing_values: tuple[tuple[str, tuple[float, ...]], ...] = ()
    times: tuple[tuple[str, str], ...] = ()
    offsets: tuple[tuple[str, float], ...] = ()
    same_text: tuple[tuple[str, ...], ...] = SAME_TEXT
    spellings: str = "same"

    def __post_init__(self) -> None:
        _check_marks(self)
        if self.spellings not in ("same", "exact"):
            raise ConfigError(f"spellings = {self.spellings[:60]!r}: must be 'same' or 'exact'")
        for name in ("marks", "units", "missing_text", "missing_values", "times", "offsets", "same_text"):
            if len(getattr(self, name)) > MOST_ENTRIES:
                raise ConfigError(f"reading rules: {len(getattr(self, name))} {name}, at most {MOST_ENTRIES}")
        if any(len(text) > LONGEST_TEXT for text in self.texts()):
            raise ConfigError(f"reading rules: a text of more than {LONGEST_TEXT} characters")
        numbers = [number for _, found in self.missing_values for number in found]
        if not all(math.isfinite(number) for number in (*numbers, *(offset for _, offset in self.offsets))):
            raise ConfigError("reading rules: a missing value or an offset is not finite")
        for _, rule in self.times:
            time_reader(rule)
        if any(not unit or any(mark in "0123456789+-" for mark in unit) for _, unit in self.units):
            raise ConfigError("units: a unit is empty, or has a digit or a sign in it")

    def texts(self) -> Iterable[str]:
        """Every text of the rules, for limits and for a look at control characters."""
        yield from self.missing_text
        yield from (name for name, _ in (*self.missing_values, *self.offsets))
        yield from (text for pair in (*self.times, *self.marks, *self.units) for text in pair)
        yield from (text for group in self.same_text for text in group)

    def sentinels(self, column: str) -> tuple[float, ...]:
        """Numbers that mean missing in a column.

        Args:
            column: its name.
        """
        return dict(self.missing_values).get(column, ())

    def marks_of(self, column: str) -> tuple[str, str]:
        """Decimal and thousands mark of a column.

        Args:
            column: its name.
        """
        own = dict(self.marks).get(column)
        return (own[0], own[1:]) if own else (self.decimal, self.thousands)

    def of_column(self, column: str) -> ReadingRules:
        """The rules with the marks of one column as those of the table: what spells one number depends on them.

        Args:
            column: its name.
        """
        decimal, thousands = self.marks_of(column)
        return replace(self, decimal=decimal, thousands=thousands, marks=())

    def unit(self, column: str) -> str:
        """What stands beside the numbers of a column, empty for most.

        Args:
            column: its name.
        """
        return dict(self.units).get(column, "")

    def offset(self, column: str) -> float:
        """What is taken off the values of a column, 0 for most.

        Args:
            column: its name.
        """
        return dict(self.offsets).get(column, 0.0)

    def to_json(self) -> Json:
        """What differs from the defaults, as a JSON object that `from_json` reads back."""
        found = {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return found | {"delimiter": TAB} if self.delimiter == "\t" else found

    @staticmethod
    def from_json(data: Json) -> ReadingRules:
        """Inverse of `to_json`.

        Args:
            data: decoded JSON object; untrusted.

        Raises:
            ConfigError: an unknown key, a value of the wrong type, or one that breaks a limit.
        """
        known = {field.name for field in fields(ReadingRules)}
        if not isinstance(data, Mapping) or set(data) - known:
            raise ConfigError(f"reading rules cannot be read: {str(data)[:80]!r}")
        try:
            return ReadingRules(**{name: _value(name, value) for name, value in data.items()})
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"reading rules cannot be read: {error!r}") from error


def _check_marks(rules: ReadingRules) -> None:
    for name, least in (("delimiter", 0), ("decimal", 1), ("thousands", 0), ("quote", 0)):
        mark = getattr(rules, name)
        steers = STEERING.search(mark) is not None and (name, mark) != ("delimiter", "\t")
        if not least <= len(mark) <= 1 or steers or mark.isalnum():
            raise ConfigError(f"{name} = {mark[:10]!r}: {'one' if least else 'no or one'} character that is a mark")
    for column, own in (("", rules.decimal + rules.thousands), *rules.marks):
        if not 1 <= len(own) <= 2 or any(mark.isalnum() or mark in "+-" or STEERING.search(mark) for mark in own):
            raise ConfigError(
                f"marks of column {column[:60]!r}: {own[:10]!r} is no decimal mark, perhaps with another one"
            )
        if len(set(own)) < len(own):
            raise ConfigError(f"decimal and thousands are both {own[0]!r}: a number would have two meanings")
    if rules.delimiter and rules.delimiter == rules.quote:
        raise ConfigError(f"delimiter and quote are both {rules.delimiter!r}")
    if len(rules.encoding) > 40:
        raise ConfigError(f"encoding = {rules.encoding[:40]!r}...: no such encoding")


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _value(name: str, value: Any) -> Any:
    """A JSON value as a field; whatever has another shape than the field is refused."""
    match name, value:
        case "header", bool():
            return value
        case "missing_text", list():
            return tuple(map(_text, value))
        case "same_text", list():
            return tuple(tuple(map(_text, _list(group))) for group in value)
        case "times" | "marks" | "units", list():
            return tuple((_text(column), _text(rule)) for column, rule in value)
        case "missing_values", list():
            return tuple((_text(column), tuple(map(float, _list(found)))) for column, found in value)
        case "offsets", list():
            return tuple((_text(column), float(offset)) for column, offset in value)
        case "delimiter", "tab":
            return "\t"
        case (("delimiter" | "decimal" | "thousands" | "encoding" | "quote" | "spellings"), str()):
            return value
        case _:
            raise TypeError(f"{name}: {value!r:.60}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.60} is no list")
    return value


DEFAULT_RULES = ReadingRules()
"""Of a scenario that says nothing."""
