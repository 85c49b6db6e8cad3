"""A model of the server is run on the device's own rows, one by one, and whatever it does is an answer of one kind.

The model may have been made to fail, to answer in another shape, to take memory or to hang on chosen rows. Each of
these is `prediction=None` for that row and for no other; nothing is raised. So a crash or a hang on a chosen row
changes no more than a wrong answer to that row would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError, GateFailed
from fedinfer.inference.predict.answers import Prediction
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.row_buffers import prediction_of
from fedinfer.inference.predict.rows import FloatArray
from fedinfer.inference.predict.session import INPUT
from fedinfer.model_file import Isolation, Question, RunLimits, SandboxRun, run_confined
from fedinfer.ports import Clock

ROW_LIMITS = RunLimits(run_seconds=5.0)
"""A row that takes longer has no answer; the rows behind it wait as long as it takes to start a process."""


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """The answer for one row.

    Args:
        prediction: None where the model failed.
        seconds: how long it took.
    """

    prediction: Prediction | None
    seconds: float


def row_answers(
    predictor: Predictor,
    rows: npt.NDArray[Any],
    isolation: Isolation,
    clock: Clock,
    again_above: float = float("inf"),
    limits: RunLimits = ROW_LIMITS,
) -> list[RowAnswer | None]:
    """Predict rows one by one.

    Args:
        predictor: the model.
        rows: raw rows, float32 (n, width) or texts (n, 1).
        isolation: a confined process of its own, or this one.
        clock: for durations and time limits.
        again_above: seconds; a row that took longer is predicted a second time and the shorter time counts, because the
            machine may have been busy with something else.
        limits: of memory and time, in a process of its own.

    Returns:
        One item per row; None for a row that breaks the schema.
    """
    match isolation:
        case Isolation.NONE:
            return [_here(predictor, row, clock, again_above) for row in rows]
        case Isolation.PROCESS:
            return _confined(predictor, rows, clock, again_above, limits)
        case _:
            assert_never(isolation)


def _here(predictor: Predictor, row: Any, clock: Clock, again_above: float) -> RowAnswer | None:
    answer = _timed(predictor, row, clock)
    if answer is None or answer.seconds <= again_above:
        return answer
    again = _timed(predictor, row, clock)
    return RowAnswer(answer.prediction, min(answer.seconds, again.seconds if again else answer.seconds))


def _timed(predictor: Predictor, row: Any, clock: Clock) -> RowAnswer | None:
    start = clock.seconds()
    try:
        prediction: Prediction | None = predictor.predict_one(row)
    except DataError:
        return None
    except Exception:  # what the model does to us is its answer, whatever the class of the error
        prediction = None
    return RowAnswer(prediction, clock.seconds() - start)


def _confined(
    predictor: Predictor, rows: npt.NDArray[Any], clock: Clock, again_above: float, limits: RunLimits
) -> list[RowAnswer | None]:
    checked = [_readable(predictor, row) for row in rows]
    valid = [row for row in checked if row is not None]
    runs = iter(_runs(predictor, np.concatenate(valid), clock, again_above, limits) if valid else [])
    return [None if row is None else _answer(predictor, next(runs)) for row in checked]


def _readable(predictor: Predictor, row: Any) -> Any | None:
    try:
        return predictor.reader.one(row).reshape(1, -1)
    except DataError:
        return None


def _runs(predictor: Predictor, matrix: Any, clock: Clock, again_above: float, limits: RunLimits) -> list[SandboxRun]:
    outputs = predictor.schema.outputs
    question = Question(INPUT, predictor.output, outputs, matrix, alone=True, again_above=again_above)
    try:
        return run_confined(predictor.model, question, clock, limits)
    except GateFailed:  # it does not even load there: no row has an answer
        return [SandboxRun(None, limits.run_seconds)] * len(matrix)


def _answer(predictor: Predictor, run: SandboxRun) -> RowAnswer:
    return RowAnswer(None if run.probabilities is None else _prediction(predictor, run.probabilities[0]), run.seconds)


def _prediction(predictor: Predictor, raw: FloatArray) -> Prediction | None:
    return prediction_of(raw, predictor.naming) if np.isfinite(raw).all() else None
