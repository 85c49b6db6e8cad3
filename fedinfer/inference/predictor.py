"""From raw rows to labels: what a program on the device calls.

Rules:
* A row is checked against the schema before the model sees it; the error names column, value and rule.
* No error of ONNX Runtime reaches the caller.
* A single row runs in buffers that belong to the calling thread: nothing is allocated but the answer. Many threads may
  share one predictor.
* Only "probabilities" are asked of the graph: ONNX Runtime makes one Python string per row of a text output, which
  costs more than a small model; the label of the class number is looked up here instead, and the self-check of an
  installed model compares both once.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from fedinfer.errors import ConfigError, DataError, GateFailed, StoreError
from fedinfer.inference.answers import Naming, Prediction, Predictions
from fedinfer.inference.rows import NUMBERS, FloatArray, RowReader
from fedinfer.inference.session import (
    INPUT,
    LABEL,
    PROBABILITIES,
    SessionCache,
    first_line,
    metadata,
    open_session,
    static_width,
)
from fedinfer.schema import Schema

SCHEMA_KEY = "schema"
"""Key of the schema (JSON) in the `metadata_props` of a model."""
MAX_WIDTH = 16_777_216
"""Largest row, in values, that a model file may ask for by itself: 64 MiB; a manifest is bounded by its check rows."""
_FLOAT32 = np.dtype(np.float32)
_ONLY_PROBABILITIES = [PROBABILITIES]
Check = Callable[[FloatArray, int], None]
"""Rows (n, width) and the number of the first one; raises DataError."""
_LEAST_RUN_ROWS, _MOST_RUN_ROWS, _RUN_VALUES = 64, 2048, 262_144


class Predictor:
    """A loaded model with the description of its rows. Make one with `Predictor.open`.

    Args:
        session: a session of `open_session` or a `SessionCache`.
        schema: description of the rows and labels.
        naming: how class numbers become text.

    Raises:
        GateFailed: when the graph does not fit the schema or cannot run.
    """

    def __init__(self, session: ort.InferenceSession, schema: Schema, naming: Naming) -> None:
        self.schema = schema
        self.naming = naming
        self.reader = RowReader(schema)
        self._session = session
        self._threads = threading.local()
        self._check_shape()

    @staticmethod
    def open(
        model: bytes | Path,
        schema: Schema | None = None,
        naming: Naming | None = None,
        cache: SessionCache | None = None,
    ) -> Predictor:
        """Load a model.

        Args:
            model: serialized ONNX model or the file that holds it.
            schema: description of the rows; None = the one in the model's metadata.
            naming: how class numbers become text; None = the labels of the schema.
            cache: shares sessions between predictors of one process.

        Raises:
            GateFailed: when the model cannot be loaded or does not fit the schema.
            StoreError: when the file cannot be read.
        """
        data = model if isinstance(model, bytes) else _read(model)
        session = open_session(data) if cache is None else cache.open(data)
        schema = _schema_of(session) if schema is None else schema
        return Predictor(session, schema, naming or Naming(schema.labels))

    def predict(self, rows: Any) -> Predictions:
        """Predict many rows at once.

        Args:
            rows: array (n, width), data frame, CSV text with a header, or a sequence of dicts or rows; see `rows`.

        Raises:
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        if isinstance(rows, np.ndarray) and rows.dtype.kind in NUMBERS:
            return self._predictions(self.reader.shaped(rows), self.reader.check)
        return self.predict_matrix(self.reader.matrix(rows))

    def predict_matrix(self, matrix: FloatArray) -> Predictions:
        """Predict rows that `RowReader.matrix` has checked, float32 (n, width).

        Raises:
            GateFailed: when the model fails or answers NaN or infinity.
        """
        return self._predictions(matrix, _checked_before)

    def predict_one(self, row: Any) -> Prediction:
        """Predict one row: a float32 array (width,) is quickest; a dict, values or one CSV line also do.

        Raises:
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        lane = self._lane()
        if type(row) is np.ndarray and row.dtype == _FLOAT32 and row.shape in lane.shapes:
            lane.flat[:] = row
            if lane.suspicious():
                self.reader.check(lane.row)
        else:
            lane.flat[:] = self.reader.one(row)
        return lane.run(self.naming)

    def last_row(self) -> FloatArray:
        """The row that this thread predicted last, float32 (width,); overwritten by the next one."""
        row: FloatArray = self._lane().flat
        return row

    def stream(
        self, rows: Iterable[Any], on_error: Callable[[int, DataError], None] | None = None
    ) -> Iterator[Prediction]:
        """Predict rows one by one as they come.

        Args:
            rows: any rows that `predict_one` takes.
            on_error: called with the number of a bad row and its error, the row is skipped; None = raise.

        Raises:
            DataError: for a bad row, without `on_error`.
        """
        for number, row in enumerate(rows):
            try:
                yield self.predict_one(row)
            except DataError as error:
                if on_error is None:
                    raise
                on_error(number, error)

    def graph_labels(self, matrix: FloatArray) -> list[str]:
        """The graph's own "label" output for rows (n, width); empty without such an output. For the self-check."""
        if LABEL not in [node.name for node in self._session.get_outputs()]:
            return []
        return [str(label) for label in self._run([LABEL], matrix)[0]]

    def _predictions(self, matrix: FloatArray, check: Check) -> Predictions:
        probabilities = self._in_runs(matrix, check)
        flat = probabilities.ravel()
        if not math.isfinite(flat.dot(flat)):  # a sum of squares: nothing cancels
            bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
            if bad:
                raise GateFailed(f"the model answers NaN or infinity for {bad} rows")
        return Predictions(probabilities, self.naming)

    def _in_runs(self, matrix: FloatArray, check: Check) -> FloatArray:
        """Many rows in runs that fit the processor's cache, each checked right before the model reads it there."""
        count, step = len(matrix), max(_LEAST_RUN_ROWS, min(_MOST_RUN_ROWS, _RUN_VALUES // self.reader.width))
        if count <= step:
            check(matrix, 0)
            whole: FloatArray = self._run(_ONLY_PROBABILITIES, matrix)[0]
            return whole
        probabilities = np.empty((count, self.schema.classes), np.float32)
        for start in range(0, count, step):
            part = matrix[start : start + step]
            check(part, start)
            probabilities[start : start + step] = self._run(_ONLY_PROBABILITIES, part)[0]
        return probabilities

    def _run(self, names: list[str], matrix: FloatArray) -> Any:
        try:
            return self._session.run(names, {INPUT: matrix})
        except Exception as error:  # any of ONNX Runtime's classes: the rows are valid, so the graph is at fault
            raise GateFailed(f"the model fails on {len(matrix)} rows: {first_line(error)}") from error

    def _lane(self) -> _Lane:
        lane: _Lane | None = getattr(self._threads, "lane", None)
        if lane is None:
            lane = self._threads.lane = _Lane(self._session, self.reader, len(self.naming.labels))
        return lane

    def _check_shape(self) -> None:
        width, classes = static_width(self._session), self.schema.classes
        if width not in (None, self.schema.width):
            raise GateFailed(f"the graph wants rows of {width} values, the schema has {self.schema.width}")
        shape = self._run(_ONLY_PROBABILITIES, np.zeros((2, self.schema.width), np.float32))[0].shape
        if shape != (2, classes):
            raise GateFailed(f"the graph answers 2 rows with shape {shape}, the schema has {classes} labels")


class _Lane:
    """Buffers of one thread, bound once: ONNX Runtime reads `row` and writes `probabilities` in place."""

    def __init__(self, session: ort.InferenceSession, reader: RowReader, classes: int) -> None:
        self.row = np.zeros((1, reader.width), np.float32)
        self.flat = self.row[0]
        self.shapes = (self.flat.shape, self.row.shape)
        self.out = np.zeros((1, classes), np.float32)
        self._reader, self._session = reader, session
        self._below, self._above = np.zeros(reader.width, bool), np.zeros(reader.width, bool)
        self._fraction = np.zeros(reader.width, np.float32)
        self._categories = reader.category_mask if reader.has_categories else None
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, ort.OrtValue.ortvalue_from_numpy(self.row))
        self._binding.bind_ortvalue_output(PROBABILITIES, ort.OrtValue.ortvalue_from_numpy(self.out))

    def suspicious(self) -> bool:
        """True when some cell may break its rule. Comparisons with NaN are false, so a missing value passes."""
        np.less(self.flat, self._reader.low, out=self._below)
        np.greater(self.flat, self._reader.high, out=self._above)
        if np.count_nonzero(self._below) or np.count_nonzero(self._above):
            return True
        return self._categories is not None and self._has_fraction(self._categories)

    def run(self, naming: Naming) -> Prediction:
        """Run the graph on `row`."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # see Predictor._run
            raise GateFailed(f"the model fails on one row: {first_line(error)}") from error
        probabilities = self.out[0].copy()
        best = int(probabilities.argmax())  # a NaN is the largest for argmax
        confidence = float(probabilities[best])
        if not math.isfinite(confidence):
            raise GateFailed("the model answers NaN or infinity for 1 row")
        return Prediction(naming.of(best, confidence), confidence, probabilities)

    def _has_fraction(self, categories: FloatArray) -> bool:
        np.rint(self.flat, out=self._fraction)
        np.subtract(self.flat, self._fraction, out=self._fraction)
        np.multiply(self._fraction, categories, out=self._fraction)
        np.abs(self._fraction, out=self._fraction)
        np.greater(self._fraction, 0, out=self._above)
        return bool(np.count_nonzero(self._above))


def _checked_before(matrix: FloatArray, first: int) -> None:
    """For rows that come from `RowReader.matrix`."""


def _schema_of(session: ort.InferenceSession) -> Schema:
    text = metadata(session).get(SCHEMA_KEY)
    if text is None:
        raise GateFailed("the model carries no schema", hint=f"pass one, or export with metadata {SCHEMA_KEY!r}")
    try:
        schema = Schema.from_json(json.loads(text))
        width, sizes = schema.width, schema.shape
    except (ValueError, OverflowError, RecursionError, ConfigError, AttributeError) as error:
        raise GateFailed(f"the schema in the model cannot be read: {first_line(error)}") from error
    if not 1 <= width <= MAX_WIDTH or min(sizes, default=1) < 1:
        raise GateFailed(f"the schema in the model has rows of {width} values, allowed are 1 to {MAX_WIDTH}")
    return schema


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error
