"""What a row looks like, in public facts only: the same description trains, exports, validates and watches.

A row is one float32 vector with a place per column. A numeric column holds its raw value, a categorical one the index
of its category; missing and unseen values are NaN. Scaling, missing-value indicators and one-hot coding happen inside
the model graph, so a device feeds raw values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fedinfer.errors import ConfigError
from fedinfer.types import Json


@dataclass(frozen=True, slots=True)
class Numeric:
    """A numeric column with a public range.

    Args:
        name: column name.
        low, high: public range in the column's own unit; values outside are clamped in the graph.
        confirmed: False when the range was proposed by a program and nobody has said that it is public.
    """

    name: str
    low: float
    high: float
    confirmed: bool = True

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(f"column {self.name}: range [{self.low}, {self.high}] is empty")


@dataclass(frozen=True, slots=True)
class Categorical:
    """A column with a public list of categories; anything else counts as missing."""

    name: str
    categories: tuple[str, ...]
    confirmed: bool = True


Column: TypeAlias = Numeric | Categorical


@dataclass(frozen=True, slots=True)
class Schema:
    """Inputs and label of a task.

    Args:
        columns: one per place of a row; images list none and give `shape`.
        label: name of the label column.
        labels: class names, in the order of the class numbers.
        shape: () for tables; (channels, height, width) for images, pixels in [0, pixel_max].
        pixel_max: largest pixel value of an image.
    """

    columns: tuple[Column, ...]
    label: str
    labels: tuple[str, ...]
    shape: tuple[int, ...] = ()
    pixel_max: float = 1.0

    @property
    def width(self) -> int:
        """Length of one row."""
        if not self.shape:
            return len(self.columns)
        channels, height, width = self.shape
        return channels * height * width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def confirmed(self) -> bool:
        """True when every range and category list is known to be public."""
        return all(column.confirmed for column in self.columns)

    def to_json(self) -> Json:
        """A JSON object that `from_json` reads back."""
        return {
            "label": self.label,
            "labels": list(self.labels),
            "shape": list(self.shape),
            "pixel_max": self.pixel_max,
            "columns": [_column_to_json(column) for column in self.columns],
        }

    @staticmethod
    def from_json(data: Json) -> Schema:
        """Inverse of `to_json`.

        Raises:
            ConfigError: when a key is missing or a value has the wrong type.
        """
        try:
            return Schema(
                columns=tuple(_column_from_json(column) for column in data["columns"]),
                label=str(data["label"]),
                labels=tuple(str(name) for name in data["labels"]),
                shape=tuple(int(size) for size in data["shape"]),
                pixel_max=float(data["pixel_max"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"schema cannot be read: {error!r}") from error


def _column_to_json(column: Column) -> Json:
    if isinstance(column, Numeric):
        return {"name": column.name, "low": column.low, "high": column.high, "confirmed": column.confirmed}
    return {"name": column.name, "categories": list(column.categories), "confirmed": column.confirmed}


def _column_from_json(data: Json) -> Column:
    name, confirmed = str(data["name"]), bool(data["confirmed"])
    if "categories" in data:
        return Categorical(name, tuple(str(c) for c in data["categories"]), confirmed)
    return Numeric(name, float(data["low"]), float(data["high"]), confirmed)
