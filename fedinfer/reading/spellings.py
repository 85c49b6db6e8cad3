"""Which texts are the same category or label: `1` and `1.0`, `True` and `TRUE`."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedinfer.reading.rules import BLANKS, ReadingRules

_WHOLE = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:\.0*)?")
LEAST_LETTERS = 3
_WHOLE_COMMA = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:,0*)?")


def spelling_of(rules: ReadingRules) -> Callable[[str], str]:
    """A function from a text to what all its spellings have in common.

    `007` stays apart from `7`, and `1.10` from `1.1`: they are codes, not amounts.

    Args:
        rules: with `spellings`, `same_text` and `decimal`.
    """
    if rules.spellings == "exact":
        return lambda text: text
    groups = {text.casefold(): group[0].casefold() for group in rules.same_text if group for text in group}
    whole = _WHOLE_COMMA if rules.decimal == "," else _WHOLE

    def common(text: str) -> str:
        found = whole.fullmatch(text)
        if found:
            sign = "-" if found[1] == "-" and found[2] != "0" else ""
            return sign + found[2]
        return groups.get(text.casefold(), text)

    return common


class Spellings:
    """Finds the place of a text in a list of names: exactly, else by its spelling where that is not ambiguous.

    Args:
        names: different texts.
        rules: which spellings are the same.
    """

    def __init__(self, names: Sequence[str], rules: ReadingRules) -> None:
        self._exact = {name: place for place, name in enumerate(names)}
        self._common = spelling_of(rules)
        spelled = [self._common(name) for name in names]
        self._alike = {text: place for place, text in enumerate(spelled) if spelled.count(text) == 1}

    def place(self, text: str) -> int | None:
        """Number of the name that a text spells; None: no name.

        Args:
            text: without blanks around it.
        """
        place = self._exact.get(text)
        return self._alike.get(self._common(text)) if place is None else place


def one_spelling(counts: Mapping[str, int], rules: ReadingRules) -> dict[str, str]:
    """For every text the spelling that stands for it: a word, in the most usual case, else the most frequent one.

    Args:
        counts: how often each text is there.
        rules: which spellings are the same.

    Examples:
        >>> one_spelling({"True": 5, "TRUE": 6, "False": 7, "1": 1, "1.0": 2}, ReadingRules())
        {'True': 'True', 'TRUE': 'True', 'False': 'False', '1': '1', '1.0': '1'}
        >>> one_spelling({"Y": 9, "yes": 1}, ReadingRules(same_text=(("yes", "y"),)))
        {'Y': 'yes', 'yes': 'yes'}
    """
    common, cases, chosen = spelling_of(rules), Counter[str](), dict[str, str]()
    for text, count in counts.items():
        cases[_case(text)] += count

    def order(text: str) -> tuple[bool, int, str, bool, int, str]:
        letter = len(text) == 1 and text.isalpha()  # `yes` says more than `y`
        return letter, -cases[_case(text)], _case(text), _has_point(text), -counts[text], text

    for text in sorted(counts, key=order):
        chosen.setdefault(common(text), text)
    return {text: chosen[common(text)] for text in counts}


def alike(texts: Iterable[str], known: Sequence[Sequence[str]] = ()) -> tuple[tuple[str, ...], ...]:
    """Groups of texts that a person would read as the same words: in another case, without accents, with other blanks.

    Texts of fewer than three letters are codes, which case may tell apart, unless they are words of a known group.

    Args:
        texts: different cells of one column.
        known: groups that need not be found, as `ReadingRules.same_text`.

    Returns:
        For `same_text`: the spellings of each group that are not the same but for their case, sorted.

    Examples:
        >>> alike(["Fully Paid", "FULLY PAID", "fully  paid", "late", "a", "A"])
        (('fully  paid', 'fully paid'),)
        >>> alike(["s\u00ed", "SI", "no"], (("s\u00ed",), ("no",)))
        (('s\u00ed', 'si'),)
    """
    usual = {_words(word): group for group in known for word in group}
    found: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        words = _words(text)
        if words in usual or sum(map(str.isalpha, words)) >= LEAST_LETTERS:
            found[words].add(text)
    groups = []
    for words, spellings in found.items():
        known_ones = usual.get(words, ())
        new = {text.casefold() for text in spellings} - {text.casefold() for text in known_ones}
        if len(spellings) > 1 and new:
            groups.append((*known_ones, *sorted(new)))
    return tuple(sorted(groups))


def _words(text: str) -> str:
    """A text without case, accents and double blanks."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(mark for mark in plain if not unicodedata.combining(mark)).split())


def _case(text: str) -> str:
    """How a word is written: lower, UPPER, Title; a number has no case."""
    names = {text.lower(): "lower", text.upper(): "upper", text.capitalize(): "title"}
    return names.get(text, "mixed") if text.lower() != text.upper() else ""


def _has_point(text: str) -> bool:
    return _WHOLE.fullmatch(text) is not None and "." in text


def text_of(value: Any) -> str:
    """A cell that is no text as a CSV file would have it: a whole number without a point.

    Args:
        value: of any type.
    """
    if isinstance(value, str):
        return value.strip(BLANKS)
    if isinstance(value, float | np.floating) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def as_text(values: Iterable[object]) -> list[str]:
    """Cells of another library as text; None, NaN and the like become empty.

    Args:
        values: of one column.
    """
    return ["" if is_nothing(value) else value if isinstance(value, str) else str(value) for value in values]


def is_nothing(value: Any) -> bool:
    """Whether a value of any library stands for no value: None, NaN, pandas' NA and NaT.

    Args:
        value: of one cell.
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and math.isnan(value)
