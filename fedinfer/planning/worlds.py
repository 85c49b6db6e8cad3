"""Synthetic rows of a schema: what a table with these public columns may look like. No private row is looked at.

A world is drawn: each numeric column fills a part of its public range, each categorical one has its own mix, a few
columns carry most of the answer, and every other number acts along a curve. Settings that do well in several worlds do
well on tables of this shape. Each world comes as both models would see it: scaled numbers, or hat functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedinfer.schema import Categorical, Column, Numeric, Schema
from fedinfer.training import bending

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
MOST_COLUMNS = 60
"""Columns of a world; a wider table is judged by the first ones, with as much more noise."""
KNOTS = 8
"""As [model] knots."""
MISSING, CURVED, CROWDED = 0.02, 0.5, 0.3
"""Part of the cells that are missing, of the numbers that act along a curve, and of those crowded at one end."""
SPREAD = 0.25
"""Standard deviation of a numeric label in a world, on its range scaled to [-1, 1]."""


@dataclass(frozen=True, slots=True)
class World:
    """Prepared rows with the answer to each.

    Args:
        linear: (n, features + 1), scaled as a logistic or linear model does it, the last column 1.
        additive: the same for an additive model without pairs.
        y: (n,), class 0 or 1, or a numeric label scaled to [-1, 1].
    """

    linear: Floats
    additive: Floats
    y: Floats


def inputs_of(schema: Schema) -> int:
    """Inputs of a linear model: a number and a flag per numeric column, one per category and a flag.

    Args:
        schema: a schema with columns.
    """
    return sum(len(c.categories) + 1 if isinstance(c, Categorical) else 2 for c in schema.columns)


def hat_inputs_of(schema: Schema) -> int:
    """Inputs of an additive model without pairs.

    Args:
        schema: a schema with columns.
    """
    return sum(len(c.categories) + 1 if isinstance(c, Categorical) else KNOTS for c in schema.columns)


def draw_world(schema: Schema, rows: int, share: float, strength: float, rng: np.random.Generator) -> World:
    """Rows of one synthetic table.

    Args:
        schema: columns with ranges and categories, and whether the label is a number.
        rows: how many, >= 2.
        share: part of the rows with answer 1, in (0, 1); not used for a number.
        strength: standard deviation of the log odds, or of a number over that of its noise, >= 0; 1 and 1.5 give the
            best answer an AUC of about 0.75 and 0.83, as on many real tables.
        rng: the draw.
    """
    drawn = [_column(column, rows, rng) for column in schema.columns[:MOST_COLUMNS]]
    score = sum((column.effect for column in drawn), np.zeros(rows))
    score *= strength / max(float(score.std()), 1e-9)
    y = _classes(score, share, rng) if schema.label_range is None else _numbers(score, strength, rng)
    # Of a number all features carry one factor, see fedinfer.training.models.preprocess.fair_scale.
    factor = 1.0 if schema.label_range is None else len(schema.columns) ** -0.5
    return World(
        _features([column.linear for column in drawn], factor),
        _features([column.additive for column in drawn], factor),
        y.astype(np.float32),
    )


def cut(world: World, rows: slice) -> World:
    """Some rows of a world.

    Args:
        world: with n rows.
        rows: which of them.
    """
    return replace(world, linear=world.linear[rows], additive=world.additive[rows], y=world.y[rows])


def _features(parts: Sequence[Wide], factor: float) -> Floats:
    ones = np.ones((len(parts[0]), 1))
    return np.concatenate([*(factor * part for part in parts), ones], axis=1).astype(np.float32)


def _classes(score: Wide, share: float, rng: np.random.Generator) -> Wide:
    odds = score + rng.logistic(size=len(score))
    return np.asarray(odds > np.quantile(odds, 1 - share), np.float64)


def _numbers(score: Wide, strength: float, rng: np.random.Generator) -> Wide:
    spread = (score + rng.standard_normal(len(score))) / np.hypot(strength, 1.0)
    return np.asarray(np.clip(rng.uniform(-0.5, 0.5) + SPREAD * spread, -1.0, 1.0))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One column: its prepared inputs (rows, inputs) of either kind, and what it adds to the answer (rows,)."""

    linear: Wide
    additive: Wide
    effect: Wide


def _column(column: Column, rows: int, rng: np.random.Generator) -> _Drawn:
    missing = rng.random(rows) < MISSING
    if isinstance(column, Categorical):
        mix = rng.dirichlet(np.ones(len(column.categories)))
        coded = np.eye(len(mix))[rng.choice(len(mix), rows, p=mix)] * ~missing[:, None]
        inputs = np.concatenate([coded, missing[:, None]], axis=1)
        return _Drawn(inputs, inputs, _scaled(coded @ rng.standard_normal(len(mix)), rng))
    place = _place(column, rows, rng) * ~missing
    flag = missing[:, None].astype(np.float64)
    line = ((2.0 * place - 1.0) * ~missing)[:, None]
    hats = np.clip(1.0 - np.abs(place[:, None] * (KNOTS - 1) - np.arange(KNOTS)), 0.0, None) * ~missing[:, None]
    bent = hats @ bending(KNOTS)
    return _Drawn(np.hstack([line, flag]), np.hstack([bent, flag]), _scaled(_shape(place, rng), rng))


def _place(column: Column, rows: int, rng: np.random.Generator) -> Wide:
    """Where the values lie in the range: a bell somewhere in it, or crowded at its lower end."""
    even = isinstance(column, Numeric) and bool(column.breaks)  # breaks take the crowd apart
    if rng.random() < CROWDED and not even:
        return np.clip(rng.exponential(rng.uniform(0.1, 0.3), rows), 0.0, 1.0)
    return np.clip(rng.uniform(0.15, 0.75) + rng.uniform(0.05, 0.2) * rng.standard_normal(rows), 0.0, 1.0)


def _shape(place: Wide, rng: np.random.Generator) -> Wide:
    """What a number does to the answer: a line, or a line and a bend (a bowl, a kink or a step)."""
    z = (place - place.mean()) / max(float(place.std()), 1e-9)
    line: Wide = z * rng.choice([-1.0, 1.0])
    if rng.random() >= CURVED:
        return line
    at = rng.normal()
    bend = (z**2, np.maximum(z - at, 0.0), np.tanh(3.0 * (z - at)))[int(rng.integers(3))]
    found: Wide = rng.uniform() * line + (bend - bend.mean()) / max(float(bend.std()), 1e-9)
    return found


def _scaled(effect: Wide, rng: np.random.Generator) -> Wide:
    """Heavy tails: a few columns matter much, most a little."""
    spread = float(effect.std())
    return (effect - effect.mean()) * (rng.standard_t(3) / spread) if spread > 1e-6 else np.zeros_like(effect)
