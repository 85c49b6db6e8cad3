"""Raw rows and labels of devices as tensors, checked against the schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedinfer.errors import DataError
from fedinfer.schema import Schema
from fedinfer.training.engines.joined import Joined
from fedinfer.training.objective import labels_of


def rows_of(x: npt.NDArray[np.float32], labels: int, schema: Schema) -> Tensor:
    """Rows as a tensor, a copy.

    Args:
        x: (n, width) float32.
        labels: how many there are, n.
        schema: says how wide a row is.

    Raises:
        DataError: another shape.
    """
    _check(x, labels, schema)
    return torch.from_numpy(np.array(x, dtype=np.float32))


def rows_and_labels(x: npt.NDArray[np.float32], y: npt.NDArray[Any], schema: Schema) -> tuple[Tensor, Tensor]:
    """Rows and labels as tensors.

    Args:
        x: (n, width) float32.
        y: (n,), as in `labels_of`.
        schema: of both.

    Raises:
        DataError: they do not fit the schema.
    """
    return rows_of(x, len(y), schema), labels_of(y, schema)


def joined_rows(data: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[Any]]], schema: Schema) -> Joined:
    """Rows of many devices behind each other.

    Args:
        data: rows and labels per device.
        schema: of all.

    Raises:
        DataError: those of a device do not fit the schema.
    """
    for x, y in data:
        _check(x, len(y), schema)
    x = np.concatenate([x for x, _ in data]) if data else np.empty((0, schema.width), np.float32)
    y = np.concatenate([y for _, y in data]) if data else np.empty(0, np.int64)
    rows = torch.from_numpy(x.astype(np.float32, copy=False))  # joined just now: nobody else has them
    return Joined(rows, labels_of(y, schema), tuple(len(labels) for _, labels in data))


def _check(x: npt.NDArray[np.float32], labels: int, schema: Schema) -> None:
    if x.ndim != 2 or x.shape[1] != schema.width or len(x) != labels:
        raise DataError(f"rows of shape {x.shape} with {labels} labels; the schema wants (n, {schema.width})")
