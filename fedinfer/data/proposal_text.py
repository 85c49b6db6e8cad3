"""The sections [scenario] and [data] of a proposal, as commented TOML, and writing a scenario to its folder."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedinfer.config import FILE_IN_FOLDER
from fedinfer.data.guess import LEAST_DEVICES, LEAST_ROWS, ColumnRole, Guess
from fedinfer.errors import ConfigError, StoreError
from fedinfer.reading import MISSING_TEXT


@dataclass(frozen=True, slots=True)
class LabelLines:
    """What is written about the label.

    Args:
        name: column.
        found: different cells that are labels, classes in order.
        missing: rows without a label.
        above: threshold that makes two classes of a number; None for class labels.
        numbers: lines about a label that is predicted as a number; empty for classes.
        sentinels: numbers that mean that there is no label.
        range_instead: `[low, high]` of grades that could be predicted as a number; empty: they could not.
    """

    name: str
    found: tuple[str, ...]
    missing: int
    above: float | None
    numbers: tuple[str, ...]
    sentinels: tuple[float, ...]
    range_instead: str


@dataclass(frozen=True, slots=True)
class DataLines:
    """What is written about a table beside its columns.

    Args:
        table: file name.
        path: to the file, relative to the scenario's folder.
        label: the label.
        device: column that names the holder; empty: none.
        rows: of the table.
        devices: how many.
        unheld: rows without a device.
        reading: lines that say how cells are read.
    """

    table: str
    path: str
    label: LabelLines
    device: str
    rows: int
    devices: int
    unheld: int
    reading: tuple[str, ...]


def data_text(data: DataLines, guesses: Sequence[Guess]) -> str:
    """The sections [scenario] and [data].

    Args:
        data: about the table.
        guesses: what its columns are.

    Returns:
        TOML that ends with a line break.
    """
    lines = [
        *_head(data),
        *data.reading,
        *_label_lines(data.label),
        *([f"# {data.unheld} rows have no device and are left out"] if data.unheld else []),
        *_column_lines(guesses, data.label),
        *([] if data.device else _partition_lines(data.devices)),
        *(_PAIR if data.devices == 2 else []),
    ]
    return "\n".join(lines) + "\n"


def _head(data: DataLines) -> list[str]:
    holder = [f"device = {quoted(data.device)} # each value is one device"] if data.device else []
    name = quoted(data.table)
    return [
        f"# Written by `fedinfer init` for {name}: {data.rows} rows. Every key: docs/reference/scenario.md",
        "",
        "[scenario]",
        f"name = {quoted(_task_name(Path(data.table).stem))}",
        "seed = 1",
        "",
        "[data]",
        'source = "csv"',
        f"path = {quoted(data.path)} # relative to this file",
        f"label = {quoted(data.label.name)}",
        *holder,
    ]


def _label_lines(label: LabelLines) -> list[str]:
    lines = [f'unlabelled = "drop" # {label.missing} rows have no label'] if label.missing else []
    if label.numbers:
        return [*lines, *label.numbers]
    if label.above is not None:
        return [*lines, f"label_above = {label.above!r} # {len(label.found)} values made two classes"]
    if len(label.found) < 2:
        return lines
    last = f"; AUC, precision and F1 are those of {quoted(label.found[-1])}" if len(label.found) == 2 else ""
    as_number = f"# As a number instead: remove labels, and prior below, and set label_range = {label.range_instead}"
    return [
        *lines,
        f"labels = {_list(label.found)} # class names, in order{last}",
        *([as_number] if label.range_instead else []),
    ]


def _column_lines(guesses: Sequence[Guess], label: LabelLines) -> list[str]:
    dropped = [guess for guess in guesses if guess.role is ColumnRole.DROP]
    stray = sorted({text for guess in guesses for text in guess.stray})
    time = [f"time = {quoted(g.name)} # {g.reason}" for g in guesses if g.role is ColumnRole.TIME]
    lines = ["drop = [", *(f"  {quoted(g.name)}, # {g.reason}" for g in dropped), "]"] if dropped else []
    if stray:
        lines += [f"missing_text = {_list([*MISSING_TEXT, *stray])} # found among numbers: {_list(stray)}"]
    lines += [*time, "test_fraction = 0.3"]
    texts = [guess for guess in guesses if guess.role is ColumnRole.TEXT]
    sentinels = {guess.name: guess.sentinels for guess in guesses if guess.sentinels}
    if label.sentinels:
        sentinels[label.name] = label.sentinels
    return lines + (_text_lines(texts[0]) if texts else _confirm_lines(guesses)) + _sentinel_lines(sentinels)


def _text_lines(guess: Guess) -> list[str]:
    return [
        f"text = {quoted(guess.name)} # {guess.reason}{_missing(guess)}; the only input",
        '# vocabulary = "words.txt" # a public list, one word per line; without it 1,000 English words.',
        "# Words of your own texts would be in the published model: take a list that an outsider could have.",
        "text_length = 64 # words that are read of a text",
    ]


def _sentinel_lines(sentinels: dict[str, tuple[float, ...]]) -> list[str]:
    if not sentinels:
        return []
    lines = (f"{quoted(name)} = [{', '.join(f'{value:.15g}' for value in found)}]" for name, found in sentinels.items())
    return [
        "",
        "[data.missing_values] # numbers that seem to mean `not measured`: they repeat, far from the others",
        *lines,
    ]


def _confirm_lines(guesses: Sequence[Guess]) -> list[str]:
    numbers = [g for g in guesses if g.role is ColumnRole.NUMERIC]
    return [
        "",
        "# PLEASE CONFIRM. Ranges, breaks and categories below were read off your data. The privacy statement holds",
        "# only for public ones: replace them by what an outsider would expect (a form, a norm, a textbook),",
        "# then set this key to true. A simulation runs with a warning; a real deployment refuses to start until then.",
        f"# A category is listed where at least {LEAST_ROWS} rows have it, on at least {LEAST_DEVICES} devices.",
        "ranges_confirmed = false",
        *_table("data.ranges", numbers, _range_line),
        *_table("data.times", [g for g in numbers if g.time], _time_line),
        *_table("data.breaks", [g for g in numbers if g.breaks], _breaks_line),
        *_table("data.categories", [g for g in guesses if g.role is ColumnRole.CATEGORICAL], _categories_line),
    ]


def _table(name: str, guesses: Sequence[Guess], line: Callable[[Guess], str]) -> list[str]:
    return ["", f"[{name}]", *(line(guess) for guess in guesses)] if guesses else []


def _range_line(guess: Guess) -> str:
    return f"{quoted(guess.name)} = [{guess.low:.15g}, {guess.high:.15g}] # {guess.reason}{_missing(guess)}"


def _time_line(guess: Guess) -> str:
    return f"{quoted(guess.name)} = {quoted(guess.time)}"


def _breaks_line(guess: Guess) -> str:
    values = ", ".join(f"{value:.15g}" for value in guess.breaks)
    return f"{quoted(guess.name)} = [{values}] # most values lie at one end of the range: even steps between these"


def _categories_line(guess: Guess) -> str:
    return f"{quoted(guess.name)} = {_list(guess.categories)} # {guess.reason}{_missing(guess)}"


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


def _task_name(stem: str) -> str:
    """A file name as a task name: 1 to 64 of a-z, 0-9, _ and -."""
    return re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-_")[:64] or "own-data"


def quoted(value: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for DEL.

    Args:
        value: any text.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(quoted(value) for value in values)}]"


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
