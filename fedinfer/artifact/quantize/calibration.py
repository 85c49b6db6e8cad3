"""Rows for calibrating and probing, made from public facts only. Nothing here ever comes from a device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.tensors import TensorSpec

_WHOLE = 10  # grey levels and counts are whole


def synthetic_rows(schema: Schema, rows: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Rows drawn evenly from public ranges (by their breaks) and lists; every tenth cell of a table misses if it may.

    Args:
        schema: public description.
        rows: how many, >= 1.
        rng: generator; the same one gives the same rows.

    Returns:
        float32 (rows, width); without columns even noise in [0, pixel_max], whole numbers when that is 10 or more; for
        a text token numbers of a random number of words, known and unknown, and zeros behind them; for tensors even
        noise in their ranges, nothing missing.
    """
    if schema.text is not None:
        return _synthetic_texts(schema.text, rows, rng)
    if schema.inputs:
        return synthetic_tensors(schema.inputs, rows, rng)
    if not schema.columns:
        pixels = rng.uniform(0.0, schema.pixel_max, (rows, schema.width))
        return (np.rint(pixels) if schema.pixel_max >= _WHOLE else pixels).astype(np.float32)
    table = np.empty((rows, schema.width), np.float32)
    for place, column in enumerate(schema.columns):
        if isinstance(column, Numeric):
            table[:, place] = column.at(rng.random(rows))
        elif isinstance(column, Categorical):
            table[:, place] = rng.integers(0, len(column.categories), rows)
    missing = rng.random(table.shape) < 0.1
    if not schema.complete:
        table[missing] = np.nan
    return table


def synthetic_tensors(tensors: Sequence[TensorSpec], rows: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Rows of tensors side by side, drawn evenly from their ranges.

    Args:
        tensors: of a row.
        rows: how many, >= 1.
        rng: generator.

    Returns:
        float32 (rows, values); whole numbers where the tensor has them.
    """
    parts = [
        rng.integers(math.ceil(t.low), math.floor(t.high), (rows, t.size), endpoint=True).astype(np.float32)
        if t.whole
        else rng.uniform(t.low, t.high, (rows, t.size)).astype(np.float32)
        for t in tensors
    ]
    return np.concatenate(parts, axis=1)


def _synthetic_texts(column: Text, rows: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Token numbers (rows, length): words known and unknown, and nothing behind them."""
    table = rng.integers(1, column.last, (rows, column.length), endpoint=True).astype(np.float32)
    table[np.arange(column.length) >= rng.integers(0, column.length, (rows, 1), endpoint=True)] = 0
    return table
