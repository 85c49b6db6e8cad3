"""Changing the data distribution of a simulation: the kinds and shapes of [drift.inject].

Amounts are in units of the public range, so that no row has to be read to choose them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedinfer.config import InjectSection
from fedinfer.data.table import Rows, Targets
from fedinfer.errors import ConfigError
from fedinfer.schema import Numeric, Schema
from fedinfer.system import simulation_rng
from fedinfer.tensors import bounds
from fedinfer.types import DeviceId

DEFAULT_AMOUNTS = {
    "none": 0.0, "rotate": 30.0, "shift": 0.25, "scale": 1.5, "noise": 0.2, "label": 1.0, "prior": 0.8,
    "missing": 0.3, "stuck": 0.3,
}  # fmt: skip


def drifting_devices(devices: Sequence[DeviceId], inject: InjectSection, seed: int) -> frozenset[DeviceId]:
    """The devices whose data distribution changes: those named, or `inject.fraction` of all, chosen from the seed.

    The devices for a smaller fraction are among those for a larger one.

    Args:
        devices: all of the federation, in any order.
        inject: with `devices` or `fraction`.
        seed: of the scenario.

    Raises:
        ConfigError: a named device is not one of the federation.
    """
    if inject.devices and inject.kind != "none":
        unknown = sorted(set(inject.devices) - set(devices))
        if unknown:
            raise ConfigError(
                f"[drift.inject] devices: there is no device {unknown[0]!r}",
                hint=f"for instance {', '.join(sorted(devices)[:5])}",
            )
        return frozenset(inject.devices)
    count = 0 if inject.kind == "none" else round(inject.fraction * len(devices))
    order = simulation_rng(seed, "drift", "devices").permutation(len(devices))
    names = sorted(devices)
    return frozenset(names[index] for index in order[:count])


def inject(
    x: Rows, y: Targets, schema: Schema, inject: InjectSection, window: int, rng: np.random.Generator
) -> tuple[Rows, Targets]:
    """Change rows of a drifting device; before `at_window` they come back as they are.

    Args:
        x: raw rows, shape (n, width); missing values stay missing.
        y: labels, shape (n,).
        schema: columns with their public ranges, or the image shape.
        inject: kind, amount, first window.
        window: number of the window the rows belong to.
        rng: for `noise`, `label`, `prior`, `missing` and `stuck`.

    Returns:
        (x, y), new arrays where something changed.

    Raises:
        ConfigError: `rotate` for tables, `missing` for images, or a column that does not fit the kind.
    """
    reached = _reached(inject, window)
    if not reached or inject.kind == "none":
        return x, y
    whole = DEFAULT_AMOUNTS[inject.kind] if inject.amount is None else inject.amount
    # A scale is a factor: no change is 1, not 0.
    amount = 1.0 + (whole - 1.0) * reached if inject.kind == "scale" else whole * reached
    if inject.kind == "label":
        return x, _moved_labels(y, schema, amount, rng)
    if inject.kind == "prior":
        taken = _fewer_above(y, schema, amount, rng)
        return x[taken], y[taken]
    if inject.kind == "rotate":
        return rotated(x, schema, amount), y
    return _conformed(_CHANGES[inject.kind](x, *places(schema, inject), amount, rng), schema), y


def _conformed(x: Rows, schema: Schema) -> Rows:
    """Whole values of tensors stay whole and in their range, as a sensor's do."""
    whole = [np.full(tensor.size, tensor.whole) for tensor in schema.inputs]
    if not whole:
        return x
    return np.where(np.concatenate(whole), np.clip(np.rint(x), *bounds(schema.inputs)), x).astype(np.float32)


Floats = npt.NDArray[np.float64]


def places(schema: Schema, inject: InjectSection) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """(changed places, low, high) of a row, each of shape (width,): all columns that fit the kind or the named one.

    Args:
        schema: columns with their public ranges, or the image shape.
        inject: with `kind` and `column`; empty: all columns that fit the kind.

    Raises:
        ConfigError: the named column does not fit the kind, or none does.
    """
    if schema.inputs:
        return np.ones(schema.width, np.bool_), *bounds(schema.inputs)
    gone = inject.kind == "missing"
    if not schema.columns:
        if gone:
            raise ConfigError("[drift.inject] kind = 'missing': images have no missing cells", hint="use noise")
        return np.ones(schema.width, np.bool_), np.zeros(schema.width), np.full(schema.width, schema.pixel_max)
    fitting = np.array([gone or isinstance(column, Numeric) for column in schema.columns])
    changed = fitting & np.array([inject.column in ("", column.name) for column in schema.columns])
    if not changed.any():
        known = [column.name for column, fits in zip(schema.columns, fitting, strict=True) if fits]
        kind, listed = ("column", "columns") if gone else ("numeric column", "numeric")
        raise ConfigError(
            f"[drift.inject] column = {inject.column!r}: no such {kind}", hint=f"{listed}: {', '.join(known)}"
        )
    low = np.array([c.low if isinstance(c, Numeric) else 0.0 for c in schema.columns])
    high = np.array([c.high if isinstance(c, Numeric) else 1.0 for c in schema.columns])
    return changed, low, high


def rotated(x: Rows, schema: Schema, degrees: float) -> Rows:
    """Rotate images counter-clockwise about their centre, bilinear, zero outside.

    Args:
        x: shape (n, channels * height * width).
        schema: gives the image shape.
        degrees: angle.

    Raises:
        ConfigError: the rows are no images.
    """
    if not schema.shape or schema.columns:
        raise ConfigError("[drift.inject] kind = 'rotate': the rows are no images", hint="use shift, scale or noise")
    channels, height, width = schema.shape
    matrix = rotation_matrix(height, width, degrees)
    pixels = x.reshape(len(x) * channels, height * width)
    return (pixels @ matrix.T).reshape(x.shape).astype(np.float32)


@lru_cache(maxsize=16)
def rotation_matrix(height: int, width: int, degrees: float) -> npt.NDArray[np.float32]:
    """The linear map of `rotated` for one channel, shape (height * width, height * width): out = matrix @ in.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        degrees: counter-clockwise.

    Returns:
        float32, read-only; it is shared between calls.
    """
    angle = math.radians(degrees)
    rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1)
    up, right = rows - (height - 1) / 2, columns - (width - 1) / 2
    from_row = math.cos(angle) * up + math.sin(angle) * right + (height - 1) / 2
    from_column = -math.sin(angle) * up + math.cos(angle) * right + (width - 1) / 2
    matrix = np.zeros((height * width, height * width), dtype=np.float32)
    for row_step in (0, 1):
        for column_step in (0, 1):
            row = np.floor(from_row).astype(np.int64) + row_step
            column = np.floor(from_column).astype(np.int64) + column_step
            weight = (1 - abs(from_row - row)) * (1 - abs(from_column - column))
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            matrix[np.flatnonzero(inside), (row * width + column)[inside]] += weight[inside]
    matrix.setflags(write=False)
    return matrix


def _moved_labels(y: Targets, schema: Schema, part: float, rng: np.random.Generator) -> Targets:
    """Every label, or a random part, becomes the next class, or its mirror image in the range: p(y | x) changes."""
    moved = rng.random(len(y)) < part
    if schema.label_range is not None:
        return np.where(moved, sum(schema.label_range) - y, y)
    return np.where(moved, (y + 1) % schema.classes, y).astype(np.int64)


def _fewer_above(y: Targets, schema: Schema, part: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Places of rows where a part of those with upper labels gave way to others of the device: p(y) changes alone."""
    middle = (schema.classes - 1) / 2 if schema.label_range is None else sum(schema.label_range) / 2
    upper, lower = y > middle, np.flatnonzero(y <= middle)
    gone = upper & (rng.random(len(y)) < part) & bool(lower.size)
    places = np.arange(len(y))
    places[gone] = rng.choice(lower, int(gone.sum())) if lower.size else places[gone]
    return places


def _shifted(
    x: Rows, changed: npt.NDArray[np.bool_], low: Floats, high: Floats, amount: float, rng: np.random.Generator
) -> Rows:
    return (x + changed * amount * (high - low)).astype(np.float32)


def _scaled(
    x: Rows, changed: npt.NDArray[np.bool_], low: Floats, high: Floats, amount: float, rng: np.random.Generator
) -> Rows:
    middle = (low + high) / 2
    return np.where(changed, middle + amount * (x - middle), x).astype(np.float32)


def _noisy(
    x: Rows, changed: npt.NDArray[np.bool_], low: Floats, high: Floats, amount: float, rng: np.random.Generator
) -> Rows:
    return (x + changed * amount * (high - low) * rng.standard_normal(x.shape)).astype(np.float32)


def _missing(
    x: Rows, changed: npt.NDArray[np.bool_], low: Floats, high: Floats, amount: float, rng: np.random.Generator
) -> Rows:
    return np.where(changed & (rng.random(x.shape) < amount), np.float32(np.nan), x).astype(np.float32)


def _stuck(
    x: Rows, changed: npt.NDArray[np.bool_], low: Floats, high: Floats, amount: float, rng: np.random.Generator
) -> Rows:
    return np.where(changed & (rng.random(x.shape) < amount), low, x).astype(np.float32)


def _reached(inject: InjectSection, window: int) -> float:
    """Part of the whole change that a window has, in [0, 1]."""
    since = window - inject.at_window
    if since < 0:
        return 0.0
    return {
        "abrupt": 1.0,
        "gradual": min((since + 1) / inject.over, 1.0),
        "recurring": float((since // inject.over) % 2 == 0),
    }[inject.shape]


_CHANGES: dict[str, Callable[[Rows, npt.NDArray[np.bool_], Floats, Floats, float, np.random.Generator], Rows]] = {
    "shift": _shifted,
    "scale": _scaled,
    "noise": _noisy,
    "missing": _missing,
    "stuck": _stuck,
}
