"""Rows of one stream, in order: what the model answered as state is given to it with the next row."""

from __future__ import annotations

import numpy as np

from fedinfer.errors import DataError
from fedinfer.inference.predict.answers import Predictions
from fedinfer.inference.predict.predictor import Predictor, Rows
from fedinfer.tensors import places


class Stream:
    """One stream through a model with state; many streams may share a predictor.

    Args:
        predictor: of a model with an output that feeds an input.

    Raises:
        DataError: the model has no state.
    """

    def __init__(self, predictor: Predictor) -> None:
        inputs, answers = places(predictor.schema.inputs), places(predictor.schema.answers)
        self._fed = [(answers[t.name], inputs[t.feeds]) for t in predictor.schema.answers if t.feeds]
        if not self._fed:
            raise DataError("this model has no state: its rows belong to no stream")
        self._predictor = predictor
        self._state: list[Rows] | None = None

    def next(self, row: Rows) -> Predictions:
        """Predict the next row.

        Args:
            row: float32 (1, width), checked by the predictor's reader; its state counts for the first row only.

        Raises:
            GateFailed: when the model fails or answers NaN or infinity; the stream goes on from the row before.
        """
        row = row.copy()
        for (_, place), state in zip(self._fed, self._state or (), strict=False):
            row[:, place] = state
        answers = self._predictor.predict_matrix(row)
        self._state = [answers.raw[:, place] for place, _ in self._fed]
        return answers


def streamed(predictor: Predictor, matrix: Rows) -> Predictions:
    """Predict the rows of one stream.

    Args:
        predictor: of a model with state.
        matrix: float32 (n, width), n >= 1, checked, in the order of time.

    Raises:
        DataError: the model has no state.
        GateFailed: when the model fails or answers NaN or infinity.
    """
    stream = Stream(predictor)
    parts = [stream.next(matrix[place : place + 1]).raw for place in range(len(matrix))]
    return Predictions(np.concatenate(parts), predictor.naming)
