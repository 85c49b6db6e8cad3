"""The functions of an additive model as numbers: what each term adds at its knots or levels, and how sure that is.

The noise band of a value is the standard deviation that the noise of training alone gives it. A value at a knot is a
sum of coordinates times public factors, and the noise of different coordinates is independent, so variances add up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from fedinfer.errors import ConfigError
from fedinfer.reading import ReadingRules
from fedinfer.schema import Categorical, Column, Numeric, Schema, Text
from fedinfer.training.models.additive import AdditivePrepare
from fedinfer.training.models.basis import bending
from fedinfer.training.objective import scale_of
from fedinfer.training.server_optimizers import OptimizerSettings, apply, init_optimizer
from fedinfer.types import FloatVector, Json

Floats = npt.NDArray[np.float64]
REPLAYED = 2048
"""Coordinates whose spread is the deviation of one weight: it is known to 2 % (1 / sqrt(2 n))."""
MISSING = "missing"


def weight_deviation(settings: OptimizerSettings, deviations: Sequence[float], rng: np.random.Generator) -> float:
    """Standard deviation that noise alone gives one weight: the server's optimizer replayed on noise.

    An approximation from above: the pull of the loss, which takes part of the noise back in later rounds, is left out,
    and an adaptive optimizer sees no gradient beside the noise, so it takes larger steps than it took.

    Args:
        settings: of the server's optimizer.
        deviations: of the noise in one coordinate of each round's mean update, >= 0.
        rng: the noise that is replayed; not that of the run.
    """
    state, weights = init_optimizer(settings, REPLAYED), np.zeros(REPLAYED, np.float32)
    for deviation in deviations:
        noise = (deviation * rng.standard_normal(REPLAYED)).astype(np.float32)
        state, weights = apply(state, weights, noise, settings)
    return float(weights.std())


def terms_of(prepare: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Columns of each summand of an additive model, in order; empty for other models.

    Args:
        prepare: of the model.
    """
    return tuple(term.columns for term in prepare.terms) if isinstance(prepare, AdditivePrepare) else ()


def shapes(prepare: nn.Module, weights: FloatVector, schema: Schema, deviation: float | None) -> tuple[Json, ...]:
    """Every term of an additive model as a JSON object; nothing for other models.

    Args:
        prepare: of the model.
        weights: of the model, (size,) float32; those of its core, (outputs, features), come first.
        schema: of the task.
        deviation: of one weight, see `weight_deviation`; None: not known.

    Returns:
        Per term `columns`, `kind` ("number", "levels" or "pair"), `at` (knots or levels; of a pair both lists),
        `values` (places, curves), `missing` (curves; numbers only), `band` (places, standard deviation; None where it
        is not known). Of two classes there is one curve: the log-odds of the second; of more one per class: its logit
        minus the mean of the others; of a number one, in its unit.
    """
    if not isinstance(prepare, AdditivePrepare):
        return ()
    weight = weights[: schema.outputs * prepare.features].reshape(schema.outputs, prepare.features)
    factor, spread = _curves(schema)
    columns = {column.name: column for column in schema.columns}
    found, at = [], 0
    for term in prepare.terms:
        own = weight[:, at : at + term.size].astype(np.float64) * prepare.factor
        at += term.size
        basis = _basis(prepare, [columns[name] for name in term.columns])
        values = (factor @ own @ basis.T).T
        noise = None if deviation is None else deviation * prepare.factor * spread
        band = None if noise is None else (noise * np.sqrt((basis**2).sum(axis=1))).tolist()
        found.append(_described(prepare, [columns[name] for name in term.columns], values, band, schema.reading))
    return tuple(found)


def _curves(schema: Schema) -> tuple[Floats, float]:
    """(curves, outputs) from outputs to curves, and the norm of one of its rows."""
    if schema.label_range is not None:
        half = float(scale_of(schema)[0])
        return np.array([[half]]), half
    if schema.classes == 2:
        return np.array([[-1.0, 1.0]]), float(np.sqrt(2.0))
    others = 1.0 / (schema.classes - 1)
    return np.eye(schema.classes) * (1.0 + others) - others, float(np.sqrt(1.0 + others))


def _basis(prepare: AdditivePrepare, columns: Sequence[Column]) -> Floats:
    """(places, features) of one term: what each feature is at each knot or level."""
    if len(columns) == 1 and isinstance(columns[0], Numeric):
        bent = np.column_stack([bending(prepare.knots), np.zeros(prepare.knots)])
        missing = np.zeros((1, prepare.knots))
        missing[0, -1] = 1.0
        return np.concatenate([bent, missing])
    size = 1
    for column in columns:
        size *= len(_places(column, prepare.pair_knots, 0.0))
    return np.eye(size)


def _described(
    prepare: AdditivePrepare, columns: Sequence[Column], values: Floats, band: list[float] | None, rules: ReadingRules
) -> Json:
    names = [column.name for column in columns]
    if len(columns) == 2:
        both = [_places(column, prepare.pair_knots, rules.offset(column.name)) for column in columns]
        return {"columns": names, "kind": "pair", "at": both, "values": values.tolist(), "band": band}
    at = _places(columns[0], prepare.knots, rules.offset(names[0]))
    if isinstance(columns[0], Categorical):
        return {"columns": names, "kind": "levels", "at": at, "values": values.tolist(), "band": band}
    return {
        "columns": names,
        "kind": "number",
        "at": at,
        "values": values[:-1].tolist(),
        "missing": values[-1].tolist(),
        "band": None if band is None else band[:-1],
    }


def _places(column: Column, knots: int, offset: float) -> list[float] | list[str]:
    """Levels, or knots in the unit of the table: rows hold numbers less the offset."""
    match column:
        case Categorical():
            return [*column.categories, MISSING]
        case Numeric():
            return [offset + float(place) for place in column.at(np.linspace(0.0, 1.0, knots))]
        case Text():
            raise ConfigError(f"column {column.name!r} is a text", hint="kind = 'additive' is for tables")
