"""What a prediction is: one answer, or many held as one array until they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.inference.predict.rows import FloatArray
from fedinfer.metrics import EVEN, likeliest
from fedinfer.schema import Schema
from fedinfer.tensors import TensorSpec, bounds, places, total

SHOWN_VALUES = 8
"""Values of answered tensors that stand in a text; there may be thousands."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How the answers of a model become what people read: class names, or numbers with a unit and an interval.

    Args:
        labels: class names in the order of the class numbers; empty for a number.
        abstain_below: in [0, 1]; a row whose largest probability is below it gets no class name. 0 = every row does.
        abstain_label: the text it gets instead.
        threshold: for two classes, a float32 value in (0, 1): class 1 is answered from this probability on; EVEN: the
            likeliest class, the first one of equals.
        bounds: public range of a number; None for classes.
        unit: of the number, for people.
        interval: half width of the interval around a number, in its unit; 0: unknown.
        tensors: that are answered, side by side, instead of one number.
    """

    labels: tuple[str, ...]
    abstain_below: float = 0.0
    abstain_label: str = "abstain"
    threshold: float = EVEN
    bounds: tuple[float, float] | None = None
    unit: str = ""
    interval: float = 0.0
    tensors: tuple[TensorSpec, ...] = ()

    @staticmethod
    def of_schema(schema: Schema) -> Naming:
        """Labels, or range and unit; without abstention and interval, which only a manifest knows.

        Args:
            schema: of the model.
        """
        return Naming(schema.labels, bounds=schema.label_range, unit=schema.label_unit, tensors=schema.answers)

    @property
    def outputs(self) -> int:
        """Numbers in the answer for one row."""
        return len(self.labels) if self.bounds is None else total(self.tensors) or 1

    def ranges(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Low and high end of every number in the answer for one row, float64 (outputs,) each; of classes 0 and 1."""
        if self.tensors:
            return bounds(self.tensors)
        low, high = self.bounds or (0.0, 1.0)
        return np.full(self.outputs, low), np.full(self.outputs, high)

    def text(self, raw: FloatArray) -> str:
        """Numbers of one row as people read them; of tensors the first ones, without state.

        Args:
            raw: float32 (outputs,).
        """
        parts = (
            [raw[at] for name, at in places(self.tensors).items() if not self._feeds[name]] if self.tensors else [raw]
        )
        values = np.concatenate(parts)
        shown = " ".join(number_text(value) for value in values[:SHOWN_VALUES].tolist())
        return shown + (f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else "")

    @property
    def _feeds(self) -> dict[str, str]:
        return {tensor.name: tensor.feeds for tensor in self.tensors}

    def decide(self, probabilities: FloatArray) -> npt.NDArray[np.int64]:
        """The class number that is answered: the only place on a device where probabilities become an answer.

        Args:
            probabilities: float32 (rows, classes), as in the graph.

        Returns:
            int64 (rows,).
        """
        return likeliest(probabilities, None if self.threshold == EVEN else self.threshold)

    def prediction(self, probabilities: FloatArray) -> Prediction:
        """The answer for one row.

        Args:
            probabilities: float32 (classes,), finite.
        """
        chosen = int(self.decide(probabilities[None])[0])
        name = self.abstain_label if probabilities.max() < self.abstain_below else self.labels[chosen]
        return Prediction(name, float(probabilities[chosen]), probabilities)

    def around(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Intervals around values, within the public range: the whole range where no half width is known.

        Args:
            values: (n,), in the label's unit.

        Returns:
            float64 (n, 2): low, high.
        """
        low, high = self.bounds or (-np.inf, np.inf)
        half = self.interval or high - low
        both = values.astype(np.float64)[:, None] + np.array([-half, half])
        return np.asarray(np.clip(both, low, high))


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one row.

    Args:
        label: class name, or the abstain label; a number, or the first values of tensors, as text.
        confidence: the probability of the class that is answered, in [0, 1]; NaN for numbers.
        probabilities: float32 (classes,); empty for a number; of tensors their values, side by side.
        value: a number in the label's unit; None for classes and tensors.
        interval: low and high end around it, in the label's unit; None for classes and tensors.
    """

    label: str
    confidence: float
    probabilities: FloatArray
    value: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def raw(self) -> FloatArray:
        """What the graph answered, float32 (outputs,)."""
        return self.probabilities if self.value is None else np.array([self.value], np.float32)


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers for many rows. Everything but the graph's own answers is worked out when asked for.

    Args:
        raw: probabilities, float32 (rows, classes), or values in the unit of a numeric label, float32 (rows, 1), or of
            tensors all their values, float32 (rows, values).
        naming: how they become text.
    """

    raw: FloatArray
    naming: Naming

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def probabilities(self) -> FloatArray:
        """Probabilities of the classes, float32 (rows, classes).

        Raises:
            DataError: the model answers numbers.
        """
        if self.naming.bounds is not None:
            raise DataError("this model answers a number, not classes", hint="read .values")
        return self.raw

    @property
    def values(self) -> FloatArray:
        """Numbers in the label's unit, float32 (rows,).

        Raises:
            DataError: the model answers classes, or tensors.
        """
        if self.naming.bounds is None:
            raise DataError("this model answers classes, not a number", hint="read .labels and .probabilities")
        if self.naming.tensors:
            raise DataError("this model answers tensors, not one number", hint="read .tensors")
        return self.raw[:, 0]

    @property
    def tensors(self) -> dict[str, FloatArray]:
        """Each answered tensor by name, float32 (rows, *its shape); state among them.

        Raises:
            DataError: the model answers classes or one number.
        """
        if not self.naming.tensors:
            raise DataError("this model answers no tensors", hint="read .labels and .probabilities, or .values")
        shapes = {tensor.name: tensor.shape for tensor in self.naming.tensors}
        found = places(self.naming.tensors).items()
        return {name: self.raw[:, at].reshape(len(self.raw), *shapes[name]) for name, at in found}

    @property
    def intervals(self) -> npt.NDArray[np.float64]:
        """Low and high end around each number, float64 (rows, 2); the whole range where no interval is known.

        Raises:
            DataError: the model answers classes or tensors.
        """
        return self.naming.around(self.values)

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """Class number that is answered for each row, int64 (rows,)."""
        return self.naming.decide(self.probabilities)

    @property
    def confidences(self) -> FloatArray:
        """Probability of each row's answer, float32 (rows,)."""
        return np.take_along_axis(self.probabilities, self.classes[:, None], axis=1)[:, 0]

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """Class name or abstain label of each row, or its numbers as text, (rows,)."""
        if self.naming.bounds is not None:
            return np.array([self.naming.text(row) for row in self.raw], dtype=np.str_)
        names = np.array(self.naming.labels)[self.classes]
        if self.naming.abstain_below > 0:
            names = np.where(
                self.probabilities.max(axis=1) < self.naming.abstain_below, self.naming.abstain_label, names
            )
        return names

    def top(self, count: int) -> npt.NDArray[np.int64]:
        """The most probable class numbers of each row, best first; of equal ones the smaller number first.

        Args:
            count: how many, >= 1; all classes where there are fewer.

        Returns:
            int64 (rows, count).
        """
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]


def number_text(value: float) -> str:
    """A predicted number as people read it: as many digits as float32 holds.

    Args:
        value: in the label's unit.
    """
    return f"{value:.7g}"
