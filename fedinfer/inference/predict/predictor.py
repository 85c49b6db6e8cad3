"""From raw rows to labels: what a program on the device calls.

Rules:
* A row is checked against the schema before the model sees it; the error names column, value and rule.
* No error of ONNX Runtime reaches the caller.
* A single row runs in buffers that belong to the calling thread: nothing is allocated but the answer. Many threads may
  share one predictor.
* Only "probabilities" (or the "value" of a numeric label) are asked of the graph: ONNX Runtime makes one Python string
  per row of a text output, which costs more than a small model; the label of the class number is looked up here
  instead, and the self-check of an installed model compares both once.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fedinfer.errors import ConfigError, DataError, GateFailed, Refusal, StoreError
from fedinfer.inference.predict.answers import Naming, Prediction, Predictions
from fedinfer.inference.predict.reader import reader_of
from fedinfer.inference.predict.row_buffers import NumberBinding, TextBinding, binding_of, shaped
from fedinfer.inference.predict.rows import NUMBERS, FloatArray
from fedinfer.inference.predict.session import (
    INPUT,
    LABEL,
    SessionCache,
    first_line,
    metadata,
    open_session,
    static_width,
    takes_one_row,
    terms_in,
)
from fedinfer.inference.predict.texts import TextReader
from fedinfer.manifest import CONTRIBUTIONS, answer_name
from fedinfer.metrics import EVEN
from fedinfer.model_file import CheckedModel, check_model
from fedinfer.schema import Schema

SCHEMA_KEY = "schema"
"""Key of the schema (JSON) in the `metadata_props` of a model."""
THRESHOLD_KEY = "threshold"
"""Key of the decision threshold there; a model without it answers the likeliest class."""
MAX_WIDTH = 16_777_216
"""Largest row, in values, that a model file may ask for by itself: 64 MiB; a manifest is bounded by its check rows."""
MOST_CHECK_SECONDS = 30.0
"""A graph may hold loops, so the runs that decide whether it is taken are ended after this time, seconds."""
Rows = npt.NDArray[Any]
"""Checked rows: float32 (n, width), or texts, object (n, 1)."""
Check = Callable[[Rows, int], None]
"""Rows and the number of the first one; raises DataError."""
_LEAST_RUN_ROWS, _MOST_RUN_ROWS, _RUN_VALUES = 64, 2048, 262_144


class Predictor:
    """A loaded model with the description of its rows. Make one with `Predictor.open`.

    Args:
        model: the bytes that the session was made of.
        session: a session of `open_session` or a `SessionCache`.
        schema: description of the rows and labels.
        naming: how class numbers become text.

    Raises:
        GateFailed: when the graph does not fit the schema or cannot run.
    """

    def __init__(self, model: CheckedModel, session: ort.InferenceSession, schema: Schema, naming: Naming) -> None:
        self.model = model
        self.schema = schema
        self.naming = naming
        self.reader = reader_of(schema)
        self.output = answer_name(schema)
        self.terms = terms_in(session)
        self._one_row = takes_one_row(session)
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
            naming: how class numbers become text; None = the labels of the schema, with the decision threshold in the
                model's metadata.
            cache: shares sessions between predictors of one process; None = a session of its own.

        Raises:
            GateFailed: when the model breaks a rule, cannot be loaded or does not fit the schema.
            StoreError: when the file cannot be read.
        """
        data = model if isinstance(model, bytes) else _read(model)
        checked, session = _opened(data) if cache is None else cache.open(data)
        schema = _schema_of(session) if schema is None else schema
        naming = naming or replace(Naming.of_schema(schema), threshold=_threshold_of(session))
        return Predictor(checked, session, schema, naming)

    def predict(self, rows: Any) -> Predictions:
        """Predict many rows at once.

        Args:
            rows: array (n, width), data frame, CSV text with a header, or a sequence of dicts or rows; see `rows`. For
                a text schema a sequence of texts, data frame, CSV text or dicts; see `texts`. For tensors also dicts of
                arrays; see `tensor_rows`.

        Raises:
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        if not isinstance(self.reader, TextReader) and isinstance(rows, np.ndarray) and rows.dtype.kind in NUMBERS:
            return self._predictions(self.reader.shaped(rows), self.reader.check)
        return self.predict_matrix(self.reader.matrix(rows))

    def predict_matrix(self, matrix: Rows) -> Predictions:
        """Predict rows that `reader.matrix` has checked.

        Args:
            matrix: float32 (n, width), or texts, object (n, 1); n may be 0.

        Raises:
            GateFailed: when the model fails or answers NaN or infinity.
        """
        return self._predictions(matrix, _checked_before)

    def predict_one(self, row: Any) -> Prediction:
        """Predict one row.

        Args:
            row: a float32 array (width,) is quickest; a dict, values or one CSV line also do; or one text.

        Raises:
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        return self._binding().run(row, self.naming, self._options())

    def last_row(self) -> Rows:
        """The row that this thread predicted last, float32 (width,) or text (1,); overwritten by the next one."""
        row: Rows = self._binding().flat
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
            GateFailed: when the model fails or answers NaN or infinity.
        """
        for number, row in enumerate(rows):
            try:
                yield self.predict_one(row)
            except DataError as error:
                if on_error is None:
                    raise
                on_error(number, error)

    def graph_labels(self, matrix: Rows) -> list[str]:
        """The graph's own "label" output for checked rows; empty without such an output. For the self-check.

        Args:
            matrix: float32 (n, width), or texts, object (n, 1); n >= 1.

        Raises:
            GateFailed: when the model fails.
        """
        if LABEL not in [node.name for node in self._session.get_outputs()]:
            return []
        step = 1 if self._one_row else max(len(matrix), 1)
        parts = [self._run([LABEL], matrix[start : start + step])[0] for start in range(0, len(matrix), step)]
        return [str(label) for part in parts for label in part]

    def _predictions(self, matrix: Rows, check: Check) -> Predictions:
        answers = self._in_runs(matrix, check)
        flat = answers.ravel()
        if not math.isfinite(flat.dot(flat)):  # a sum of squares: nothing cancels
            bad = int((~np.isfinite(answers)).any(axis=1).sum())
            if bad:
                raise GateFailed(f"the model answers NaN or infinity for {bad} rows", Refusal.NOT_FINITE)
        return Predictions(answers, self.naming)

    def contributions(self, matrix: Rows) -> FloatArray:
        """What each term of an additive model adds to each answer; the last row is the intercept.

        Their sum over the terms is the value before it is clipped to its range, or numbers whose softmax are the
        probabilities.

        Args:
            matrix: float32 (n, width), n >= 1, checked by `reader.matrix`.

        Returns:
            float32 (n, terms + 1, outputs).

        Raises:
            DataError: the model is not additive.
            GateFailed: when the model fails, or answers NaN, infinity or another shape.
        """
        if not self.terms:
            raise DataError("this model is no sum of terms", hint='train it with [model] kind = "additive"')
        found = self._run([CONTRIBUTIONS], matrix)[0]
        shape = (len(matrix), len(self.terms) + 1, self.schema.outputs)
        if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != np.float32:
            raise GateFailed(f"the graph gives no contributions of shape {shape}", Refusal.SHAPE)
        if not np.isfinite(found).all():
            raise GateFailed("a contribution is NaN or infinite", Refusal.NOT_FINITE)
        return found

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """End what this thread runs inside the block after a time.

        ONNX Runtime looks between two operators and between two turns of a loop; one operator is not interrupted.

        Args:
            seconds: wall-clock time from the beginning of the block, > 0.

        Raises:
            GateFailed: when a run was ended.
        """
        options = ort.RunOptions()
        timer = threading.Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        self._threads.options = options
        try:
            yield
        except GateFailed as error:
            if options.terminate:
                raise GateFailed(f"the model was stopped after {seconds:g} s", Refusal.TOO_SLOW) from error
            raise
        finally:
            self._threads.options = None
            timer.cancel()

    def _in_runs(self, matrix: Rows, check: Check) -> FloatArray:
        """Many rows in runs that fit the processor's cache, each checked right before the model reads it there."""
        least = (
            1 if self.schema.inputs else _LEAST_RUN_ROWS
        )  # inside, a row of an image takes much more than its pixels
        step = 1 if self._one_row else max(least, min(_MOST_RUN_ROWS, _RUN_VALUES // self.reader.width))
        count = len(matrix)
        if count == 0:  # string operators refuse an empty batch
            return np.empty((0, self.schema.outputs), np.float32)
        if count <= step:
            check(matrix, 0)
            return self._answered(matrix)
        answers = np.empty((count, self.schema.outputs), np.float32)
        for start in range(0, count, step):
            part = matrix[start : start + step]
            check(part, start)
            answers[start : start + step] = self._answered(part)
        return answers

    def _answered(self, matrix: Rows) -> FloatArray:
        return shaped(self._run([self.output], matrix)[0], len(matrix), self.schema.outputs)

    def _run(self, names: list[str], matrix: Rows) -> Any:
        try:
            return self._session.run(names, {INPUT: matrix}, self._options())
        except Exception as error:  # any of ONNX Runtime's classes: the rows are valid, so the graph is at fault
            raise GateFailed(f"the model fails on {len(matrix)} rows: {first_line(error)}", Refusal.NOT_RUN) from error

    def _options(self) -> ort.RunOptions | None:
        return getattr(self._threads, "options", None)

    def _binding(self) -> NumberBinding | TextBinding:
        binding: NumberBinding | TextBinding | None = getattr(self._threads, "binding", None)
        if binding is None:
            binding = self._threads.binding = binding_of(self._session, self.reader, self.output, self.naming.outputs)
        return binding

    def _check_shape(self) -> None:
        width = static_width(self._session)
        if width not in (None, self.reader.width):
            raise GateFailed(
                f"the graph wants rows of {width} values, the schema has {self.reader.width}", Refusal.SCHEMA
            )
        with self.at_most(MOST_CHECK_SECONDS):
            self._answered(self.reader.blank(1 if self._one_row else 2))


def _checked_before(matrix: Rows, first: int) -> None:
    """For rows that come from `reader.matrix`."""


def _schema_of(session: ort.InferenceSession) -> Schema:
    text = metadata(session).get(SCHEMA_KEY)
    if text is None:
        raise GateFailed(
            "the model carries no schema", Refusal.SCHEMA, hint=f"pass one, or export with metadata {SCHEMA_KEY!r}"
        )
    try:
        schema = Schema.from_json(json.loads(text))
        width, sizes = schema.width, schema.shape
    except (ValueError, OverflowError, RecursionError, ConfigError, AttributeError) as error:
        raise GateFailed(f"the schema in the model cannot be read: {first_line(error)}", Refusal.SCHEMA) from error
    if not 1 <= width <= MAX_WIDTH or min(sizes, default=1) < 1:
        raise GateFailed(
            f"the schema in the model has rows of {width} values, allowed are 1 to {MAX_WIDTH}", Refusal.SCHEMA
        )
    return schema


def _threshold_of(session: ort.InferenceSession) -> float:
    text = metadata(session).get(THRESHOLD_KEY, str(EVEN))
    try:
        threshold = float(np.float32(text))
    except ValueError:
        threshold = math.nan
    if not 0.0 < threshold < 1.0:
        raise GateFailed(f"the decision threshold {text[:40]!r} in the model is not in (0, 1)", Refusal.SCHEMA)
    return threshold


def _opened(data: bytes) -> tuple[CheckedModel, ort.InferenceSession]:
    checked = check_model(data)
    return checked, open_session(checked)


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error
