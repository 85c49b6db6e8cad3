"""From answers to the prediction log: the one place where a device's predictions become counts.

Whatever the log does (no space, no permission), predictions go on: it is said once, and these rows are not counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.device.labelled import LabelFigures, class_sums, figures_of, number_sums, truth_of
from fedinfer.device.prediction_log import PredictionLog, WaitingAnswers
from fedinfer.drift import Outputs, Sketch, report_channels
from fedinfer.errors import DataError, StoreError
from fedinfer.inference import Installed, Naming, ObservationBuffer, Observed, Prediction, Predictions
from fedinfer.ports import Clock
from fedinfer.schema import Schema
from fedinfer.types import FloatVector

BULK_ROWS = 256
"""Single predictions that are counted together."""
_log = logging.getLogger(__name__)


def layout_of(classes: int) -> tuple[tuple[str, int], ...]:
    """Name and bins of the channels that are counted.

    Args:
        classes: of the label, >= 2; 0: it is a number.
    """
    return tuple((channel.name, channel.bins) for channel in report_channels(classes))


class Recorder:
    """Counts what a device answered; an observer for `ObservationBuffer`.

    Args:
        log: of the device.
    """

    def __init__(self, log: PredictionLog) -> None:
        self._log = log
        self._failed = False

    def __call__(self, found: Sequence[Observed]) -> None:
        """Count rows; full windows are closed on the way.

        Args:
            found: of any versions, in order.
        """
        try:
            for _, group in groupby(found, key=lambda each: (each.version, id(each.naming), each.raw is None)):
                self._count(list(group))
            asked = {each.request: each for each in found if each.request and each.raw is not None}
            if asked:
                self._log.remember({request: _waiting(each) for request, each in asked.items()})
        except StoreError as error:
            if not self._failed:
                _log.warning("predictions are not counted: %s", error)
            self._failed = True

    def label(self, request: str, labels: Sequence[object], schema: Schema, naming: Naming) -> LabelFigures:
        """Take the labels of a request that was answered before.

        Args:
            request: its id; untrusted.
            labels: one per row, in order: class names, or numbers; untrusted.
            schema: of the model.
            naming: of the model.

        Returns:
            Figures of all labels of the version that answered.

        Raises:
            DataError: no answers wait under this id, or the labels do not fit them.
            StoreError: the log cannot be written.
        """
        answers, truth = self._log.recall(request), truth_of(labels, schema)
        if len(truth) != len(answers.raw):
            raise DataError(f"{len(truth)} labels for the {len(answers.raw)} rows of request {request[:60]!r}")
        if answers.raw.shape[1] != schema.outputs:
            raise DataError(f"request {request[:60]!r} was answered by a model with other labels")
        sums = _sums(naming, answers.chosen, answers.raw, truth)
        return figures_of(self._log.add_labels(answers.version, sums, request), schema)

    def label_rows(self, version: int, answers: Predictions, truth: npt.NDArray[Any], schema: Schema) -> LabelFigures:
        """Take labels beside answers to their rows.

        Args:
            version: of the model.
            answers: to n rows.
            truth: class numbers, or values, (n,).
            schema: of the model.

        Returns:
            Figures of all labels of the version.

        Raises:
            StoreError: the log cannot be written.
        """
        sums = _sums(answers.naming, _chosen(answers.naming, answers.raw), answers.raw, truth)
        return figures_of(self._log.add_labels(version, sums), schema)

    def _count(self, group: Sequence[Observed]) -> None:
        """Rows of one version, all with an answer or all without."""
        naming = group[0].naming
        channels, layout = report_channels(len(naming.labels)), layout_of(len(naming.labels))
        answers = [each.raw for each in group if each.raw is not None]
        outputs = _outputs(naming, np.concatenate(answers)) if answers else None

        def counts(start: int, end: int) -> tuple[npt.NDArray[Any], ...]:
            sketch = Sketch(channels)
            if outputs is None:
                sketch.add_unanswered(end - start)
            else:
                sketch.add(Outputs(outputs.labels[start:end], outputs.probabilities[start:end]))
            return sketch.histograms()

        self._log.add(group[0].version, layout, sum(len(each.rows) for each in group), counts)


class RecordedPredictor:
    """A model whose answers are counted in the store of the device; use it as a context, or call `close`.

    Args:
        installed: the model.
        record: gets the answers.
    """

    def __init__(self, installed: Installed, record: Callable[[Sequence[Observed]], None]) -> None:
        self._version, self._predictor = installed.info.version, installed.predictor
        self._buffer = ObservationBuffer(BULK_ROWS, record)

    def predict(self, rows: Any, request: str = "") -> Predictions:
        """As `Predictor.predict`.

        Args:
            rows: any that it takes.
            request: under which their labels may come later; empty: none will.

        Raises:
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        matrix = self._predictor.reader.matrix(rows)
        answers = self._predictor.predict_matrix(matrix)
        if len(answers):
            self._buffer.add(Observed(self._version, answers.naming, matrix.copy(), answers.raw.copy(), request))
        return answers

    def predict_one(self, row: Any) -> Prediction:
        """As `Predictor.predict_one`.

        Args:
            row: any that it takes.

        Raises:
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        answer = self._predictor.predict_one(row)
        self._buffer.add_one(self._version, self._predictor.last_row(), answer.raw, self._predictor.naming)
        return answer

    def stream(
        self, rows: Iterable[Any], on_error: Callable[[int, DataError], None] | None = None
    ) -> Iterator[Prediction]:
        """As `Predictor.stream`.

        Args:
            rows: any rows that `predict_one` takes.
            on_error: called with the number of a bad row and its error, the row is skipped; None = raise.

        Raises:
            DataError: for a bad row, without `on_error`.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        for answer in self._predictor.stream(rows, on_error):
            self._buffer.add_one(self._version, self._predictor.last_row(), answer.raw, self._predictor.naming)
            yield answer

    def close(self) -> None:
        """Count what was collected."""
        self._buffer.flush()

    def __enter__(self) -> RecordedPredictor:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()


def recorder_of(store: Path, clock: Clock) -> Recorder | None:
    """A recorder into a store; None where the log cannot be opened, which is said.

    Args:
        store: folder of the device.
        clock: for the ages of windows.
    """
    try:
        return Recorder(PredictionLog.open(store, clock))
    except StoreError as error:
        _log.warning("predictions are not counted: %s", error)
        return None


def _waiting(observed: Observed) -> WaitingAnswers:
    raw = np.empty((0, 0), np.float32) if observed.raw is None else observed.raw
    return WaitingAnswers(observed.version, _chosen(observed.naming, raw), raw)


def _outputs(naming: Naming, raw: FloatVector) -> Outputs:
    """As channels count answers: a number by where it lies in its public range."""
    if naming.bounds is None:
        return Outputs(_chosen(naming, raw), raw)
    low, high = naming.bounds
    return Outputs(_chosen(naming, raw), (raw - low) / (high - low))


def _chosen(naming: Naming, raw: FloatVector) -> npt.NDArray[np.int64]:
    return naming.decide(raw) if naming.bounds is None else np.zeros(len(raw), np.int64)


def _sums(
    naming: Naming, chosen: npt.NDArray[np.int64], raw: FloatVector, truth: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    return class_sums(chosen, raw, truth) if naming.bounds is None else number_sums(naming, raw, truth)
