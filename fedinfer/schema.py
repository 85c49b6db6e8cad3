"""What a row looks like, in public facts only: the same description trains, exports, validates and monitors.

A row is one float32 vector with a place per column. A numeric column holds its value less its offset (see
`fedinfer.reading`; 0 for most), a categorical one the index of its category; missing and unseen values are NaN.
Scaling, missing-value indicators and one-hot coding happen inside the model graph. A text column has a place per word
when a model is trained; a published graph takes the text itself (see `fedinfer.text`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError
from fedinfer.printable import STEERING
from fedinfer.reading import DEFAULT_RULES, CellRule, ReadingRules, told_apart
from fedinfer.tensors import TensorSpec, bounds, check_tensors, total
from fedinfer.types import Json

MOST_BREAKS = 16


@dataclass(frozen=True, slots=True)
class Numeric:
    """A numeric column with a public range.

    Args:
        name: column name.
        low, high: public range of a row's value: the column's own unit, less the offset of the reading rules; values
            outside are clamped in the graph.
        confirmed: False when the range was proposed by a program and nobody has said that it is public.
        breaks: public values inside the range, rising, at most 16, for a column of many small values and few large
            ones: `place` rises by the same amount from each to the next. Empty: evenly over the whole range.
    """

    name: str
    low: float
    high: float
    confirmed: bool = True
    breaks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ConfigError(f"column {self.name}: range [{self.low}, {self.high}] is empty or not finite")
        if not told_apart(self.low, self.high):
            raise ConfigError(f"column {self.name}: float32 cannot tell the ends of [{self.low}, {self.high}] apart")
        if len(self.breaks) > MOST_BREAKS:
            raise ConfigError(f"column {self.name}: {len(self.breaks)} breaks, at most {MOST_BREAKS}")
        odd = next(((a, b) for a, b in pairwise(self.edges) if not (a < b and told_apart(a, b))), None)
        if odd is not None:
            raise ConfigError(
                f"column {self.name}: breaks {list(self.breaks)} do not rise within [{self.low}, {self.high}]",
                hint=f"{odd[1]:g} follows {odd[0]:g}: list values between the ends of the range, the smallest first",
            )

    @property
    def edges(self) -> tuple[float, ...]:
        """The ends of the range with the breaks between them, rising."""
        return (self.low, *self.breaks, self.high)

    def place(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Where values lie in the range: 0 at its lower end, 1 at its upper one, straight between neighbouring edges.

        Args:
            values: of any shape; those outside count as the nearest end, NaN stays.
        """
        return np.asarray(np.interp(np.asarray(values, np.float64), self.edges, np.linspace(0.0, 1.0, len(self.edges))))

    def at(self, places: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Inverse of `place`.

        Args:
            places: of any shape, in [0, 1].
        """
        return np.asarray(np.interp(np.asarray(places, np.float64), np.linspace(0.0, 1.0, len(self.edges)), self.edges))


@dataclass(frozen=True, slots=True)
class Categorical:
    """A column with a public list of categories; anything else counts as missing.

    Args:
        name: column name.
        categories: in the order of their indices 0, 1, ...
        confirmed: False when the list was proposed by a program and nobody has said that it is public.
    """

    name: str
    categories: tuple[str, ...]
    confirmed: bool = True


CANARY = "canary "
"""A category whose name begins so is a canary level: declared for an audit, and no row has it."""

BREAKS = "\n\t"
"""Count as spaces between the words of a text."""
OPENERS = '("'
"""One of each, in this order, may stand before a word of a text; the next one ends it."""
MARKS = OPENERS + ".,!?;:)<\r"
"""A word of a text ends before the first of these."""
MAX_WORDS, MAX_VOCABULARY = 4096, 100_000
WORD_RULE = "words are 1 to 64 characters without A-Z, spaces and marks, and do not begin with ~"
_NEVER = re.escape(MARKS + BREAKS)
_WORD = re.compile(f"[^A-Z {_NEVER}~][^A-Z {_NEVER}]{{0,63}}")


def is_word(word: str) -> bool:
    """Whether a word can be found in a text, so that a vocabulary may list it; the rule is `WORD_RULE`.

    Args:
        word: of any length.
    """
    return _WORD.fullmatch(word) is not None


@dataclass(frozen=True, slots=True)
class Text:
    """A column of free text, read as its first words; the only column of its schema.

    Args:
        name: column name.
        length: words that are kept of a text, in [1, 4096].
        vocabulary: public list of different words; a word that is not listed counts as unknown. Never taken from the
            texts of devices.
        confirmed: False when nobody has said that the list is public.
    """

    name: str
    length: int
    vocabulary: tuple[str, ...]
    confirmed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.length <= MAX_WORDS:
            raise ConfigError(f"column {self.name}: {self.length} words of a text, allowed are 1 to {MAX_WORDS}")
        if not 1 <= len(self.vocabulary) <= MAX_VOCABULARY:
            raise ConfigError(f"column {self.name}: {len(self.vocabulary)} words, allowed are 1 to {MAX_VOCABULARY}")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ConfigError(f"column {self.name}: the vocabulary lists a word twice")
        odd = next((word for word in self.vocabulary if not is_word(word)), None)
        if odd is not None:
            raise ConfigError(
                f"column {self.name}: {odd[:60]!r} can never be found in a text",
                hint=WORD_RULE,
            )

    @property
    def last(self) -> int:
        """Largest token number: 0 is no word, 1 an unknown word, 2 the first of the vocabulary."""
        return len(self.vocabulary) + 1


Column: TypeAlias = Numeric | Categorical | Text
LEAST_STEPS = 1_000
"""Values that float32 must be able to tell apart within the public range of a numeric label."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Inputs and label of a task.

    Args:
        columns: one per place of a row; images list none and give `shape`.
        label: name of the label column.
        labels: class names, in the order of the class numbers; no name holds a control character. Empty when the label
            is a number.
        shape: () for tables; (channels, height, width) for images, pixels in [0, pixel_max].
        pixel_max: largest pixel value of an image.
        reading: how cells of a table become rows.
        label_range: public range of a numeric label, in its own unit; values outside count as the nearest end. None
            when the label is a class.
        label_unit: what a numeric label is measured in, for people; may be empty.
        inputs: tensors of a model that was made elsewhere, side by side in a row; instead of columns and shape.
        answers: tensors that such a model answers, side by side, instead of one number; `label_range` holds their
            ranges.
        complete: no number may be missing, because the model does not know what that is.
    """

    columns: tuple[Column, ...]
    label: str
    labels: tuple[str, ...]
    shape: tuple[int, ...] = ()
    pixel_max: float = 1.0
    reading: ReadingRules = DEFAULT_RULES
    label_range: tuple[float, float] | None = None
    label_unit: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    answers: tuple[TensorSpec, ...] = ()
    complete: bool = False

    def __post_init__(self) -> None:
        _check_label(self)
        _check_tensors(self)
        if self.text is None and any(isinstance(column, Text) for column in self.columns):
            raise ConfigError("a text column stands alone", hint="leave the other columns out")
        if self.text is not None and self.shape:
            raise ConfigError(f"a text has no shape, got {self.shape}")
        if not math.isfinite(self.pixel_max):
            raise ConfigError(f"pixel_max {self.pixel_max} is not finite")
        for text in self._names():
            if STEERING.search(text):
                raise ConfigError(f"name {ascii(text)[:80]} holds a control character")

    def _names(self) -> Iterator[str]:
        yield from (self.label, self.label_unit, *self.labels)
        for tensor in (*self.inputs, *self.answers):
            yield from (tensor.name, tensor.feeds, *tensor.names)
        yield from self.reading.texts()
        for column in self.columns:
            yield column.name
            yield from getattr(column, "categories", getattr(column, "vocabulary", ()))

    @property
    def text(self) -> Text | None:
        """The text column, when rows are texts."""
        column = self.columns[0] if len(self.columns) == 1 else None
        return column if isinstance(column, Text) else None

    def cells(self) -> tuple[CellRule, ...]:
        """How each column of a table is read, in the order of a row's places; empty for images and texts."""
        if self.text is not None:
            return ()
        return tuple(CellRule(c.name, self.reading, getattr(c, "categories", None)) for c in self.columns)

    @property
    def width(self) -> int:
        """Length of one row of float32; a published graph of a text takes one string instead."""
        if self.text is not None:
            return self.text.length
        if self.inputs:
            return total(self.inputs)
        if not self.shape:
            return len(self.columns)
        channels, height, width = self.shape
        return channels * height * width

    @property
    def classes(self) -> int:
        """Number of classes; 0 when the label is a number."""
        return len(self.labels)

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for one row: one per class, one for a number, or those of its tensors."""
        return self.classes if self.label_range is None else total(self.answers) or 1

    @property
    def kind(self) -> str:
        """Kind of the task: classification, regression, scores (numbers that have names) or tensors."""
        if not self.answers:
            return "classification" if self.label_range is None else "regression"
        return "scores" if all(tensor.names or tensor.feeds for tensor in self.answers) else "tensors"

    def ranges(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Low and high end of every number that a model gives for one row, float64 (outputs,) each."""
        if self.answers:
            return bounds(self.answers)
        low, high = self.label_range or (0.0, 1.0)
        return np.full(self.outputs, low), np.full(self.outputs, high)

    @property
    def confirmed(self) -> bool:
        """True when every range and category list is known to be public."""
        return all(column.confirmed for column in self.columns)

    def to_json(self) -> Json:
        """A JSON object that `from_json` reads back."""
        number = {} if self.label_range is None else {"label_range": [*self.label_range], "label_unit": self.label_unit}
        for key, tensors in (("inputs", self.inputs), ("answers", self.answers)):
            number |= {key: [tensor.to_json() for tensor in tensors]} if tensors else {}
        return number | {
            "label": self.label,
            "labels": list(self.labels),
            "shape": list(self.shape),
            "pixel_max": self.pixel_max,
            "columns": [_column_to_json(column) for column in self.columns],
            **({"reading": rules} if (rules := self.reading.to_json()) else {}),
            **({"complete": True} if self.complete else {}),
        }

    @staticmethod
    def from_json(data: Json) -> Schema:
        """Inverse of `to_json`.

        Args:
            data: decoded JSON object; untrusted.

        Raises:
            ConfigError: when a key is missing, a value has the wrong type or a column breaks a rule.
            OverflowError: when a whole number is infinite, which `json.loads` reads although it is no JSON.
        """
        try:
            return Schema(
                columns=tuple(_column_from_json(column) for column in data["columns"]),
                label=str(data["label"]),
                labels=tuple(str(name) for name in data["labels"]),
                shape=tuple(int(size) for size in data["shape"]),
                pixel_max=float(data["pixel_max"]),
                reading=ReadingRules.from_json(data["reading"] if "reading" in data else {}),
                label_range=_range_from_json(data.get("label_range")),
                label_unit=str(data.get("label_unit", "")),
                inputs=tuple(TensorSpec.from_json(tensor) for tensor in data.get("inputs", ())),
                answers=tuple(TensorSpec.from_json(tensor) for tensor in data.get("answers", ())),
                complete=bool(data.get("complete", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"schema cannot be read: {error!r}") from error


def _check_label(schema: Schema) -> None:
    if schema.label_range is None:
        return
    low, high = schema.label_range
    if schema.labels:
        raise ConfigError(f"label {schema.label} has a range and classes: a number or a class, not both")
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"label {schema.label}: range [{low}, {high}] is empty or not finite")
    largest = max(abs(low), abs(high))
    if largest > np.finfo(np.float32).max or np.spacing(np.float32(largest)) * LEAST_STEPS > high - low:
        raise ConfigError(
            f"label {schema.label}: float32 cannot tell values in [{low:.17g}, {high:.17g}] apart",
            hint="subtract a public offset from the label, or give a wider range",
        )


def _check_tensors(schema: Schema) -> None:
    if schema.inputs and (schema.columns or schema.shape):
        raise ConfigError("a schema has tensors, or columns, or a shape: one of them")
    if schema.answers and schema.label_range is None:
        raise ConfigError("tensors are answered as numbers: label_range holds their ranges")
    check_tensors(schema.inputs, schema.answers)
    low, high = schema.label_range or (0.0, 0.0)
    for tensor in schema.answers:
        if not low <= tensor.low < tensor.high <= high:
            raise ConfigError(f"tensor {ascii(tensor.name)[:60]}: its range is not in {schema.label_range}")


def _range_from_json(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise TypeError("label_range is no pair of numbers")
    return float(value[0]), float(value[1])


def _column_to_json(column: Column) -> Json:
    if isinstance(column, Numeric):
        breaks = {"breaks": [*column.breaks]} if column.breaks else {}
        return {"name": column.name, "low": column.low, "high": column.high, "confirmed": column.confirmed} | breaks
    if isinstance(column, Text):  # one string: a third of the bytes of a list
        words = " ".join(column.vocabulary)
        return {"name": column.name, "length": column.length, "vocabulary": words, "confirmed": column.confirmed}
    return {"name": column.name, "categories": list(column.categories), "confirmed": column.confirmed}


def _column_from_json(data: Json) -> Column:
    name, confirmed = str(data["name"]), bool(data["confirmed"])
    if "vocabulary" in data:
        return Text(name, int(data["length"]), tuple(str(data["vocabulary"]).split(" ")), confirmed)
    if "categories" in data:
        return Categorical(name, tuple(str(c) for c in data["categories"]), confirmed)
    breaks = tuple(float(value) for value in data.get("breaks", ()))
    return Numeric(name, float(data["low"]), float(data["high"]), confirmed, breaks)
