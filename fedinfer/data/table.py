"""Rows as arrays: what a source gives, and what a federation is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.schema import Schema
from fedinfer.types import DeviceId

Rows: TypeAlias = npt.NDArray[np.float32]
"""Raw rows, shape (n, width): numbers as they are, categories as their index, missing and unseen values NaN."""
Labels: TypeAlias = npt.NDArray[np.int64]
"""Class numbers, shape (n,)."""
Targets: TypeAlias = npt.NDArray[Any]
"""Labels of rows, shape (n,): class numbers, int64, or values in the label's unit, float64."""
Indices: TypeAlias = npt.NDArray[np.int64]
"""Row numbers, shape (k,)."""


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a source, before they are split over devices.

    Args:
        x: rows, shape (n, width), float32.
        y: labels, shape (n,).
        device: holder of each row, length n; None when the table does not say.
        in_order: rows stand in the order of time; a device then holds out its latest.
    """

    x: Rows
    y: Targets
    device: tuple[DeviceId, ...] | None = None
    in_order: bool = False

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class DeviceData:
    """What one simulated device holds. Its stream is drawn from the test rows, never from training rows.

    Args:
        train_x, train_y: rows for training, at least one.
        test_x, test_y: held-out rows; may be empty on a device with a single row.
        in_order: held-out rows stand in the order of time and come in that order.
    """

    train_x: Rows
    train_y: Targets
    test_x: Rows
    test_y: Targets
    in_order: bool = False


@dataclass(frozen=True, slots=True)
class Federation:
    """Everything a simulation needs.

    Args:
        schema: columns and classes.
        devices: by device id, sorted.
        public: rows and labels the server may hold; may have length 0.
        test: held-out rows and labels of all devices, in the order of the devices.
        warnings: what a reader of the report must know (dropped rows, unconfirmed ranges).
    """

    schema: Schema
    devices: Mapping[DeviceId, DeviceData]
    public: tuple[Rows, Targets]
    test: tuple[Rows, Targets]
    warnings: tuple[str, ...] = ()
