"""What reading rules an unprepared table probably needs, for a person to confirm.

A mark in a number is certain only where one meaning is left: `1,5` and `0,123` have a decimal comma, `1.234,5` says
both marks, `1,234,567` has thousands. `1,234` alone may be either; the other cells of the table decide.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedinfer.data.guess_spellings import one_spelled, spelling_lines
from fedinfer.reading import (
    DEFAULT_RULES,
    DELIMITERS,
    LIMITS,
    PARENTHESES,
    ReadingRules,
    as_text,
    guess_delimiter,
    is_number,
    number_reader,
    read_file,
    records,
    text_of_file,
    without_unit,
)

_LEAST_PART = 0.8
"""Part of a column's cells that are numbers in some dialect before its marks have a say."""
_LOOKED_AT = 50_000
_SHAPE = re.compile(
    "[+-]?[0-9.,'\u2019 \u00a0\u202f\u2009]*[0-9][0-9.,'\u2019 \u00a0\u202f\u2009]*(?:[eE][+-]?[0-9]+)?"
)
_DECIMAL = (
    r"[+-]?(?:[0-9]*{0}(?:[0-9]{{1,2}}|[0-9]{{4,}})|[0-9]{{4,}}{0}[0-9]*|0{0}[0-9]+|{0}[0-9]+)(?:[eE][+-]?[0-9]+)?"
)
_GROUPED = r"[+-]?[1-9][0-9]{{0,2}}(?:{0}[0-9]{{3}}){{2,}}|[+-]?[1-9][0-9]{{0,2}}(?:{0}[0-9]{{3}})+{1}[0-9]+"
_ONE_GROUP = r"[+-]?[1-9][0-9]{{0,2}}{0}[0-9]{{3}}"
_UNITS = (
    "[%\u2030\u00b0\u20ac$\u00a3\u00a5\u20b9]|\u00b0[CF]|EUR|USD|GBP|CHF|kg|mg|km|cm|mm|ml|min|ms|kHz|Hz|kWh"
    "|(?:second|minute|hour|day|week|month|year)s?"
)
"""Units that are taken off without a question. No single letter: `3m` is as often a code."""
_BARE = "[0-9.,'\u2019 \u00a0\u202f\u2009]*[0-9]"
_CURRENCY = "[%\u20ac$\u00a3\u00a5\u20b9]|EUR|USD|GBP|CHF"
_WITH_UNIT = re.compile(f"[+-]? ?(?:({_CURRENCY}) ?{_BARE}|{_BARE} ?({_UNITS}))")
_WITH_WORD = re.compile(f"[+-]? ?{_BARE}(?: ([^\\W\\d_][^\\s0-9+-]{{0,11}})|([^\\W\\d_]{{2}}[^\\s0-9+-]{{0,10}}))")
"""A word behind a number: a unit where nearly all cells of a column have the same. One letter needs a blank."""
_LEAST_AMOUNTS = 10
"""Different numbers of a column whose unit is none of the usual ones."""
_IN_PARENTHESES = re.compile(rf"(?:{_CURRENCY})? ?\( ?((?:{_CURRENCY})? ?{_BARE} ?(?:{_UNITS})?) ?\)")
_GROUP_MARKS = (
    (",", ",", r"\."),
    (".", r"\.", ","),
    (" ", "[ \u00a0\u202f\u2009]", "[.,]"),
    ("'", "['\u2019]", "[.,]"),
)
"""Thousands mark, its pattern, and what may be the decimal mark beside it."""


@dataclass(frozen=True, slots=True)
class _Votes:
    """What the marks of a column can be.

    Args:
        point, comma: cells that certainly have this decimal mark.
        groups: cells that certainly have this thousands mark, by mark.
        either: cells such as 1,234 by mark.
        large: whole numbers of four digits or more without a mark.
    """

    point: int
    comma: int
    groups: Counter[str]
    either: Counter[str]
    large: int

    @property
    def decimal(self) -> str:
        """The decimal mark; empty: nothing says."""
        return "" if self.comma == self.point else "," if self.comma > self.point else "."


def guess_reading(path: Path, header: bool = True) -> ReadingRules:
    """Propose reading rules for a file.

    Args:
        path: CSV, its gzip, Parquet, Arrow, Excel or ARFF.
        header: whether its first row names the columns.

    Raises:
        DataError: it cannot be read as a table.
        MissingExtra: its kind needs a package that is not installed.
    """
    rules = replace(DEFAULT_RULES, header=header)
    text, encoding = text_of_file(path)
    if text is not None:
        quote = _quote(text)
        rules = replace(rules, encoding=encoding, quote=quote, delimiter=_delimiter(text, quote))
    raw = read_file(path, rules)
    units = {name: unit for name in raw.columns if (unit := _unit(raw.columns[name]))}
    columns = {
        name: _votes(cells) for name in raw.columns if (cells := _numeric_cells(raw.columns[name], units.get(name, "")))
    }
    decimals = Counter(votes.decimal for votes in columns.values() if votes.decimal)
    usual = decimals.most_common(1)[0][0] if decimals else ""
    marks = {name: _marks(votes, votes.decimal or usual, rules.delimiter) for name, votes in columns.items()}
    decimal = usual or ("," if Counter(mark[0] for mark in marks.values()).get(",") else ".")
    thousands = Counter(mark[1:] for mark in marks.values() if mark[0] == decimal and mark[1:])
    table = decimal + (thousands.most_common(1)[0][0] if thousands else "")
    # A column without any mark reads the same under all of them.
    own = {name: mark for name, mark in marks.items() if mark not in (table, table[0]) and _has_marks(columns[name])}
    return replace(rules, decimal=table[0], thousands=table[1:], marks=tuple(own.items()), units=tuple(units.items()))


def reading_lines(rules: ReadingRules) -> list[str]:
    """Lines of TOML for [data] that say what differs from the defaults.

    Args:
        rules: of `guess_reading`.
    """
    why = {
        "delimiter": "character between the cells",
        "decimal": "decimal mark of the numbers",
        "thousands": "mark between groups of digits",
        "encoding": "not UTF-8: check the letters beyond ASCII",
        "quote": "quotes are ordinary characters in this file",
        "header": "the first row is data",
    }
    found = rules.to_json()
    found.pop("delimiter", None)
    if rules.delimiter not in ("", ","):
        found["delimiter"] = rules.delimiter
    own = [
        f"marks.{_key(name)} = {json.dumps(marks, ensure_ascii=False)} # its own decimal mark"
        for name, marks in rules.marks
    ]
    own += [
        f"units.{_key(name)} = {json.dumps(unit, ensure_ascii=False)} # {_about_unit(unit)}"
        for name, unit in rules.units
    ]
    common = [f"{key} = {json.dumps(found[key], ensure_ascii=False)} # {why[key]}" for key in why if key in found]
    return [*own, *common, *spelling_lines(rules)]


def plain_cells(name: str, cells: Iterable[str], rules: ReadingRules) -> list[str]:
    """Cells as a look at them needs them: every number written as Python does, one spelling for the same text.

    Args:
        name: of the column.
        cells: of the column.
        rules: with the marks and spellings.
    """
    marks, unit = rules.marks_of(name), rules.unit(name)
    if unit:
        cells = [without_unit(cell, unit) for cell in cells]
    if marks == (".", ""):
        listed = list(cells)
        known = set(listed)
        return one_spelled([whole if (whole := text.removesuffix(".0")) in known else text for text in listed], rules)
    read = number_reader(*marks)
    plain = (repr(read(cell)) if is_number(cell, *marks) else cell for cell in cells)
    return one_spelled([text.removesuffix(".0") for text in as_text(plain)], rules)


def _quote(text: str) -> str:
    """The usual quote, unless the file breaks its rules and fits without."""
    if '"' not in text:
        return '"'
    delimiter = guess_delimiter(text, '"')
    return '"' if _fits(text, delimiter, '"') or not _fits(text, guess_delimiter(text, ""), "") else ""


def _fits(text: str, delimiter: str, quote: str) -> bool:
    try:
        return len({len(row) for row in records(text, delimiter, quote) if row}) == 1
    except csv.Error:
        return False


def _delimiter(text: str, quote: str) -> str:
    found = guess_delimiter(text, quote)
    return found if found in text else DELIMITERS[0]


def _about_unit(unit: str) -> str:
    found = ["`<5` and `>5` are read as the limit, 5"] if unit.startswith(LIMITS) else []
    unit = unit.removeprefix(LIMITS)
    found += ["numbers in parentheses are below zero"] if unit.startswith(PARENTHESES) else []
    return "; ".join(found + (["stands beside its numbers"] if unit and not unit.startswith(PARENTHESES) else []))


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _unit(cells: Sequence[str]) -> str:
    """A unit of the usual ones that stands beside most numbers of a column; empty: none."""
    present = [cell for cell in cells[:_LOOKED_AT] if cell not in DEFAULT_RULES.missing_text]
    measured = [without_unit(cell, LIMITS) for cell in present]
    beyond = sum(bare != cell for bare, cell in zip(measured, present, strict=True))
    # A column that knows limits alone holds categories.
    limited = LIMITS if 0 < beyond <= len(present) / 2 and _numeric_part(measured) >= _LEAST_PART else ""
    return limited + _plain_unit(measured if limited else present)


def _numeric_part(cells: Sequence[str]) -> float:
    """Part of some cells, >= 1, that are numbers or numbers with a unit."""
    return sum(
        bool(_SHAPE.fullmatch(cell) or _WITH_UNIT.fullmatch(cell) or _WITH_WORD.fullmatch(cell)) for cell in cells
    ) / len(cells)


def _plain_unit(present: Sequence[str]) -> str:
    below = {cell for cell in present if _IN_PARENTHESES.fullmatch(cell)}
    # Parentheses around all numbers say nothing about their sign.
    signed = PARENTHESES if 0 < sum(cell in below for cell in present) < len(present) else ""
    bare = [re.sub("[()]", "", cell).strip() if signed and cell in below else cell for cell in present]
    found = Counter(match[1] or match[2] for cell in bare if (match := _WITH_UNIT.fullmatch(cell)))
    unit, times = found.most_common(1)[0] if found else ("", 0)
    unit = unit if times >= _LEAST_PART * len(present) else _word(bare)
    return signed + unit


def _word(present: Sequence[str]) -> str:
    """What stands behind nearly all of many different numbers: m², mmHg, Stück; empty: nothing does."""
    words = [match[1] or match[2] for cell in present if (match := _WITH_WORD.fullmatch(cell))]
    word, times = Counter(words).most_common(1)[0] if words else ("", 0)
    amounts = {cell.removesuffix(word).strip() for cell in present if word and cell.endswith(word)}
    return word if times >= _LEAST_PART * len(present) and len(amounts) >= _LEAST_AMOUNTS else ""


def _numeric_cells(cells: Sequence[str], unit: str) -> list[str]:
    """The numbers of a column in any dialect, without its unit; empty where they are too few."""
    present = [cell for cell in cells[:_LOOKED_AT] if cell not in DEFAULT_RULES.missing_text]
    present = [without_unit(cell, unit) for cell in present] if unit else present
    numeric = [cell for cell in present if _SHAPE.fullmatch(cell)]
    return numeric if len(numeric) >= _LEAST_PART * len(present) else []


def _has_marks(votes: _Votes) -> bool:
    return bool(votes.point or votes.comma or votes.groups or votes.either)


def _marks(votes: _Votes, decimal: str, delimiter: str) -> str:
    """Decimal mark and thousands mark of a column, settled by what leaves one meaning."""
    if not decimal and votes.either[","]:
        # Nothing says what 1,234 is. In a file cut at commas, or beside small whole numbers only, it is a thousand.
        return ".," if delimiter == "," or (votes.groups[","] and not votes.large) else ","
    decimal = decimal or ("," if votes.groups["."] else ".")
    groups = Counter({mark: count for mark, count in votes.groups.items() if mark != decimal})
    if groups:
        return decimal + groups.most_common(1)[0][0]
    other = "." if decimal == "," else ","
    return decimal + (other if votes.either[other] and not votes.large else "")


def _votes(cells: Sequence[str]) -> _Votes:
    groups, either = Counter[str](), Counter[str]()
    for mark, pattern, decimals in _GROUP_MARKS:
        groups[mark] += _count(_GROUPED.format(pattern, decimals), cells)
        (groups if mark in " '" else either)[mark] += _count(_ONE_GROUP.format(pattern), cells)
    point = _count(_DECIMAL.format(r"\.") + r"|[+-]?[0-9].*[,' ][0-9]{3}\.[0-9]+", cells)
    comma = _count(_DECIMAL.format(",") + r"|[+-]?[0-9].*[.' ][0-9]{3},[0-9]+", cells)
    return _Votes(point, comma, +groups, +either, _count("[+-]?[0-9]{4,}", cells))


def _count(pattern: str, cells: Sequence[str]) -> int:
    matches = re.compile(pattern).fullmatch
    return sum(matches(cell) is not None for cell in cells)
