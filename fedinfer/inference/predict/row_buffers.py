"""How one thread predicts single rows: buffers that are bound once, or for texts a plain call.

ONNX Runtime cannot bind strings to memory of the caller, so a text costs a few allocations more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime as ort

from fedinfer.errors import GateFailed, Refusal
from fedinfer.inference.predict.answers import Naming, Prediction
from fedinfer.inference.predict.rows import FloatArray, RowReader
from fedinfer.inference.predict.session import INPUT, first_line
from fedinfer.inference.predict.tensor_rows import TensorReader
from fedinfer.inference.predict.texts import TextArray, TextReader

_FLOAT32 = np.dtype(np.float32)


class NumberBinding:
    """Buffers of one thread, bound once: ONNX Runtime reads `row` and writes the answer in place (I/O binding).

    Args:
        session: of the model.
        reader: checks rows of numbers.
        output: name of the answer.
        outputs: columns of the answer.
    """

    def __init__(
        self, session: ort.InferenceSession, reader: RowReader | TensorReader, output: str, outputs: int
    ) -> None:
        self.row = np.zeros((1, reader.width), np.float32)
        self.flat = self.row[0]
        self.shapes = (self.flat.shape, self.row.shape)
        self.out = np.zeros((1, outputs), np.float32)
        self._reader, self._session = reader, session
        self._below, self._above = np.zeros(reader.width, bool), np.zeros(reader.width, bool)
        self._fraction = np.zeros(reader.width, np.float32)
        self._categories = reader.category_mask if reader.has_categories else None
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, ort.OrtValue.ortvalue_from_numpy(self.row))
        self._binding.bind_ortvalue_output(output, ort.OrtValue.ortvalue_from_numpy(self.out))

    def suspicious(self) -> bool:
        """True when some cell may break its rule. Comparisons with NaN are false, so a missing value passes them."""
        if self._reader.complete and np.count_nonzero(self.flat != self.flat):
            return True
        np.less(self.flat, self._reader.low, out=self._below)
        np.greater(self.flat, self._reader.high, out=self._above)
        if np.count_nonzero(self._below) or np.count_nonzero(self._above):
            return True
        return self._categories is not None and self._has_fraction(self._categories)

    def run(self, row: Any, naming: Naming, options: ort.RunOptions | None) -> Prediction:
        """Predict one row.

        Args:
            row: a float32 array (width,) is quickest; a dict, values or one CSV line also do.
            naming: how class numbers become text.
            options: that may end the run; None = none.

        Raises:
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        if type(row) is np.ndarray and row.dtype == _FLOAT32 and row.shape in self.shapes:
            self.flat[:] = row
            self._reader.without_sentinels(self.row)
            if self.suspicious():
                self._reader.check(self.row)
        else:
            self.flat[:] = self._reader.one(row)
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # any of ONNX Runtime's classes: the row is valid, so the graph is at fault
            raise GateFailed(f"the model fails on one row: {first_line(error)}", Refusal.NOT_RUN) from error
        return prediction_of(self.out[0].copy(), naming)

    def _has_fraction(self, categories: FloatArray) -> bool:
        np.rint(self.flat, out=self._fraction)
        np.subtract(self.flat, self._fraction, out=self._fraction)
        np.multiply(self._fraction, categories, out=self._fraction)
        np.abs(self._fraction, out=self._fraction)
        np.greater(self._fraction, 0, out=self._above)
        return bool(np.count_nonzero(self._above))


class TextBinding:
    """The text that a thread predicted last; nothing is bound.

    Args:
        session: of the model.
        reader: checks texts.
        output: name of the answer.
        outputs: columns of the answer.
    """

    def __init__(self, session: ort.InferenceSession, reader: TextReader, output: str, outputs: int) -> None:
        self._session, self._reader, self._output, self._outputs = session, reader, output, outputs
        self.flat: TextArray = reader.blank(1)[0]

    def run(self, row: Any, naming: Naming, options: ort.RunOptions | None) -> Prediction:
        """Predict one text.

        Args:
            row: a text, alone, in a dict or in a sequence.
            naming: how class numbers become text.
            options: that may end the run; None = none.

        Raises:
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        checked = self._reader.one(row)
        self.flat = checked[0]
        try:
            answer = self._session.run([self._output], {INPUT: checked}, options)[0]
        except Exception as error:  # as above
            raise GateFailed(f"the model fails on one row: {first_line(error)}", Refusal.NOT_RUN) from error
        return prediction_of(shaped(answer, 1, self._outputs)[0], naming)


def binding_of(
    session: ort.InferenceSession, reader: RowReader | TensorReader | TextReader, output: str, outputs: int
) -> NumberBinding | TextBinding:
    """An I/O binding for the calling thread; no other thread may use it.

    Args:
        session: of the model.
        reader: for its schema.
        output: name of the answer.
        outputs: columns of the answer.
    """
    if isinstance(reader, TextReader):
        return TextBinding(session, reader, output, outputs)
    return NumberBinding(session, reader, output, outputs)


def shaped(answer: Any, rows: int, outputs: int) -> FloatArray:
    """What a graph answered, which announces a shape and may give another one row by row.

    Args:
        answer: value of the output "probabilities" or "value".
        rows: that were asked for.
        outputs: numbers that the schema wants for a row: one per label, or one for a numeric label.

    Raises:
        GateFailed: when it is not float32 (rows, outputs).
    """
    if not isinstance(answer, np.ndarray) or answer.dtype != _FLOAT32 or answer.shape != (rows, outputs):
        found = f"shape {answer.shape}" if isinstance(answer, np.ndarray) else type(answer).__name__
        raise GateFailed(f"the graph answers {rows} rows with {found}, the schema has {outputs} labels", Refusal.SHAPE)
    return answer


def prediction_of(raw: FloatArray, naming: Naming) -> Prediction:
    """The answer for one row.

    Args:
        raw: what the graph answered, float32 (outputs,).
        naming: how it becomes text.

    Raises:
        GateFailed: when it is NaN or infinite.
    """
    return _of_class(raw, naming) if naming.bounds is None else _of_number(raw, naming)


def _of_number(raw: FloatArray, naming: Naming) -> Prediction:
    if not np.isfinite(raw).all():
        raise GateFailed("the model answers NaN or infinity for 1 row", Refusal.NOT_FINITE)
    if naming.tensors:
        return Prediction(naming.text(raw), math.nan, raw)
    low, high = naming.around(raw)[0].tolist()
    return Prediction(naming.text(raw), math.nan, raw[:0], float(raw[0]), (low, high))


def _of_class(probabilities: FloatArray, naming: Naming) -> Prediction:
    if not math.isfinite(probabilities.max()):  # a NaN is the largest
        raise GateFailed("the model answers NaN or infinity for 1 row", Refusal.NOT_FINITE)
    return naming.prediction(probabilities)
