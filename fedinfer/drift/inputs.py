"""Channels beside the answers: named inputs, faults of columns, texts, statistics, projections, errors, flags.

`CHOICES` is the table of them: a scenario names one as `name` or `name:argument` in `[drift] channels`. Everything a
channel needs is public: ranges and categories of the schema, or a projection drawn from a fixed seed.

Rules:
* Missing, unseen and out-of-range cells are shares of rows, not histograms: a row with k of them adds 1/k to each, so
  no row adds more than 1. In a sound fleet they are near 0, so little of the norm buys them (`FAULT_SHARE`).
* A cell that is missing is in no bin of its own column's histogram; the channel `faults` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedinfer.drift.channels import (
    CLASSES,
    MAX_BINS,
    SPREAD,
    Bins,
    Channel,
    Counts,
    Floats,
    Outputs,
    Source,
    confidence_edges,
    report_channels,
)
from fedinfer.drift.counting import on_even_bins, rows_of
from fedinfer.drift.flags import LOCAL_WINDOWS
from fedinfer.drift.row_statistics import CHOICES as STATISTIC_CHOICES
from fedinfer.drift.row_statistics import statistic_names
from fedinfer.errors import ConfigError, DataError
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.system import simulation_rng
from fedinfer.tensors import bounds
from fedinfer.types import FloatVector

INPUT_BINS = 8
"""Bins of a numeric input on its public range, and of a text's length."""
FAULT_SHARE = 0.04
"""Squared norm of the faults: a device reports a fifth of its rows faulty before it is cut, for 3 % more noise."""
TEXT_SHARE = 0.16
"""The same for texts, of which some words are always unknown."""
ERROR_SHARE = 0.32
ERRORS = "errors"
MOST_WATCHED_CLASSES = 64
"""With 1,000 devices and a budget of 6 for ten windows, one of 32 classes that vanishes is found in 65 of 100 runs, one
of 64 in 4."""
OF_LABELS = (ERRORS, "calibration")
"""Channels that need labels."""
CALIBRATION_BINS = 5
"""Bins of confidence of the channel `calibration`, each once for right and once for wrong answers."""
FLAG_SHARE = 0.25
"""Squared norm of a flag: a raised one counts one half. Larger shares cost the histograms more than they give flags."""
PROJECTION_REACH = 2.0
"""A projection is binned on [-2, 2]; values outside count in the end bins."""


def chosen_channels(schema: Schema, names: Sequence[str]) -> tuple[Channel, ...]:
    """The channels of a fleet's report; device, planning and monitor take them from here.

    Args:
        schema: of the task.
        names: entries of `[drift] channels`, in the order of the report; none: the channels of the answers.

    Raises:
        ConfigError: an unknown or repeated name, or one that does not fit the schema; the hint lists those that do.
    """
    answers = {channel.name: channel for channel in _named_answers(schema)}
    if not names:
        return tuple(answers.values())
    if len(set(names)) != len(names):
        raise ConfigError(f"[drift] channels = {list(names)}: a name comes twice")
    return tuple(answers[name] if name in answers else _choice(schema, name) for name in names)


def report_names(schema: Schema, more: Sequence[str]) -> tuple[str, ...]:
    """The channels of a report of the answers and something more, for a model whose owner named none.

    More than `MOST_WATCHED_CLASSES` classes are left out: their histogram has more bins than a fleet has devices, each
    too thin to tell anything, and a third of the norm.

    Args:
        schema: of the task.
        more: names of channels of inputs; none: the answers alone.

    Returns:
        Entries of `[drift] channels`; none for the answers.
    """
    if not more:
        return ()
    told = [channel.name for channel in report_channels(schema.classes) if channel.bins <= MOST_WATCHED_CLASSES]
    return (*told, *more)


def possible_names(schema: Schema) -> tuple[str, ...]:
    """Every name that `chosen_channels` accepts for a schema, projections (`projection:1`, `projection:2`...) by one.

    Args:
        schema: of the task.
    """
    columns = [f"input:{column.name}" for column in schema.columns if isinstance(column, Numeric | Categorical)]
    names = [channel.name for channel in _named_answers(schema)] + ["flags", *OF_LABELS]
    names = names[: None if schema.label_range is None else -1]  # calibration is about classes
    if schema.text is not None:
        return (*names, "faults", "length")
    return (*names, *(("faults",) if schema.columns else ()), *columns, *statistic_names(schema), "projection:1")


def local_channels(schema: Schema) -> tuple[Channel, ...]:
    """What a device compares with its own past before it raises its flag: answers, faults, and every input.

    Nothing of it leaves the device but the flag, so its number costs no epsilon.

    Args:
        schema: of the task.
    """
    names = [name for name in possible_names(schema) if name not in ("flags", *OF_LABELS)]
    fitting = [name for name in names if not (name.startswith("projection") and schema.columns)]
    return chosen_channels(schema, fitting)


def _named_answers(schema: Schema) -> tuple[Channel, ...]:
    return tuple(
        replace(channel, names=schema.labels) if channel.name == CLASSES else channel
        for channel in report_channels(schema.classes)
    )


def _choice(schema: Schema, name: str) -> Channel:
    kind, _, argument = name.partition(":")
    if kind not in CHOICES:
        raise ConfigError(
            f"[drift] channels: there is no channel {name!r}", hint=f"known here: {', '.join(possible_names(schema))}"
        )
    return replace(CHOICES[kind](schema, argument), name=name)


def faults(schema: Schema, argument: str) -> Channel:
    """Missing or unseen cells per column, and values outside the public range per numeric column.

    Args:
        schema: with columns; of a text: its share of unknown words, and empty texts.
        argument: none.

    Raises:
        ConfigError: the rows are images, or have too many columns.
    """
    _without_argument("faults", argument)
    if schema.text is not None:
        count = partial(_count_words)
        return Channel("faults", 2, Bins.SHARES, Source.INPUT, count, TEXT_SHARE, names=("unknown words", "no words"))
    if not schema.columns:
        raise ConfigError("[drift] channels: 'faults' needs columns, the rows are images", hint="use projection:1")
    numeric = np.array([isinstance(column, Numeric) for column in schema.columns])
    bins = len(numeric) + int(numeric.sum())
    if bins > MAX_BINS:
        raise ConfigError(f"[drift] channels: 'faults' would have {bins} bins, allowed are {MAX_BINS}")
    names = [f"{column.name} missing" for column in schema.columns]
    names += [f"{column.name} out of range" for column in schema.columns if isinstance(column, Numeric)]
    low, high = (
        np.array([getattr(column, end) for column in schema.columns if isinstance(column, Numeric)], np.float32)
        for end in ("low", "high")
    )
    count = partial(_count_faults, numeric=np.flatnonzero(numeric), low=low, high=high)
    return Channel("faults", bins, Bins.SHARES, Source.INPUT, count, FAULT_SHARE, names=tuple(names))


def named_input(schema: Schema, argument: str) -> Channel:
    """One column: bins of a number's public range, even or between its breaks, or its public categories.

    Args:
        schema: with columns.
        argument: name of the column.

    Raises:
        ConfigError: no such numeric or categorical column, or more than 1024 categories, or fewer than 2.
    """
    for place, column in enumerate(schema.columns):
        if column.name != argument:
            continue
        if isinstance(column, Numeric):
            edges = column.at(np.linspace(0.0, 1.0, INPUT_BINS + 1))
            names = tuple(f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges))
            count = partial(_count_numbers, place=place, column=column, bins=INPUT_BINS)
            return Channel("input", INPUT_BINS, Bins.ORDERED, Source.INPUT, count, SPREAD, names=names)
        if isinstance(column, Categorical):
            bins = len(column.categories)
            count = partial(_count_categories, place=place, bins=bins)
            return Channel("input", bins, Bins.CATEGORIES, Source.INPUT, count, SPREAD, names=column.categories)
    raise ConfigError(
        f"[drift] channels: 'input:{argument}' names no numeric or categorical column",
        hint=f"columns: {', '.join(column.name for column in schema.columns)}"
        if schema.columns
        else "use projection:1",
    )


def length(schema: Schema, argument: str) -> Channel:
    """Words of a text, on even bins up to the number that is read.

    Args:
        schema: of a text.
        argument: none.

    Raises:
        ConfigError: the rows are no texts.
    """
    _without_argument("length", argument)
    if schema.text is None:
        raise ConfigError("[drift] channels: 'length' is for texts", hint="for a table: input:COLUMN")
    bins = min(INPUT_BINS, schema.text.length + 1)
    count = partial(_count_length, most=schema.text.length, bins=bins)
    return Channel("length", bins, Bins.ORDERED, Source.INPUT, count, SPREAD)


def projection(schema: Schema, argument: str) -> Channel:
    """Rows seen from one fixed direction: a random sign per place, the same for everybody, drawn from the argument.

    Random directions keep distances (Johnson and Lindenstrauss 1984), so a shift of the whole row shows in a few of
    them.

    Args:
        schema: of images or of a table whose columns have ranges.
        argument: number of the direction, from 1.

    Raises:
        ConfigError: the rows are texts, or the argument is no number from 1.
    """
    if schema.text is not None:
        raise ConfigError("[drift] channels: a projection needs numbers, the rows are texts", hint="use length, faults")
    if not argument.isascii() or not argument.isdigit() or not 1 <= int(argument) <= MAX_BINS:
        raise ConfigError(f"[drift] channels: 'projection:{argument}' is no number from 1 to {MAX_BINS}")
    count = partial(_count_projection, schema=schema, number=int(argument), bins=INPUT_BINS)
    return Channel("projection", INPUT_BINS, Bins.ORDERED, Source.INPUT, count, SPREAD)


def errors(schema: Schema, argument: str) -> Channel:
    """Rows whose label has arrived: answered right or wrong; of a number: within a tenth of its range or not.

    Args:
        schema: of the task.
        argument: none.
    """
    _without_argument("errors", argument)
    count = partial(_count_errors, number=schema.label_range is not None)
    return Channel("errors", 2, Bins.CATEGORIES, Source.ERROR, count, ERROR_SHARE, names=("right", "wrong"))


def calibration(schema: Schema, argument: str) -> Channel:
    """Rows whose label has arrived: answered right or wrong, per confidence of the answer.

    A model whose confidence no longer means what it did moves it, also when as many answers are right as before.

    Args:
        schema: of classes.
        argument: none.

    Raises:
        ConfigError: the label is a number.
    """
    _without_argument("calibration", argument)
    if schema.label_range is not None:
        raise ConfigError("[drift] channels: 'calibration' is for classes, the label is a number", hint="use errors")
    edges = confidence_edges(schema.classes, CALIBRATION_BINS)
    ends = np.concatenate([[1.0 / schema.classes], edges, [1.0]])
    names = tuple(f"sure {low:.2f} to {high:.2f}, {so}" for so in ("right", "wrong") for low, high in pairwise(ends))
    count = partial(_count_calibration, edges=edges)
    return Channel("calibration", len(names), Bins.CATEGORIES, Source.ERROR, count, ERROR_SHARE, names=names)


def flags(schema: Schema, argument: str) -> Channel:
    """Devices whose own test found the window unusual; see `fedinfer.drift.flags`.

    Args:
        schema: of the task.
        argument: none.
    """
    del schema
    _without_argument("flags", argument)
    return Channel(
        "flags", 1, Bins.SHARES, Source.FLAG, _no_flag, FLAG_SHARE,
        names=("devices that raised their flag",), most=FLAG_SHARE**0.5, warm_up=LOCAL_WINDOWS,
    )  # fmt: skip


CHOICES: dict[str, Callable[[Schema, str], Channel]] = {
    "faults": faults,
    "input": named_input,
    "length": length,
    "projection": projection,
    ERRORS: errors,
    "calibration": calibration,
    "flags": flags,
    **STATISTIC_CHOICES,
}
"""Channels that a scenario can add to the answers, by the name before the colon."""


def _without_argument(name: str, argument: str) -> None:
    if argument:
        raise ConfigError(f"[drift] channels: '{name}' stands alone, not '{name}:{argument}'")


def _count_faults(outputs: Outputs, numeric: npt.NDArray[np.intp], low: FloatVector, high: FloatVector) -> Counts:
    rows = rows_of(outputs)
    values = rows[:, numeric]
    found = np.concatenate([np.isnan(rows), (values < low) | (values > high)], axis=1)
    counts: Counts = found.T @ (1.0 / np.maximum(found.sum(axis=1), 1))
    return counts


def _count_numbers(outputs: Outputs, place: int, column: Numeric, bins: int) -> Counts:
    values = rows_of(outputs)[:, place].astype(np.float64)
    return on_even_bins(column.place(values[~np.isnan(values)]), bins)


def _count_categories(outputs: Outputs, place: int, bins: int) -> Counts:
    values = rows_of(outputs)[:, place]
    known = values[~np.isnan(values)].astype(np.int64)
    if known.size and (known.min() < 0 or known.max() >= bins):
        raise DataError(f"categories {known.min()} to {known.max()} in column {place}, allowed are 0 to {bins - 1}")
    return np.bincount(known, minlength=bins).astype(np.float64)


def _count_words(outputs: Outputs) -> Counts:
    tokens = rows_of(outputs)
    words = (tokens > 0).sum(axis=1)
    return np.array([((tokens == 1).sum(axis=1) / np.maximum(words, 1)).sum(), float((words == 0).sum())])


def _count_length(outputs: Outputs, most: int, bins: int) -> Counts:
    return on_even_bins((rows_of(outputs) > 0).sum(axis=1) / most, bins)


def _count_projection(outputs: Outputs, schema: Schema, number: int, bins: int) -> Counts:
    rows = rows_of(outputs).astype(np.float64)
    low, high = _ranges(schema)
    placed = np.nan_to_num((rows - low) / (high - low) - 0.5, nan=0.0, posinf=0.5, neginf=-0.5).clip(-0.5, 0.5)
    seen = placed @ _direction(schema.width, number)
    return on_even_bins(seen / (2 * PROJECTION_REACH) + 0.5, bins)


def _ranges(schema: Schema) -> tuple[Floats, Floats]:
    if schema.inputs:
        return bounds(schema.inputs)
    if not schema.columns:
        return np.zeros(schema.width), np.full(schema.width, schema.pixel_max)
    low = [column.low if isinstance(column, Numeric) else 0.0 for column in schema.columns]
    high = [
        column.high if isinstance(column, Numeric) else max(len(getattr(column, "categories", ())) - 1.0, 1.0)
        for column in schema.columns
    ]
    return np.array(low), np.array(high)


@cache
def _direction(places: int, number: int) -> Floats:
    # Neighbouring pixels are alike, so 2 / sqrt(places) per sign spreads sound rows over about half of the bins.
    signs: Floats = simulation_rng("drift projection", places, number).choice([-1.0, 1.0], places)
    direction: Floats = signs * (2.0 / places**0.5)
    return direction


def _count_errors(outputs: Outputs, number: bool) -> Counts:
    if outputs.truth is None or len(outputs.truth) != len(outputs.labels):
        return np.zeros(2)  # no label has arrived
    truth = outputs.truth.astype(np.float64)
    if number:
        known = ~np.isnan(truth)
        right = np.abs(outputs.probabilities[known, 0] - truth[known]) <= 0.1
    else:
        known = truth >= 0
        right = outputs.labels[known] == truth[known]
    return np.array([float(right.sum()), float((~right).sum())])


def _count_calibration(outputs: Outputs, edges: Floats) -> Counts:
    bins = len(edges) + 1
    if outputs.truth is None or len(outputs.truth) != len(outputs.labels):
        return np.zeros(2 * bins)  # no label has arrived
    known = outputs.truth >= 0
    top = np.fmax(outputs.probabilities[known].max(axis=1, initial=-np.inf), -np.inf)
    places = np.searchsorted(edges, top, side="right")
    wrong = outputs.labels[known] != outputs.truth[known]
    return np.bincount(places + bins * wrong, minlength=2 * bins).astype(np.float64)


def _no_flag(outputs: Outputs) -> Counts:
    del outputs  # a flag belongs to the window, not to a row: `Sketch.add_flag`
    return np.zeros(1)
