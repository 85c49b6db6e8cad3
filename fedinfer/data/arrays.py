"""Memory-mapped arrays as a table: `x.npy` and `y.npy` in a folder; rows are read when a device trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.config import DataSection, Scenario
from fedinfer.data.table import Table
from fedinfer.errors import DataError
from fedinfer.schema import Numeric, Schema

HINT = "numpy.save('x.npy', rows of shape (n, columns), float32), numpy.save('y.npy', labels of shape (n,))"


def arrays_table(scenario: Scenario) -> tuple[Schema, Table, tuple[str, ...]]:
    """The rows of a folder, mapped and not read; labels are read.

    Args:
        scenario: with source `arrays`.

    Returns:
        (schema, table, warnings); `table.x` is memory-mapped.

    Raises:
        DataError: a file is missing, has another shape or type, or holds a label that is not listed.
    """
    data, folder = scenario.data, scenario.base / Path(scenario.data.path)
    x, y = _mapped(folder / "x.npy"), _mapped(folder / "y.npy")
    if x.ndim != 2 or x.dtype != np.float32 or y.shape != (len(x),) or not len(x):
        raise DataError(f"{folder}: x of shape {x.shape}, {x.dtype}, and y of shape {y.shape}", hint=HINT)
    low, high = data.array_range or (0.0, 1.0)
    columns = tuple(Numeric(f"x{number}", low, high) for number in range(x.shape[1]))
    schema = Schema(columns, "y", data.labels, label_range=data.label_range, label_unit=data.label_unit)
    return schema, Table(x, _labels(folder, y, data)), ()


def _mapped(path: Path) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint=HINT) from error
    return found


def _labels(folder: Path, y: npt.NDArray[Any], data: DataSection) -> npt.NDArray[Any]:
    if data.label_range is not None:
        values = np.asarray(y, np.float64)
        if not np.isfinite(values).all():
            raise DataError(f"{folder / 'y.npy'}: row {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite")
        return np.clip(values, *data.label_range)
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{folder / 'y.npy'}: class numbers must be whole, it holds {y.dtype}")
    wrong = np.flatnonzero((y < 0) | (y >= len(data.labels)))
    if len(wrong):
        raise DataError(
            f"{folder / 'y.npy'}: row {int(wrong[0])} has class {int(y[wrong[0]])}, labels lists {len(data.labels)}"
        )
    return np.asarray(y, np.int64)
