"""What an unprepared column probably is: a number, a category, a time, or nothing a model should see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from fedinfer.data import birth, clock, suspicion
from fedinfer.data.columns import round_outwards
from fedinfer.data.skew import breaks_for
from fedinfer.reading import is_number

MOST_STRAY_TEXTS = 5
NUMERIC_PART = 0.8
UNIQUE_PART = 0.5
DATES = "dates or times"
MOST_PROPOSED = 20
"""Categories of one column: each is a weight of its own, and noise grows with the number of weights."""
TEXT_WORDS, TEXT_CHARACTERS = 4, 20
"""What a cell of free text has at least, in the median."""
MOST_BESIDE_TEXT = 2
"""Other usable columns of a table that is about its texts. With more, the texts are probably notes beside it."""
OUTLIER_FACTOR = 10.0
"""A range this many times wider than the middle 98 % of the values is cut to the middle 99 %."""

LEAST_ROWS, LEAST_DEVICES = 10, 2
"""Rows and devices that have a category, at least, before `init` writes it down: a rare one names somebody."""
LEAST_TICKED = 0.02
"""Part of the rows in which a box is ticked, and in which it is not, at least."""
COVERED = 0.5
"""Part of the rows that the listed categories of a long list hold, at least."""
PERSON_ROWS = 1.2
"""Rows per value from which an identifier names persons who come again."""
DATE = re.compile(
    r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?$"  # 2024-05-31, with or without a time
    r"|^\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([T ].*)?$"  # 31.05.2024, 5/31/24
    r"|^(\d{1,2}[- .]+)?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[- .,]+(\d{1,2},? +)?\d{4}([T ].*)?$"
    r"|^\d{1,2}:\d{2}(:\d{2})?$",  # 31 May 2024, May 31, 2024, May-2024; 14:30
    re.IGNORECASE,
)


class ColumnRole(StrEnum):
    """What a scenario does with a column."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    TEXT = "text"
    TIME = "time"
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
        time: rule that makes a number of a date; empty: none.
        breaks: proposed for a number whose values crowd at one end of the range.
        categories: proposed list of categories.
        stray: texts among numbers that probably mean `missing`.
        words: median number of words of a free text.
        sentinels: numbers that probably mean `missing`.
        persons: different values of an identifier whose values repeat; 0: it is none.
        alone: balanced accuracy with which the column alone answers the label, where that is suspicious; else 0.
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
    sentinels: tuple[float, ...] = ()
    persons: int = 0
    alone: float = 0.0
    breaks: tuple[float, ...] = ()
    time: str = ""


def guess_column(name: str, cells: Sequence[str], missing: Collection[str], holders: Sequence[str] = ()) -> Guess:
    """Guess what a column is from its name and its cells.

    Args:
        name: column name.
        cells: n texts.
        missing: texts that mean missing.
        holders: device of each row, where the table names devices; a category needs two of them.
    """
    counts = Counter(cell for cell in cells if cell not in missing)
    absent = len(cells) - counts.total()
    if len(counts) < 2:
        return _ticked(name, cells, counts, holders) or Guess(
            name, ColumnRole.DROP, "empty" if not counts else "the same value everywhere", absent
        )
    if sum(count for cell, count in counts.items() if DATE.match(cell)) >= NUMERIC_PART * counts.total():
        found = _birth(name, counts, absent) or _clock(name, counts, absent)
        return found or Guess(name, ColumnRole.DROP, DATES, absent)
    if private := _private(name, counts):
        return Guess(name, ColumnRole.DROP, private, absent, persons=_persons(counts))
    stray = tuple(sorted(cell for cell in counts if not is_finite_number(cell)))
    strays = sum(counts[cell] for cell in stray)
    if len(stray) <= MOST_STRAY_TEXTS and strays <= (1 - NUMERIC_PART) * counts.total():
        guess = _guess_number(name, counts, absent + strays, stray)
        return guess if guess is not None else _guess_category(name, cells, counts, absent, holders)
    return _guess_category(name, cells, counts, absent, holders)


def _ticked(name: str, cells: Sequence[str], counts: Counter[str], holders: Sequence[str]) -> Guess | None:
    """A box that is ticked in some rows and empty in the others; None for a number, and where most rows are alike."""
    ticked, mark = counts.total(), next(iter(counts), "")
    if (is_finite_number(mark) and mark != "1") or min(ticked, len(cells) - ticked) < max(
        LEAST_ROWS, LEAST_TICKED * len(cells)
    ):
        return None
    categories = common_categories(cells, counts, holders)
    reason = f"ticked in {ticked} rows, empty in the others, which counts as an answer too"
    return (
        Guess(name, ColumnRole.CATEGORICAL, reason, len(cells) - ticked, categories=categories) if categories else None
    )


def _birth(name: str, counts: Counter[str], absent: int) -> Guess | None:
    """A date of birth as a number; None for other dates."""
    rule = birth.rule_of(counts) if birth.NAMES & set(suspicion.words_of(name)) else ""
    if not rule:
        return None
    low, high = birth.decades(birth.days((cell.strip() for cell in counts), rule))
    reason = "dates of birth: an age, as days since 1900; range of whole decades"
    return Guess(name, ColumnRole.NUMERIC, reason, absent, low, high, time=rule)


def _clock(name: str, counts: Counter[str], absent: int) -> Guess | None:
    """A time of day or a duration as a number of hours; None for what has a date."""
    rule = clock.rule_of(counts)
    if not rule:
        return None
    low, high = clock.hours(counts, rule)
    return Guess(name, ColumnRole.NUMERIC, "times of day or durations, in hours", absent, low, high, time=rule)


def _private(name: str, counts: Counter[str]) -> str:
    """Why a column tells persons or rows apart, by its name or the form of its cells; empty where it does not."""
    if suspicion.names_a_person(name):
        return f"names a person or leads to one, as its name says: {len(counts)} different values"
    if what := suspicion.contact(counts):
        return f"{what}: they lead to a person"
    if suspicion.names_an_identifier(name) and len(counts) > suspicion.MOST_CODES:
        return f"an identifier, as its name says: {len(counts)} different values in {counts.total()} rows"
    return ""


def _persons(counts: Counter[str]) -> int:
    return len(counts) if len(counts) > MOST_PROPOSED and counts.total() >= PERSON_ROWS * len(counts) else 0


def is_finite_number(cell: str) -> bool:
    """Whether a cell reads as a number that is not infinite.

    Args:
        cell: text as the table has it.
    """
    return is_number(cell)


def _guess_number(name: str, counts: Counter[str], absent: int, stray: tuple[str, ...]) -> Guess | None:
    """None where the numbers are names."""
    values = np.array([float(cell) for cell in counts.elements() if cell not in stray])
    if reason := suspicion.tells_rows_apart(values):
        return Guess(name, ColumnRole.DROP, reason, absent)
    if suspicion.names_an_identifier(name) and len(np.unique(values)) == len(values) >= suspicion.EXPECTED_REPEATS:
        return Guess(name, ColumnRole.DROP, "an identifier: a different number in every row", absent)
    whole = not (values % 1).any()
    named = suspicion.names_a_code(name) or suspicion.names_an_identifier(name)
    if suspicion.has_leading_zeros(counts) or (whole and named and 2 < len(counts) <= suspicion.MOST_CODES):
        return None
    found = suspicion.sentinels(values)
    kept = values[~np.isin(values, found)]
    if kept.min() == kept.max():
        return Guess(name, ColumnRole.DROP, "the same number everywhere", absent)
    low, high, reason = _proposed_range(kept)
    if found:
        texts = ", ".join(f"{value:g}" for value in found)
        reason += f"; {len(values) - len(kept)} rows with {texts} count as missing"
    breaks = breaks_for(kept, low, high)
    gone = absent + len(values) - len(kept)
    return Guess(name, ColumnRole.NUMERIC, reason, gone, low, high, stray=stray, sentinels=found, breaks=breaks)


def _proposed_range(values: np.ndarray) -> tuple[float, float, str]:
    whole, middle = np.ptp(values), np.subtract(*np.quantile(values, [0.99, 0.01]))
    if middle > 0 and whole > OUTLIER_FACTOR * middle:
        low, high = np.quantile(values, [0.005, 0.995])
        return *round_outwards(float(low), float(high)), f"outliers cut: data from {values.min():g} to {values.max():g}"
    return *round_outwards(float(values.min()), float(values.max())), f"data from {values.min():g} to {values.max():g}"


def _guess_category(
    name: str, cells: Sequence[str], counts: Counter[str], absent: int, holders: Sequence[str]
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
    categories = common_categories(cells, counts, holders)
    if len(categories) < 2 and len(counts) > len(categories):
        reason = f"{len(counts)} categories, of which {len(categories)} have {LEAST_ROWS} rows: rare ones name somebody"
        return Guess(name, ColumnRole.DROP, reason, absent)
    if len(counts) > suspicion.MOST_CODES and sum(counts[c] for c in categories) < COVERED * counts.total():
        reason = f"a long list of names: the {len(categories)} most frequent of {len(counts)} are few of the rows"
        return Guess(name, ColumnRole.DROP, reason, absent, persons=_persons(counts))
    rare = len(counts) - len(categories)
    reason = f"{len(counts)} categories" + (f", the {rare} rarest count as missing" if rare else "")
    return Guess(name, ColumnRole.CATEGORICAL, reason, absent, categories=categories)


def common_categories(cells: Sequence[str], counts: Counter[str], holders: Sequence[str]) -> tuple[str, ...]:
    """Categories that may be written down: the most frequent ones that several rows and devices have, sorted.

    Args:
        cells: of one column, n.
        counts: of the cells that are not missing.
        holders: device of each row, n; empty where rows have none.
    """
    wanted = [cell for cell, count in counts.items() if count >= LEAST_ROWS]
    if holders:
        seen: dict[str, set[str]] = {cell: set() for cell in wanted}
        for cell, holder in zip(cells, holders, strict=True):
            if cell in seen:
                seen[cell].add(holder)
        wanted = [cell for cell in wanted if len(seen[cell]) >= LEAST_DEVICES]
    return tuple(sorted(sorted(wanted, key=lambda cell: (-counts[cell], cell))[:MOST_PROPOSED]))


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
