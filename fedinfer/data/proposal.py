"""What a careful analyst would make of a table that nobody has prepared: its [data] section, and what to know of it.

`propose` reads the table and settles every column; `fedinfer.data.proposal_text` writes it down. Which rounds, noise
and windows suit it is `fedinfer.planning`'s.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import numpy as np

from fedinfer.data import birth, class_order, giveaway, suspicion
from fedinfer.data.guess import DATES, ColumnRole, Guess, guess_column, is_finite_number, settled
from fedinfer.data.guess_reading import guess_reading, plain_cells, reading_lines
from fedinfer.data.guess_spellings import spelling_notes, with_spellings
from fedinfer.data.number_label import MOST_NUMERIC_CLASSES, number_lines, number_range
from fedinfer.data.order import is_moment
from fedinfer.data.proposal_text import DataLines, LabelLines, data_text
from fedinfer.data.read import read_table
from fedinfer.errors import DataError
from fedinfer.reading import LIMITS, MISSING_TEXT, PARENTHESES, RawTable, ReadingRules, one_spelling

FEW_DEVICES = 10
ROWS_PER_DEVICE = 20
IMBALANCE = 0.1
"""Part of the rows from which one of two classes is called rare; of more classes in proportion."""
LEAST_MOMENTS = 10
"""Different moments from which a table has an order of time."""
TIME_NAMES = frozenset("time timestamp datetime date epoch ts unixtime".split())


@dataclass(frozen=True, slots=True)
class Proposal:
    """What `fedinfer init` proposes about a table.

    Args:
        text: the sections [scenario] and [data] of the scenario, TOML.
        columns: what each column was taken for.
        label_above: threshold that was asked for, which makes two classes of a numeric label; None: none was.
        label_range: proposed range of a label that is predicted as a number; None for classes.
        rows: rows of the table.
        devices: number of devices.
        notes: what the person should know, one sentence or two each.
        prior: share of each of two classes, that of the rarer one rounded to one digit; else empty.
    """

    text: str
    columns: tuple[Guess, ...]
    label_above: float | None
    label_range: tuple[float, float] | None
    rows: int
    devices: int
    notes: tuple[str, ...]
    prior: Mapping[str, float]


def propose(
    csv: Path, folder: Path, label: str, device: str, *, header: bool = True, label_above: float | None = None
) -> Proposal:
    """Read a table and propose what its columns are.

    Args:
        csv: table file of any kind that is read.
        folder: where the scenario will lie; the path to the table is written relative to it.
        label: column to predict.
        device: column that names the holder; empty: rows are split at random over simulated devices.
        header: whether the first row names the columns; without, they are column_1, column_2 and so on.
        label_above: make two classes of a numeric label at this number; None: a label with many numbers is predicted
            as a number.

    Raises:
        DataError: the file cannot be read, a column is absent, or nothing is left to learn from.
    """
    guessed_rules = guess_reading(csv, header)
    raw = read_table(csv, guessed_rules)
    holders = raw.column("device", device) if device else []
    devices = _devices(raw, device)
    names = [name for name in raw.columns if name not in (label, device)]
    guesses = guessed(raw, names, holders, guessed_rules)
    rules = with_spellings(guessed_rules, [raw.column("label", label), *_listed(guesses)])
    guesses = _respelled(raw, guesses, holders, rules) if rules != guessed_rules else guesses
    target = _label(raw.column("label", label), label, rules, label_above)
    guesses = _without_giveaways(raw, guesses, target, rules)
    if all(guess.role in (ColumnRole.DROP, ColumnRole.TIME) for guess in guesses):
        reasons = ", ".join(f"{guess.name!r} ({guess.reason})" for guess in guesses) or "the label stands alone"
        texts = next((guess.name for guess in guesses if any(" " in cell for cell in raw.columns[guess.name])), "")
        hint = f"short texts to learn from are named by hand, in a scenario: [data] text = {json.dumps(texts)}"
        raise DataError(f"{csv}: no column is left to learn from: {reasons}", hint=hint if texts else "")
    lines = DataLines(
        table=csv.name,
        path=os.path.relpath(csv.resolve(), folder.resolve()),
        label=target.lines(label),
        device=device,
        rows=raw.rows,
        devices=devices,
        reading=tuple(reading_lines(rules)),
        unheld=sum(cell in MISSING_TEXT for cell in holders),
    )
    notes = (
        *raw.notes,
        *target.notes(label, raw.rows),
        *spelling_notes(rules, guessed_rules),
        *_device_notes(raw, device),
        *_person_notes(guesses, raw),
        *_left(guesses),
    )
    text = data_text(lines, guesses)
    return Proposal(text, guesses, target.above, target.bounds, raw.rows, devices, notes, target.prior())


def guessed(raw: RawTable, names: Sequence[str], holders: Sequence[str], rules: ReadingRules) -> tuple[Guess, ...]:
    """What columns of a table probably are, with at most one text and one column of time.

    Args:
        raw: the table as text.
        names: columns to guess.
        holders: device of each row; empty where the table names none.
        rules: how its cells are read.
    """
    guesses = settled(
        [guess_column(name, plain_cells(name, raw.columns[name], rules), MISSING_TEXT, holders) for name in names]
    )
    moment = next((guess for guess in guesses if _orders(guess, raw.columns[guess.name])), None)
    return tuple(replace(g, role=ColumnRole.TIME, reason=_TIME) if g is moment else g for g in guesses)


def _listed(guesses: Sequence[Guess]) -> list[tuple[str, ...]]:
    return [guess.categories for guess in guesses if _is_listed(guess)]


def _is_listed(guess: Guess) -> bool:
    """Whether categories of a column are written down."""
    match guess.role:
        case ColumnRole.CATEGORICAL:
            return True
        case ColumnRole.NUMERIC | ColumnRole.TEXT | ColumnRole.TIME | ColumnRole.DROP:
            return False
        case _:
            assert_never(guess.role)


def _respelled(
    raw: RawTable, guesses: Sequence[Guess], holders: Sequence[str], rules: ReadingRules
) -> tuple[Guess, ...]:
    """The guesses with the categories of the rules' spellings."""

    def again(guess: Guess) -> Guess:
        cells = plain_cells(guess.name, raw.columns[guess.name], rules)
        return guess_column(guess.name, cells, MISSING_TEXT, holders)

    return tuple(again(guess) if _is_listed(guess) else guess for guess in guesses)


_TIME = "when a row happened: the latest rows of each device are held out; no input"


def _orders(guess: Guess, cells: Sequence[str]) -> bool:
    """Whether a column can say in which order rows happened: dates, or numbers called so that never go back."""
    words = set(suspicion.words_of(guess.name))
    different = {cell for cell in cells if cell not in MISSING_TEXT}
    if len(different) < LEAST_MOMENTS or words & birth.NAMES:
        return False
    if guess.reason == DATES:
        return all(map(is_moment, different)) and not any(cell in MISSING_TEXT for cell in cells)
    if not words & TIME_NAMES or not all(is_finite_number(cell) for cell in cells):
        return False
    values = [float(cell) for cell in cells]
    return len(different) >= 50 and all(a <= b for a, b in itertools.pairwise(values))


@dataclass(frozen=True, slots=True)
class _Label:
    """The label as a table has it.

    Args:
        classes: class of each row; one of MISSING_TEXT where it has none.
        counts: rows of each class, or of each number.
        missing: rows without a label.
        above: threshold that was asked for.
        bounds: range of a label that is predicted as a number.
        numbers: lines of [data] about such a label.
        sentinels: numbers that mean that there is no label.
        marks: decimal and thousands mark of its cells.
    """

    classes: Sequence[str]
    counts: Counter[str]
    missing: int
    above: float | None
    bounds: tuple[float, float] | None
    numbers: tuple[str, ...]
    sentinels: tuple[float, ...]
    marks: tuple[str, str]

    def lines(self, name: str) -> LabelLines:
        names = tuple(self.counts) if self.numbers else class_order.listed(self.counts, self.marks)
        return LabelLines(
            name,
            names,
            self.missing,
            self.above,
            self.numbers,
            self.sentinels,
            class_order.range_of(self.grades(name), self.marks),
        )

    def grades(self, name: str) -> tuple[str, ...]:
        """Its classes from low to high; empty where they are none, or have no order."""
        classes = not self.numbers and self.above is None
        return class_order.grades(self.counts, name, self.marks) if classes else ()

    def prior(self) -> Mapping[str, float]:
        """Share of each of two classes; a threshold that the person gave names its classes otherwise."""
        if len(self.counts) != 2 or self.above is not None or self.bounds is not None:
            return {}
        (usual, _), (rare, least) = self.counts.most_common()
        share = float(f"{least / self.counts.total():.0e}")
        return {usual: round(1.0 - share, 6), rare: share} if 0 < share < 1 else {}

    def notes(self, name: str, rows: int) -> tuple[str, ...]:
        found = [f"{self.missing} of {rows} rows have no label and are left out."] if self.missing else []
        if self.sentinels:
            texts = ", ".join(f"{value:g}" for value in self.sentinels)
            found.append(f"A label of {texts} is taken for `not measured`; its rows count as rows without a label.")
        kinds = Counter(cell for cell in self.classes if cell not in MISSING_TEXT)
        (usual, most), (rare, least) = kinds.most_common()[0], kinds.most_common()[-1]
        if (
            len(kinds) > 1
            and least <= IMBALANCE * 2 / len(kinds) * kinds.total()
            and self.above is None
            and self.bounds is None
        ):
            about = f"Class {rare!r} is {least} of {kinds.total()} rows"
            right = f"always answering {usual!r} is right in {most / kinds.total():.1%}"
            found.append(
                f"{about}: {right}, so judge by recall and average precision, not by accuracy."
                if len(kinds) == 2
                else f"{about}: accuracy says little about it, see its recall in the report; {right}."
            )
        if grades := self.grades(name):
            found.append(
                f"The label has an order: {' < '.join(grades)}. It is learned as classes, which were right more often "
                "than a rounded number; a miss by one grade counts as much as a miss by all."
            )
        return tuple(found)


def _label(cells: Sequence[str], name: str, rules: ReadingRules, label_above: float | None) -> _Label:
    plain, marks = plain_cells(name, cells, rules), rules.marks_of(name)
    counts = Counter(cell for cell in plain if cell not in MISSING_TEXT)
    missing = len(cells) - counts.total()
    few = len(counts) <= MOST_NUMERIC_CLASSES and label_above is None
    if few or not all(is_finite_number(cell) for cell in counts):
        written = Counter(cell for cell in cells if cell not in MISSING_TEXT)
        marked = ReadingRules(decimal=marks[0], thousands=marks[1], same_text=rules.same_text)
        names = one_spelling(written, marked)
        classes = [names.get(cell, "") for cell in cells]
        return _Label(classes, Counter(filter(None, classes)), missing, None, None, (), (), marks)
    values = np.array([float(cell) for cell in counts.elements()])
    found = suspicion.sentinels(values)
    kept = Counter({cell: count for cell, count in counts.items() if float(cell) not in found})
    above = _median(np.sort(values[~np.isin(values, found)])) if label_above is None else label_above
    bounds = number_range(list(kept.elements())) if label_above is None else None
    numbers = (
        tuple(
            number_lines(list(kept.elements()), bounds, rules.unit(name).removeprefix(LIMITS).removeprefix(PARENTHESES))
        )
        if bounds is not None
        else ()
    )
    classes = ["" if cell not in kept else str(float(cell) > above) for cell in plain]
    return _Label(classes, kept, missing + counts.total() - kept.total(), label_above, bounds, numbers, found, marks)


def _median(values: np.ndarray) -> float:
    """A median below the largest value, so that both classes have rows."""
    median = float(values[(len(values) - 1) // 2])
    return median if median < values[-1] else float(values[values < median][-1])


def _devices(raw: RawTable, device: str) -> int:
    if not device:
        return max(3, min(FEW_DEVICES, raw.rows // ROWS_PER_DEVICE))
    names = {cell for cell in raw.column("device", device) if cell not in MISSING_TEXT}
    if len(names) < 2:
        raise DataError(f"{raw.name}: device column {device!r} names {len(names)} device; at least 2 are needed")
    return len(names)


def _without_giveaways(
    raw: RawTable, guesses: Sequence[Guess], target: _Label, rules: ReadingRules
) -> tuple[Guess, ...]:
    """The guesses with columns dropped that answer the label alone, unless no other input is left."""
    settled_ones = tuple(
        _judged(guess, plain_cells(guess.name, raw.columns[guess.name], rules), target) for guess in guesses
    )
    left = any(guess.role in _INPUTS for guess in settled_ones)
    return settled_ones if left else tuple(guesses)


_INPUTS = (ColumnRole.NUMERIC, ColumnRole.CATEGORICAL, ColumnRole.TEXT)


def _judged(guess: Guess, cells: Sequence[str], target: _Label) -> Guess:
    if guess.role not in (ColumnRole.NUMERIC, ColumnRole.CATEGORICAL):
        return guess
    figure = giveaway.gives_away(cells, target.classes, MISSING_TEXT)
    if figure < giveaway.LEAST:
        return guess
    if giveaway.is_copy(cells, target.classes, MISSING_TEXT):
        reason = f"gives the label away: alone it is right in {figure:.1%} of unseen rows, as a copy of it would be"
        return replace(guess, role=ColumnRole.DROP, reason=reason, alone=figure)
    return replace(guess, reason=f"{guess.reason}; alone right in {figure:.1%} of unseen rows", alone=figure)


def _device_notes(raw: RawTable, device: str) -> list[str]:
    if not device:
        return []
    cells = raw.columns[device]
    missing = sum(cell in MISSING_TEXT for cell in cells)
    counts = Counter(cell for cell in cells if cell not in MISSING_TEXT)
    notes = (
        [f"{missing} of {len(cells)} rows have no device ({device!r} is empty) and are left out."] if missing else []
    )
    single = sum(count == 1 for count in counts.values())
    if single:
        notes.append(
            (
                f"{single} of {len(counts)} devices have a single row: nothing of it can be held out, so they train "
                "and are not judged."
                if single > 1
                else f"One of {len(counts)} devices has a single row: nothing of it can be held out, so it trains and "
                "is not judged."
            )
            + " If a row is what you protect, leave --device out."
        )
    return notes


def _person_notes(guesses: Sequence[Guess], raw: RawTable) -> list[str]:
    """What rows of one person mean for privacy, about the identifier that says most clearly who it is."""
    named = [guess for guess in guesses if guess.persons]
    if not named:
        return []
    guess = max(named, key=lambda guess: (suspicion.names_an_identifier(guess.name), guess.persons))
    most = _most_rows(raw.columns[guess.name], MISSING_TEXT)
    return [
        f"{guess.name!r} has {guess.persons} different values in {raw.rows} rows, at most {most} rows for one. If it "
        f"names persons: a budget per row protects the one with {most} rows far less (`fedinfer privacy group` says "
        "how much), and rows of one person stand in training and in held-out rows. "
        f"--device {guess.name!r} protects each as a whole (unit "
        f"device); its price is noise for {guess.persons} units instead of {raw.rows}."
    ]


def _most_rows(cells: Sequence[str], missing: Collection[str]) -> int:
    return max(Counter(cell for cell in cells if cell not in missing).values())


def _left(guesses: Sequence[Guess]) -> list[str]:
    """Columns that answer the label alone: what was done with them, and what the person should decide."""
    notes = []
    for guess in guesses:
        if not guess.alone:
            continue
        if guess.role is ColumnRole.DROP:
            notes.append(f"{guess.name!r} is left out, it {guess.reason}. If it is known before the label, use it.")
        else:
            notes.append(
                f"{guess.name!r} alone answers {guess.alone:.1%} of unseen rows by one limit. If it is known only "
                "after the label, put it into drop: the model would be worth nothing."
            )
    return notes
