"""A table at a glance: what each column is, what is missing, how its values are spread, who holds how many rows.

For the eyes of the person who owns the table: it shows cells, and nothing of it gets into a scenario.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedinfer.data.birth import days
from fedinfer.data.guess import ColumnRole, Guess, is_finite_number
from fedinfer.data.guess_reading import guess_reading, plain_cells
from fedinfer.data.proposal import guessed
from fedinfer.data.read import read_table
from fedinfer.reading import MISSING_TEXT, RawTable

BINS, LEVELS = 16, 8


@dataclass(frozen=True, slots=True)
class Profile:
    """One column.

    Args:
        guess: what it probably is, and why.
        different: number of different values.
        bars: (name, rows) of each bin of a number, or of the most frequent values.
        summary: quartiles of a number, or the most frequent value, in words.
    """

    guess: Guess
    different: int
    bars: tuple[tuple[str, int], ...]
    summary: str


@dataclass(frozen=True, slots=True)
class TableProfile:
    """A whole table.

    Args:
        name: of the file.
        rows: of the table.
        columns: in the order of the table.
        devices: (name, rows) of each holder, most rows first; empty where no column names one.
        twice: rows that are exact copies of an earlier one.
    """

    name: str
    rows: int
    columns: tuple[Profile, ...]
    devices: tuple[tuple[str, int], ...]
    twice: int


def profile_table(path: Path, device: str) -> TableProfile:
    """Read a table and describe it.

    Args:
        path: CSV or Parquet file.
        device: column that names the holder; empty: none.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    rules = guess_reading(path)
    raw = read_table(path, rules)
    holders = raw.column("device", device) if device else []
    guesses = guessed(raw, [name for name in raw.columns if name != device], holders, rules)
    held = Counter(cell for cell in holders if cell not in MISSING_TEXT)
    return TableProfile(
        name=path.name,
        rows=raw.rows,
        columns=tuple(_profile(guess, plain_cells(guess.name, raw.columns[guess.name], rules)) for guess in guesses),
        devices=tuple(held.most_common()),
        twice=_twice(raw),
    )


def _twice(raw: RawTable) -> int:
    rows = Counter(zip(*raw.columns.values(), strict=True))
    return raw.rows - len(rows)


def _numbers(guess: Guess, counts: Counter[str]) -> list[float]:
    if guess.time:
        return days((cell.strip() for cell in counts.elements()), guess.time)
    return [float(cell) for cell in counts.elements() if is_finite_number(cell)]


def _profile(guess: Guess, cells: Sequence[str]) -> Profile:
    counts = Counter(cell for cell in cells if cell not in MISSING_TEXT)
    if guess.role is ColumnRole.NUMERIC:
        values = np.array(_numbers(guess, counts))
        values = values[~np.isin(values, guess.sentinels)]
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        rows, edges = np.histogram(values, bins=BINS, range=(guess.low, guess.high))
        bars = tuple((f"{start:g}", int(count)) for start, count in zip(edges, rows, strict=False))
        return Profile(guess, len(counts), bars, f"half of them {low:g} to {high:g}, middle {middle:g}")
    common = tuple(counts.most_common(LEVELS))
    summary = f"most often {common[0][0]!r} ({common[0][1]})" if common else "no value"
    return Profile(guess, len(counts), common, summary)
