"""The grid of a sweep: axes, and every combination of their values and seeds as a cell. Pure."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedinfer.config import Scenario, override
from fedinfer.errors import ConfigError
from fedinfer.types import Trust, Unit

EPSILON, UNIT, TRUST, SEED = "privacy.epsilon", "privacy.unit", "privacy.trust", "scenario.seed"
SHORT = {EPSILON: "epsilon", UNIT: "unit", TRUST: "trust", SEED: "seed"}
"""Names of the columns whose keys have an option of their own."""
_OPENING, _CLOSING, _QUOTES = "[{", "]}", "\"'"


@dataclass(frozen=True, slots=True)
class Axis:
    """A key of the scenario and the values that it takes.

    Args:
        key: dotted, for instance "training.rounds".
        values: at least one, all different; an infinite `privacy.epsilon` means no privacy.
    """

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination.

    Args:
        settings: key and value of every axis, in the order of the axes.
        seed: of everything random.
    """

    settings: tuple[tuple[str, Any], ...]
    seed: int


def axis_of(text: str) -> Axis:
    """Read `section.key=a,b,c`: each value is TOML, a bare word is text; commas in brackets and quotes do not part.

    Args:
        text: as given to `--set`.

    Raises:
        ConfigError: no `=`, or no value.
    """
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ConfigError(
            f"--set {text!r}: expected section.key=a,b,c", hint="for instance --set training.rounds=5,10,20"
        )
    return Axis(key.strip(), tuple(_value(part) for part in _parts(values)))


def named_axes(axes: Mapping[str, Sequence[Any]]) -> tuple[Axis, ...]:
    """Axes of a program: keys of the scenario, or the short names epsilon, unit and trust.

    Args:
        axes: values by key.

    Raises:
        ConfigError: the values of a key are one text instead of a list.
    """
    keys = {short: key for key, short in SHORT.items()}
    text = next((key for key, values in axes.items() if isinstance(values, str)), None)
    if text is not None:
        raise ConfigError(f"{text}={axes[text]!r}: an axis needs a list of values", hint=f"{text}=[{axes[text]!r}]")
    named = ((keys.get(key, key), values) for key, values in axes.items())
    return tuple(Axis(key, tuple(_budget(key, value) for value in values)) for key, values in named)


def _budget(key: str, value: Any) -> Any:
    return float(value) if key == EPSILON and isinstance(value, int) else value


def check_axes(axes: Sequence[Axis]) -> None:
    """Refuse grids that mean something else than they say.

    Args:
        axes: of a sweep.

    Raises:
        ConfigError: a key or a value occurs twice, an axis is empty, or the seed is an axis.
    """
    keys = [axis.key for axis in axes]
    for axis in axes:
        if axis.key == SEED:
            raise ConfigError(f"{SEED} cannot be an axis", hint="--seeds 5 runs every cell with five seeds")
        if keys.count(axis.key) > 1:
            raise ConfigError(f"{axis.key} is given twice", hint="put all of its values into one list: a,b,c")
        if not axis.values:
            raise ConfigError(f"{axis.key} has no value", hint=f"{axis.key}=a,b,c")
        twice = next((value for value in axis.values if axis.values.count(value) > 1), None)
        if twice is not None:
            raise ConfigError(f"{axis.key}: the value {twice} is given twice", hint="name every value once")


def cells(axes: Sequence[Axis], seeds: Sequence[int]) -> tuple[Cell, ...]:
    """Every combination, the seed fastest.

    Args:
        axes: all different.
        seeds: at least one.
    """
    combinations = itertools.product(*(axis.values for axis in axes))
    return tuple(
        Cell(tuple((axis.key, value) for axis, value in zip(axes, values, strict=True)), seed)
        for values in combinations
        for seed in seeds
    )


def scenario_of(base: Scenario, cell: Cell) -> Scenario:
    """The scenario of a cell.

    Without privacy neither unit nor trust decides anything, so all cells of one seed whose epsilon is infinite, and
    that differ in nothing else, have one scenario: it runs once.

    Args:
        base: what the axes vary.
        cell: of the grid.

    Raises:
        ConfigError: unknown key, or a value that its rule refuses.
    """
    values = dict(cell.settings) | {SEED: cell.seed}
    if _infinite(values.get(EPSILON)):
        del values[EPSILON]
        values |= {UNIT: str(Unit.NONE), TRUST: str(Trust.DISTRIBUTED)}
    return override(base, values)


def columns(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Settings as columns of a table: short names where there are some, lists and tables as text.

    Args:
        settings: of a cell.
    """
    return {SHORT.get(key, key): _plain(value) for key, value in settings}


def settings_of(base: Scenario) -> Mapping[str, Any]:
    """Epsilon, unit and trust of a scenario, for tables of sweeps that do not vary them.

    Args:
        base: of the sweep.
    """
    section = base.privacy
    private = section.unit is not Unit.NONE
    return {EPSILON: section.epsilon if private else math.inf, UNIT: str(section.unit), TRUST: str(section.trust)}


def _infinite(value: object) -> bool:
    return isinstance(value, int | float) and math.isinf(value) and value > 0


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        return text.strip()


def _parts(text: str) -> Iterator[str]:
    depth, quote, part = 0, "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in _QUOTES:
            quote = sign
        elif sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
        elif sign == "," and not depth:
            yield part
            part = ""
            continue
        part += sign
    yield part
