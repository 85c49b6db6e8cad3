"""Texts as numbers, by one grammar: ASCII digits, one decimal mark, groups of digits, an exponent. Nothing else.

Python's `float` reads more: `1_2`, digits of other scripts, `infinity`. A code of a ward would become a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache

KINDS_OF_BLANK = " \u00a0\u202f\u2009"
KINDS_OF_APOSTROPHE = "'\u2019"


def marks_of(thousands: str) -> str:
    """All characters that a thousands mark stands for.

    Args:
        thousands: one character or none.
    """
    same = next((kinds for kinds in (KINDS_OF_BLANK, KINDS_OF_APOSTROPHE) if thousands and thousands in kinds), "")
    return same or thousands


@lru_cache(maxsize=256)
def number_pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    """What a number looks like; for `fullmatch`.

    Args:
        decimal: decimal mark, one character.
        thousands: mark between groups of digits (of three, or of two as in India, the last of three); empty: none.
    """
    point, whole = re.escape(decimal), "[0-9]+"
    if thousands:
        mark = f"[{re.escape(marks_of(thousands))}]"
        whole = f"(?:[0-9]{{1,3}}(?:{mark}[0-9]{{2,3}})*{mark}[0-9]{{3}}|[0-9]+)"
    return re.compile(f"[+-]?(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?")


@lru_cache(maxsize=256)
def number_reader(decimal: str = ".", thousands: str = "") -> Callable[[str], float]:
    """A function from stripped text to a number.

    Args:
        decimal: decimal mark, one character.
        thousands: mark between groups of digits; empty: none.

    Raises:
        ValueError: by the function, for any other text.

    Examples:
        >>> number_reader(",", ".")("1.234,5")
        1234.5
    """
    matches = number_pattern(decimal, thousands).fullmatch
    table = {ord(mark): "" for mark in marks_of(thousands)} | {ord(decimal): "."}

    def read(text: str) -> float:
        if matches(text) is None:
            raise ValueError(text)
        return float(text.translate(table))

    return read


PARENTHESES = "()"
"""At the front of a unit: numbers below zero stand in parentheses, as accountants write them."""

_LIMIT_SIGNS = ("<", ">", "\u2264", "\u2265")
LIMITS = "<>"
"""At the front of a unit: `<0.6` and `> 300`, as a laboratory writes what its method cannot measure, are the limit."""


def without_unit(text: str, unit: str) -> str:
    """A text without the unit before or behind its number, also between a sign and its number.

    Args:
        text: without blanks around it.
        unit: not empty; `()` in front of it (or alone) reads parentheses as a minus, `<>` in front of both reads the
            limit of what could not be measured.

    Examples:
        >>> [without_unit(text, "$") for text in ("$ 5.50", "-$5", "5$", "5")]
        ['5.50', '-5', '5', '5']
        >>> [without_unit(text, "()$") for text in ("($5.50)", "$(5)", "$5", "(-5)")]
        ['-5.50', '-5', '5', '(-5)']
        >>> [without_unit(text, "<>mg") for text in ("<0.6", "≥ 300 mg", "5", "<", "<<5")]
        ['0.6', '300', '5', '<', '<<5']
    """
    if unit.startswith(LIMITS):
        rest = unit.removeprefix(LIMITS)
        number = text[1:].removeprefix("=").strip() if text[:1] in _LIMIT_SIGNS else ""
        number = number if number[:1].isdigit() or number[:1] in ("-", ".", ",") else text
        return without_unit(number, rest) if rest else number
    if unit.startswith(PARENTHESES):
        rest = unit.removeprefix(PARENTHESES)
        outer = without_unit(text, rest) if rest else text
        inner = outer[1:-1].strip() if outer[:1] + outer[-1:] == PARENTHESES else ""
        plain = without_unit(inner, rest) if inner and rest else inner
        return f"-{plain}" if plain[:1].isdigit() or (plain[:1] in (".", ",") and plain[1:]) else outer
    sign = text[:1] if text[:1] in ("+", "-") else ""
    bare = text.removeprefix(sign).strip()
    bare = bare.removeprefix(unit) if bare.startswith(unit) else bare.removesuffix(unit)
    return sign + bare.strip()


def is_number(text: str, decimal: str = ".", thousands: str = "") -> bool:
    """Whether a text reads as a finite number.

    Args:
        text: without blanks around it.
        decimal: decimal mark.
        thousands: mark between groups of digits; empty: none.

    Examples:
        >>> [is_number(text) for text in ("12", "1_2", "-1.5e3", "infinity", "1,5")]
        [True, False, True, False, False]
    """
    try:
        return math.isfinite(number_reader(decimal, thousands)(text))
    except ValueError:
        return False
