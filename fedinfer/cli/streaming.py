"""`fedinfer device predict --stream`: files that are streams, or a pipe of frames that is answered line by line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fedinfer.cli.answers import answer_lines
from fedinfer.cli.labelled import read_model_rows
from fedinfer.errors import DataError
from fedinfer.inference import (
    ObservationBuffer,
    Observed,
    Predictions,
    Predictor,
    Rows,
    Stream,
    row_files,
    streamed,
)

MOST_LINE = 2**26


def predict_streams(predictor: Predictor, path: Path) -> tuple[Rows, Predictions]:
    """Predict the rows of a file as one stream, or every file of a folder as a stream of its own.

    Args:
        predictor: of a model with state.
        path: of the file or folder.

    Returns:
        The rows, float32 (n, width), and their answers.

    Raises:
        DataError: the model has no state, or a file is wrong.
        GateFailed: the model fails.
    """
    streams = [read_model_rows(item, predictor.schema) for item in row_files(path)]
    answers = [streamed(predictor, rows).raw for rows in streams]
    return np.concatenate(streams), Predictions(np.concatenate(answers), predictor.naming)


def answer_pipe(predictor: Predictor, version: int, buffer: ObservationBuffer | None) -> None:
    """Answer JSON lines of standard input one by one, as one stream, each before the next is read.

    Args:
        predictor: of a model with state.
        version: of the model.
        buffer: gets rows and answers, for the device's window; None: nothing is counted.

    Raises:
        DataError: names the line.
        GateFailed: the model fails.
    """
    try:
        _answer_lines(predictor, version, buffer)
    finally:
        if buffer is not None:
            buffer.flush()


def _answer_lines(predictor: Predictor, version: int, buffer: ObservationBuffer | None) -> None:
    stream, number = Stream(predictor), 0
    while line := sys.stdin.readline(MOST_LINE):
        if not line.strip():
            continue
        number += 1
        try:
            row = predictor.reader.one(json.loads(line))
            answers = stream.next(row)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {number} is not JSON: {str(error)[:80]}") from error
        except DataError as error:
            raise DataError(f"line {number}: {error}", hint=error.hint) from error
        if buffer is not None:
            buffer.add(Observed(version, answers.naming, predictor.schema, row, answers.raw))
        for answer in answer_lines(answers, nested=True):
            sys.stdout.write(json.dumps({**answer, "row": number - 1}) + "\n")
        sys.stdout.flush()
