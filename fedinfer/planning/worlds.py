"""Synthetic rows of a schema: what a table with these public columns may look like. No private row is looked at.

A world is drawn: each numeric column fills a part of its public range, each categorical one has its own mix, a few
columns carry most of the answer. Settings that do well in several worlds do well on tables of this shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.schema import Categorical, Numeric, Schema, Text

Floats = npt.NDArray[np.float32]
MOST_FEATURES = 400
"""Inputs of a world; wider tables are judged by a table of this width with as much more noise."""


@dataclass(frozen=True, slots=True)
class World:
    """Prepared rows with the answer to each.

    Args:
        x: (n, features + 1), as the model's own preparation scales them, the last column 1.
        y: (n,), 0 or 1.
    """

    x: Floats
    y: Floats


def inputs_of(schema: Schema) -> int:
    """Inputs of a linear model: a number and a flag per numeric column, one per category and a flag.

    Args:
        schema: a schema with columns.
    """
    return sum(len(c.categories) + 1 if isinstance(c, Categorical) else 2 for c in schema.columns)


def draw_world(schema: Schema, rows: int, share: float, strength: float, rng: np.random.Generator) -> World:
    """Rows of one synthetic table.

    Args:
        schema: columns with ranges and categories.
        rows: how many, >= 2.
        share: part of the rows with answer 1, in (0, 1).
        strength: standard deviation of the log odds, >= 0; 1 and 1.5 give the best answer an AUC of about 0.75 and
            0.83, as on many real tables.
        rng: the draw.
    """
    parts = [_column(column, rows, rng) for column in schema.columns if not isinstance(column, Text)]
    x = np.concatenate(parts, axis=1)[:, :MOST_FEATURES]
    spread = x.std(axis=0)
    # Heavy tails: a few inputs matter much, most a little.
    weights = rng.standard_t(3, x.shape[1]) * (spread > 0) / np.maximum(spread, 1e-9)
    score = (x - x.mean(axis=0)) @ weights
    score *= strength / max(float(score.std()), 1e-9)
    odds = score + rng.logistic(size=rows)
    y = (odds > np.quantile(odds, 1 - share)).astype(np.float32)
    return World(np.concatenate([x, np.ones((rows, 1))], axis=1).astype(np.float32), y)


def _column(column: Numeric | Categorical, rows: int, rng: np.random.Generator) -> Floats:
    """Prepared inputs of one column, shape (rows, inputs); a flag for missing values comes with each column."""
    missing = rng.random(rows) < 0.02
    if isinstance(column, Categorical):
        mix = rng.dirichlet(np.ones(len(column.categories)))
        chosen = rng.choice(len(mix), rows, p=mix)
        coded = np.eye(len(mix))[chosen] * ~missing[:, None]
        return np.concatenate([coded, missing[:, None]], axis=1)
    centre, width = rng.uniform(-0.7, 0.5), rng.uniform(0.1, 0.4)
    values = np.clip(centre + width * rng.standard_normal(rows), -1, 1) * ~missing
    return np.stack([values, missing], axis=1)
