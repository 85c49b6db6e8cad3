"""Statistics of a tensor in a row as channels: what changes when a sensor does, whatever the model says about it.

A camera that is turned to the light, a microphone whose gain was raised, a feed that sends zeros: the answers may stay
as they are for long, or fill the same bins by chance. The mean, the spread and the share of values at the ends of the
public range see it in every row. Each row adds one count to each channel that is named.

Rules:
* A value outside the range counts as its nearest end; one that is not there (NaN) is left out, and a row without any
  value is in no bin.
* Spread and share are placed by their square root: most of what happens to them happens near 0, and the root of a share
  has the same variance everywhere (Anscombe 1948).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from fedinfer.drift.channels import SPREAD, Bins, Channel, Counts, Floats, Outputs, Source
from fedinfer.drift.counting import on_even_bins, rows_of
from fedinfer.errors import ConfigError
from fedinfer.schema import Schema
from fedinfer.tensors import STATISTICS, places

STATISTIC_BINS = 8
VALUES_AT_ONCE = 2**20
"""Of all rows together: a window of images is several times itself while it is measured."""
Measure = Callable[[Floats], Floats]
"""Values (n, k) as parts of the range, NaN where one is missing and never only NaN, to places in [0, 1], (n,)."""


def mean(schema: Schema, argument: str) -> Channel:
    """The mean of a row's values, on even bins of the public range.

    Args:
        schema: of images, or with tensors.
        argument: name of the tensor; none for images.

    Raises:
        ConfigError: there is no such tensor, or an answer feeds it.
    """
    edges = np.linspace(0.0, 1.0, STATISTIC_BINS + 1)
    return _channel(schema, argument, "mean", _means, lambda low, high: low + edges * (high - low))


def spread(schema: Schema, argument: str) -> Channel:
    """The standard deviation of a row's values; half of the range is the largest that there is.

    Args:
        schema: of images, or with tensors of several values.
        argument: name of the tensor; none for images.

    Raises:
        ConfigError: there is no such tensor, an answer feeds it, or it is one value.
    """
    edges = np.linspace(0.0, 1.0, STATISTIC_BINS + 1) ** 2
    return _channel(schema, argument, "spread", _spreads, lambda low, high: edges * (high - low) / 2)


def ends(schema: Schema, argument: str) -> Channel:
    """The share of a row's values at the ends of the public range or beyond: black, white, clipped, or no signal.

    Args:
        schema: of images, or with tensors of several values.
        argument: name of the tensor; none for images.

    Raises:
        ConfigError: there is no such tensor, an answer feeds it, or it is one value.
    """
    edges = np.linspace(0.0, 1.0, STATISTIC_BINS + 1) ** 2
    return _channel(schema, argument, "ends", _shares_at_ends, lambda low, high: edges)


CHOICES: dict[str, Callable[[Schema, str], Channel]] = dict(zip(STATISTICS, (mean, spread, ends), strict=True))
"""Channels of this module, by the name before the colon."""


def statistic_names(schema: Schema) -> tuple[str, ...]:
    """Every name of a channel of this module that fits a schema.

    Args:
        schema: of the task.
    """
    if schema.shape and not schema.columns:
        return STATISTICS
    several = {name for name, _ in _tensors(schema) if _size(schema, name) > 1}
    return tuple(
        f"{statistic}:{name}"
        for name, _ in _tensors(schema)
        for statistic in (STATISTICS if name in several else STATISTICS[:1])
    )


def _tensors(schema: Schema) -> list[tuple[str, slice]]:
    """Name and place of the tensors that rows bring; state is the model's own affair."""
    fed = {answer.feeds for answer in schema.answers}
    return [(name, at) for name, at in places(schema.inputs).items() if name not in fed]


def _size(schema: Schema, name: str) -> int:
    return next(tensor.size for tensor in schema.inputs if tensor.name == name)


def _channel(
    schema: Schema, argument: str, statistic: str, measure: Measure, edges_of: Callable[[float, float], Floats]
) -> Channel:
    name = f"{statistic}:{argument}" if argument else statistic
    known = statistic_names(schema)
    if name not in known:
        raise ConfigError(
            f"[drift] channels: {name!r} is no statistic of these rows",
            hint=f"known here: {', '.join(known)}" if known else "for a table: input:COLUMN",
        )
    at, low, high = _range(schema, argument)
    edges = edges_of(low, high)
    names = tuple(f"{first:.4g} to {last:.4g}" for first, last in pairwise(edges))
    count = partial(_count, at=at, low=low, high=high, measure=measure)
    return Channel(statistic, STATISTIC_BINS, Bins.ORDERED, Source.INPUT, count, SPREAD, names=names)


def _range(schema: Schema, name: str) -> tuple[slice, float, float]:
    if not name:
        return slice(0, schema.width), 0.0, schema.pixel_max
    tensor = next(tensor for tensor in schema.inputs if tensor.name == name)
    return places(schema.inputs)[name], tensor.low, tensor.high


def _count(outputs: Outputs, at: slice, low: float, high: float, measure: Measure) -> Counts:
    rows, counts = rows_of(outputs)[:, at], np.zeros(STATISTIC_BINS)
    step = max(1, VALUES_AT_ONCE // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        values = (rows[start : start + step].astype(np.float64) - low) / (high - low)
        values = values[~np.isnan(values).all(axis=1)]
        counts += on_even_bins(measure(np.clip(values, 0.0, 1.0)), STATISTIC_BINS)
    return counts


def _means(values: Floats) -> Floats:
    return np.asarray(np.nanmean(values, axis=1))


def _spreads(values: Floats) -> Floats:
    return np.asarray(np.sqrt(2.0 * np.nanstd(values, axis=1)))


def _shares_at_ends(values: Floats) -> Floats:
    at_ends = ((values == 0.0) | (values == 1.0)).sum(axis=1)
    return np.asarray(np.sqrt(at_ends / np.maximum((~np.isnan(values)).sum(axis=1), 1)))
