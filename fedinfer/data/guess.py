"""What an unprepared column probably is: a number, a category, or nothing a model should see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from fedinfer.data.columns import round_outwards, seen_categories
from fedinfer.reading import ReadingRules, is_number

MOST_STRAY_TEXTS = 5
NUMERIC_PART = 0.8
UNIQUE_PART = 0.5
MOST_PROPOSED = 20
"""Categories of one column: each is a weight of its own, and noise grows with the number of weights."""
TEXT_WORDS, TEXT_CHARACTERS = 4, 20
"""What a cell of free text has at least, in the median."""
MOST_BESIDE_TEXT = 2
"""Other usable columns of a table that is about its texts. With more, the texts are probably notes beside it."""
OUTLIER_FACTOR = 10.0
"""A range this many times wider than the middle 98 % of the values is cut to the middle 99 %."""

ID_WORDS = "id|uuid|guid|key|index|idx|nr|rownames|record|number"
ID_NAME = re.compile(rf"(?i:(^|[_\W])({ID_WORDS})$)|[a-z](Id|ID|Nr)$|^column_1$")
DATE = re.compile(
    r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?$"  # 2024-05-31, with or without a time
    r"|^\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([T ].*)?$"  # 31.05.2024, 5/31/24
    r"|^\d{1,2}:\d{2}(:\d{2})?$"  # 14:30
)


class ColumnRole(StrEnum):
    """What a scenario does with a column."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    TEXT = "text"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Guess:
    """What one column probably is.

    Args:
        name: column.
        role: what the scenario does with it.
        reason: why, in a few words for a comment.
        missing: number of missing cells.
        low, high: proposed range of a number.
        categories: proposed list of categories.
        stray: texts among numbers that probably mean `missing`.
        words: median number of words of a free text.
    """

    name: str
    role: ColumnRole
    reason: str
    missing: int
    low: float = 0.0
    high: float = 1.0
    categories: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()
    words: int = 0


def guess_column(name: str, cells: Sequence[str], missing: Collection[str]) -> Guess:
    """Guess what a column is from its name and its cells.

    Args:
        name: column name.
        cells: n texts.
        missing: texts that mean missing.
    """
    counts = Counter(cell for cell in cells if cell not in missing)
    absent = len(cells) - counts.total()
    if len(counts) < 2:
        return Guess(name, ColumnRole.DROP, "empty" if not counts else "the same value everywhere", absent)
    if sum(count for cell, count in counts.items() if DATE.match(cell)) >= NUMERIC_PART * counts.total():
        return Guess(name, ColumnRole.DROP, "dates or times", absent)
    stray = tuple(sorted(cell for cell in counts if not is_finite_number(cell)))
    strays = sum(counts[cell] for cell in stray)
    if len(stray) <= MOST_STRAY_TEXTS and strays <= (1 - NUMERIC_PART) * counts.total():
        return _guess_number(name, counts, absent + strays, stray)
    return _guess_category(name, cells, counts, missing, absent)


def is_finite_number(cell: str) -> bool:
    """Whether a cell reads as a number that is not infinite.

    Args:
        cell: text as the table has it.
    """
    return is_number(cell)


def _guess_number(name: str, counts: Counter[str], absent: int, stray: tuple[str, ...]) -> Guess:
    values = np.array([float(cell) for cell in counts.elements() if cell not in stray])
    if _is_identifier(name, values):
        return Guess(name, ColumnRole.DROP, "an identifier: a different whole number in every row", absent)
    if values.min() == values.max():
        return Guess(name, ColumnRole.DROP, "the same number everywhere", absent)
    low, high, reason = _proposed_range(values)
    return Guess(name, ColumnRole.NUMERIC, reason, absent, low, high, stray=stray)


def _is_identifier(name: str, values: np.ndarray) -> bool:
    """Whole numbers, all different, that either count up without gaps or are called an identifier."""
    if len(values) < 10 or (values % 1).any() or len(np.unique(values)) < len(values):
        return False
    return bool(values.max() - values.min() == len(values) - 1) or ID_NAME.search(name) is not None


def _proposed_range(values: np.ndarray) -> tuple[float, float, str]:
    whole, middle = np.ptp(values), np.subtract(*np.quantile(values, [0.99, 0.01]))
    if middle > 0 and whole > OUTLIER_FACTOR * middle:
        low, high = np.quantile(values, [0.005, 0.995])
        return *round_outwards(float(low), float(high)), f"outliers cut: data from {values.min():g} to {values.max():g}"
    return *round_outwards(float(values.min()), float(values.max())), f"data from {values.min():g} to {values.max():g}"


def _guess_category(
    name: str, cells: Sequence[str], counts: Counter[str], missing: Collection[str], absent: int
) -> Guess:
    words = _median(len(cell.split()) for cell in counts)
    many = len(counts) > UNIQUE_PART * counts.total()
    if many and words >= TEXT_WORDS and _median(map(len, counts)) >= TEXT_CHARACTERS:
        reason = f"free text: {len(counts)} different values, {words} words in the median"
        return Guess(name, ColumnRole.TEXT, reason, absent, words=words)
    if len(counts) > MOST_PROPOSED and many:
        return Guess(name, ColumnRole.DROP, f"text that hardly repeats: {len(counts)} different values", absent)
    if len(counts) == counts.total():
        return Guess(name, ColumnRole.DROP, "text that is different in every row", absent)
    categories = seen_categories(cells, ReadingRules(missing_text=tuple(missing)), MOST_PROPOSED)
    rare = len(counts) - len(categories)
    reason = f"{len(counts)} categories" + (f", the {rare} rarest count as missing" if rare else "")
    return Guess(name, ColumnRole.CATEGORICAL, reason, absent, categories=categories)


def _median(values: Iterable[int]) -> int:
    return int(np.median(list(values)))


def settled(guesses: Sequence[Guess]) -> tuple[Guess, ...]:
    """The guesses with either one text and nothing beside it, or no text: no model reads both.

    Args:
        guesses: of all input columns of a table.
    """
    texts = [guess for guess in guesses if guess.role is ColumnRole.TEXT]
    if not texts:
        return tuple(guesses)
    longest = max(texts, key=lambda guess: guess.words)
    others = sum(guess.role in (ColumnRole.NUMERIC, ColumnRole.CATEGORICAL) for guess in guesses)
    chosen = longest if others <= MOST_BESIDE_TEXT else None
    return tuple(_beside(guess, chosen) for guess in guesses)


def _beside(guess: Guess, chosen: Guess | None) -> Guess:
    if guess is chosen or guess.role is ColumnRole.DROP or (chosen is None and guess.role is not ColumnRole.TEXT):
        return guess
    why = (
        f"a text stands alone, {chosen.name!r} was taken"
        if chosen
        else "a text stands alone, to learn from it see text"
    )
    return replace(guess, role=ColumnRole.DROP, reason=f"{guess.reason}; {why}")
