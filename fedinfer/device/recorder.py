"""From answers to the prediction log: the one place where a device's predictions become counts.

Whatever the log does (no space, no permission), predictions go on: it is said once, and these rows are not counted.
The log knows which channels a run watches; a model of another task, whose columns they do not fit, has its answers
counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.device.counted import CountedChannels, answered, counted_channels, counted_truth, inputs_of
from fedinfer.device.labelled import LabelFigures, class_sums, figures_of, number_sums, truth_of
from fedinfer.device.prediction_log import PredictionLog
from fedinfer.device.prediction_window import LateCounts, WaitingAnswers
from fedinfer.drift import Outputs, Sketch, Source, tally
from fedinfer.errors import ConfigError, DataError, StoreError
from fedinfer.inference import Installed, Naming, ObservationBuffer, Observed, Prediction, Predictions
from fedinfer.ports import Clock
from fedinfer.schema import Schema
from fedinfer.types import FloatVector

BULK_ROWS = 256
"""Predictions of a program that are counted together."""
SERVED_ROWS = 8192
"""As many of a server, which writes them every `WRITE_SECONDS` all the same: one transaction for many requests."""
WRITE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Recorder:
    """Counts what a device answered; an observer for `ObservationBuffer`.

    Args:
        log: of the device.
    """

    def __init__(self, log: PredictionLog) -> None:
        self._log = log
        self._failed = self._misfits = False
        self._known: tuple[Schema, tuple[str, ...], CountedChannels] | None = None

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
        except (StoreError, DataError) as error:
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
        late = self._late(schema, answers.chosen, answers.raw, truth)
        return figures_of(self._log.add_labels(answers.version, sums, request, answers.number, late), schema)

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
        chosen = _chosen(answers.naming, answers.raw)
        sums, late = _sums(answers.naming, chosen, answers.raw, truth), self._late(schema, chosen, answers.raw, truth)
        return figures_of(self._log.add_labels(version, sums, late=late), schema)

    def _count(self, group: Sequence[Observed]) -> None:
        """Rows of one version, all with an answer or all without."""
        naming, schema = group[0].naming, group[0].schema
        counted = self._counted(schema)
        inputs = inputs_of(schema, np.concatenate([each.rows for each in group])) if counted.look_at_inputs else None
        answers = [each.raw for each in group if each.raw is not None]
        raw = np.concatenate(answers) if answers else None
        outputs = None if raw is None else answered(schema, _chosen(naming, raw), raw)

        def counts(start: int, end: int) -> tuple[npt.NDArray[Any], ...]:
            sketch, seen = Sketch(counted.channels), None if inputs is None else inputs[start:end]
            if outputs is None:
                sketch.add_unanswered(end - start, seen)
            else:
                sketch.add(Outputs(outputs.labels[start:end], outputs.probabilities[start:end], seen))
            return sketch.histograms()

        self._log.add(group[0].version, counted.layout, sum(len(each.rows) for each in group), counts)

    def _counted(self, schema: Schema) -> CountedChannels:
        """The channels of the run, or the answers where they do not fit the model."""
        names = self._log.watched()
        if self._known is None or self._known[0] is not schema or self._known[1] != names:
            try:
                found = counted_channels(schema, names)
            except ConfigError as error:
                if not self._misfits:
                    _log.warning("of this model only the answers are counted: %s", error)
                self._misfits, found = True, counted_channels(schema, ())
            self._known = schema, names, found
        return self._known[2]

    def _late(
        self, schema: Schema, chosen: npt.NDArray[np.int64], raw: FloatVector, truth: npt.NDArray[Any]
    ) -> LateCounts | None:
        """What the channels of errors count of some labels; None where there is none or nothing was labelled."""
        counted = self._counted(schema)
        if not counted.look_at_labels or not len(truth):
            return None
        outputs = replace(answered(schema, chosen, raw), truth=counted_truth(schema, truth))
        counts = tuple(
            tally(channel, outputs) if channel.source is Source.ERROR else np.zeros(channel.bins)
            for channel in counted.channels
        )
        return LateCounts(counted.layout, counts, len(truth))


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
            schema = self._predictor.schema
            self._buffer.add(
                Observed(self._version, answers.naming, schema, matrix.copy(), answers.raw.copy(), request)
            )
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
        self._buffer.add_one(self._version, self._predictor, answer.raw)
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
            self._buffer.add_one(self._version, self._predictor, answer.raw)
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


def _chosen(naming: Naming, raw: FloatVector) -> npt.NDArray[np.int64]:
    return naming.decide(raw) if naming.bounds is None else np.zeros(len(raw), np.int64)


def _sums(
    naming: Naming, chosen: npt.NDArray[np.int64], raw: FloatVector, truth: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    return class_sums(chosen, raw, truth) if naming.bounds is None else number_sums(naming, raw, truth)
