"""A commented, working scenario for a table that nobody has prepared."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedinfer.config import FILE_IN_FOLDER
from fedinfer.data.guess import ColumnRole, Guess, guess_column, settled
from fedinfer.data.guess_reading import guess_reading, plain_cells, reading_lines
from fedinfer.data.labels import in_order
from fedinfer.data.number_label import number_lines, number_range
from fedinfer.data.read import read_table
from fedinfer.errors import ConfigError, DataError, StoreError
from fedinfer.reading import MISSING_TEXT, RawTable, ReadingRules, one_spelling

MANY_DEVICES = 100
FEW_DEVICES = 10
ROWS_PER_DEVICE = 20
LARGEST_COHORT = 200
DRIFT_PART = 0.1


@dataclass(frozen=True, slots=True)
class Proposal:
    """What `fedinfer init` proposes.

    Args:
        text: the scenario, TOML.
        columns: what each column was taken for.
        label_above: threshold that was asked for, which makes two classes of a numeric label; None: none was.
        label_range: proposed range of a label that is predicted as a number; None for classes.
        rows: rows of the table.
        devices: number of devices.
        notes: what was unusual about the file.
    """

    text: str
    columns: tuple[Guess, ...]
    label_above: float | None
    label_range: tuple[float, float] | None
    rows: int
    devices: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Plan:
    """Training and privacy that suit a number of rows and devices."""

    unit: str
    epsilon: float
    delta: float
    rounds: int
    sampling_rate: float
    cohort: int
    why: str


@dataclass(frozen=True, slots=True)
class _Model:
    """A model that suits the columns: lines of [model], the step of the server, and how many times the usual rounds."""

    lines: tuple[str, ...]
    server_learning_rate: float
    rounds: int = 1


_OF_A_TABLE = _Model(('kind = "logistic" # or "mlp"; start simple, noise hurts large models more',), 0.1)
_OF_A_NUMBER = _Model(('kind = "additive" # one curve per column, added up; or "linear", "mlp"',), 0.05, rounds=3)
_OF_A_TEXT = _Model(('kind = "bag" # the mean of word vectors; "transformer" needs more rows', "hidden = [8]"), 0.03)


def propose(
    csv: Path, folder: Path, label: str, device: str, header: bool = True, label_above: float | None = None
) -> Proposal:
    """Read a table and propose a scenario for it.

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
    rules = guess_reading(csv, header)
    raw = read_table(csv, rules)
    label_cells = raw.column("label", label)
    devices = _devices(raw, device)
    names = [name for name in raw.columns if name not in (label, device)]
    guesses = settled([guess_column(name, plain_cells(name, raw.columns[name], rules), MISSING_TEXT) for name in names])
    if all(guess.role is ColumnRole.DROP for guess in guesses):
        reasons = ", ".join(f"{guess.name!r} ({guess.reason})" for guess in guesses) or "the label stands alone"
        raise DataError(f"{csv}: no column is left to learn from: {reasons}")
    plain = plain_cells(label, label_cells, rules)
    bounds = number_range(plain) if label_above is None else None
    numbers = number_lines(plain, bounds) if bounds is not None else []
    text = "\n".join(
        [
            *_head(csv, folder, label, device, raw.rows),
            *reading_lines(rules),
            *_label_lines(label_cells, label_above, numbers, rules.marks_of(label)),
            *_device_lines(raw, device),
            *_column_lines(guesses),
            *([] if device else _partition_lines(devices)),
            *_plan_lines(_plan(raw.rows, devices), _model(guesses, bounds)),
            *(_PAIR if devices == 2 else []),
        ]
    )
    return Proposal(text + "\n", guesses, label_above, bounds, raw.rows, devices, raw.notes)


def _devices(raw: RawTable, device: str) -> int:
    if not device:
        return max(3, min(FEW_DEVICES, raw.rows // ROWS_PER_DEVICE))
    names = {cell for cell in raw.column("device", device) if cell not in MISSING_TEXT}
    if len(names) < 2:
        raise DataError(f"{raw.name}: device column {device!r} names {len(names)} device; at least 2 are needed")
    return len(names)


def _head(csv: Path, folder: Path, label: str, device: str, rows: int) -> list[str]:
    path = os.path.relpath(csv.resolve(), folder.resolve())
    holder = [f"device = {_text(device)} # each value is one device"] if device else []
    return [
        f"# Written by `fedinfer init` for {_text(csv.name)}: {rows} rows. Every key: docs/reference/scenario.md",
        "",
        "[scenario]",
        f"name = {_text(_task_name(csv.stem))}",
        "seed = 1",
        "",
        "[data]",
        'source = "csv"',
        f"path = {_text(path)} # relative to this file",
        f"label = {_text(label)}",
        *holder,
    ]


def _label_lines(cells: Sequence[str], above: float | None, numbers: list[str], marks: tuple[str, str]) -> list[str]:
    counts = Counter(cell for cell in cells if cell not in MISSING_TEXT)
    found = set(one_spelling(counts, ReadingRules(decimal=marks[0], thousands=marks[1])).values())
    missing = sum(cell in MISSING_TEXT for cell in cells)
    lines = [f'unlabelled = "drop" # {missing} rows have no label'] if missing else []
    if numbers:
        return [*lines, *numbers]
    if above is not None:
        return [*lines, f"label_above = {above!r} # {len(found)} values made two classes"]
    return [*lines, f"labels = {_texts(in_order(found, marks))} # class names, in order"] if len(found) > 1 else lines


def _device_lines(raw: RawTable, device: str) -> list[str]:
    missing = sum(cell in MISSING_TEXT for cell in raw.columns[device]) if device else 0
    return [f"# {missing} rows have no device and are left out"] if missing else []


def _column_lines(guesses: Sequence[Guess]) -> list[str]:
    dropped = [guess for guess in guesses if guess.role is ColumnRole.DROP]
    stray = sorted({text for guess in guesses for text in guess.stray})
    lines = ["drop = [", *(f"  {_text(g.name)}, # {g.reason}" for g in dropped), "]"] if dropped else []
    if stray:
        lines += [f"missing_text = {_texts([*MISSING_TEXT, *stray])} # found among numbers: {_texts(stray)}"]
    lines += ["test_fraction = 0.3"]
    texts = [guess for guess in guesses if guess.role is ColumnRole.TEXT]
    return lines + (_text_lines(texts[0]) if texts else _confirm_lines(guesses))


def _text_lines(guess: Guess) -> list[str]:
    return [
        f"text = {_text(guess.name)} # {guess.reason}{_missing(guess)}; the only input",
        '# vocabulary = "words.txt" # a public list, one word per line; without it 1,000 English words.',
        "# Words of your own texts would be in the published model: take a list that an outsider could have.",
        "text_length = 64 # words that are read of a text",
    ]


def _confirm_lines(guesses: Sequence[Guess]) -> list[str]:
    return [
        "",
        "# PLEASE CONFIRM. The ranges and categories below were read off your data. The privacy statement holds only",
        "# for ranges that are public: replace them by what an outsider would expect (a form, a norm, a textbook),",
        "# then set this key to true. A simulation runs with a warning; a real deployment refuses to start until then.",
        "ranges_confirmed = false",
        *_table("data.ranges", [g for g in guesses if g.role is ColumnRole.NUMERIC], _range_line),
        *_table("data.categories", [g for g in guesses if g.role is ColumnRole.CATEGORICAL], _categories_line),
    ]


def _table(name: str, guesses: Sequence[Guess], line: Callable[[Guess], str]) -> list[str]:
    return ["", f"[{name}]", *(line(guess) for guess in guesses)] if guesses else []


def _range_line(guess: Guess) -> str:
    return f"{_text(guess.name)} = [{guess.low:.15g}, {guess.high:.15g}] # {guess.reason}{_missing(guess)}"


def _categories_line(guess: Guess) -> str:
    return f"{_text(guess.name)} = {_texts(guess.categories)} # {guess.reason}{_missing(guess)}"


def _missing(guess: Guess) -> str:
    return f"; {guess.missing} missing" if guess.missing else ""


def _partition_lines(devices: int) -> list[str]:
    return [
        "",
        "[data.partition] # no device column was named: rows are split at random over simulated devices",
        f"devices = {devices}",
        'scheme = "iid" # or "dirichlet": every device has its own mix of classes',
    ]


_PAIR = (
    "",
    "[secure_aggregation]",
    "# A sum over two holders hides each from the server while neither works for it. This key says that none does:",
    "# it is for simulations: a real device counts on its owner's rate. With a third holder, remove it.",
    "corruption_rate = 0.0",
)


def _plan(rows: int, devices: int) -> _Plan:
    """Rules of thumb: noise is fixed by epsilon, so the signal has to come from rows (or devices)."""
    unit = "device" if devices >= MANY_DEVICES else "example"
    units = devices if unit == "device" else rows
    delta = min(1e-5, 10.0 ** -math.ceil(math.log10(10 * units)))
    if unit == "device":
        cohort = LARGEST_COHORT if devices > LARGEST_COHORT else 0
        return _Plan(unit, 8.0, delta, 10, 1.0, cohort, f"{devices} devices: each is protected as a whole")
    epsilon = next((e for least, e in ((2000, 1.0), (500, 2.0), (200, 4.0)) if rows >= least), 8.0)
    why = f"{devices} holders with {rows} rows: every row is protected"
    return _Plan(unit, epsilon, delta, 20 if rows >= 500 else 10, 0.5 if rows >= 500 else 1.0, 0, why)


def _model(guesses: Sequence[Guess], bounds: tuple[float, float] | None) -> _Model:
    if any(guess.role is ColumnRole.TEXT for guess in guesses):
        return _OF_A_TEXT
    return _OF_A_TABLE if bounds is None else _OF_A_NUMBER


def _plan_lines(plan: _Plan, model: _Model) -> list[str]:
    cohort = [f"cohort = {plan.cohort} # devices asked in a round"] if plan.cohort else []
    rate = f"server_learning_rate = {model.server_learning_rate}"
    by_row = [f"sampling_rate = {plan.sampling_rate}", 'server_optimizer = "fedadam"', rate]
    return [
        "",
        "[model]",
        *model.lines,
        "",
        "[training]",
        f"rounds = {plan.rounds * model.rounds}",
        *cohort,
        *(by_row if plan.unit == "example" else ["local_steps = 5"]),
        "",
        "[privacy]",
        f'unit = "{plan.unit}" # {plan.why}',
        'trust = "distributed" # devices add the noise inside secure aggregation; nobody sees a single update',
        f"epsilon = {plan.epsilon} # budget of the whole run; smaller is more private, larger learns more",
        f"delta = {plan.delta:g}",
        "clipping_norm = 1.0",
        "",
        "[artifact]",
        "max_metric_drop = 0.05 # the int8 model may lose this much of the metric on few rows",
        "",
        "[drift]",
        "windows = 4",
        f"epsilon = {plan.epsilon * DRIFT_PART:.2g} # part of the budget that the reports of all windows share",
    ]


def _task_name(stem: str) -> str:
    """A file name as a task name: 1 to 64 of a-z, 0-9, _ and -."""
    return re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-_")[:64] or "own-data"


def _text(value: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _texts(values: Iterable[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"


def write_scenario(text: str, folder: Path) -> Path:
    """Write FOLDER/scenario.toml, whole or not at all; never over an existing file.

    Args:
        text: TOML.
        folder: is made when it does not exist.

    Returns:
        The path of the new file.

    Raises:
        ConfigError: the file exists.
        StoreError: the folder cannot be made or written.
    """
    path, draft = folder / FILE_IN_FOLDER, folder / f".{FILE_IN_FOLDER}.draft"
    if path.exists():
        raise ConfigError(f"{path}: exists already", hint="choose another folder, or remove the file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
    return path
