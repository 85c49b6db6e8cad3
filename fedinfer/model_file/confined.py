"""The program inside the sandbox: reads a model and rows from a pipe, runs them, writes the answers to a pipe.

It is started by `fedinfer.model_file.sandbox` with nothing but its three standard descriptors. It writes a fixed
number of bytes for each run, whatever the model does.
"""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fedinfer.errors import GateFailed
from fedinfer.model_file.confinement import confine
from fedinfer.model_file.inspection import CheckedModel
from fedinfer.model_file.session import open_checked
from fedinfer.ports import Clock
from fedinfer.system import SystemClock

OPENED, NOT_LOADED = b"O", b"N"
ANSWERED, FAILED, OTHER_SHAPE = b"A", b"F", b"S"
HELLO, FRAME = struct.Struct("<c?"), struct.Struct("<cd")
"""First message: whether the model is open, whether the process is closed. Then per run: what became of it, seconds."""
SIZES = struct.Struct("<QQQ")
"""Before everything else: bytes of the settings, of the model, of the rows."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the program is asked to do; travels as JSON.

    Args:
        input, output: names in the graph; the output is float32 (rows, classes).
        others: further outputs to compute, whose values are dropped.
        classes: columns of the output.
        rows: how many rows.
        width: float32 values of a row; 0: a row is one text.
        alone: True: every row is a run of its own; False: all rows together are one run.
        again_above: seconds; a run that took longer is made a second time and the shorter time counts.
        memory_bytes: address space beyond what the process has when it is confined, > 0; see `confine`.
        processor_seconds: processor time beyond what it has used when it is confined, > 0; see `confine`.
    """

    input: str
    output: str
    others: tuple[str, ...]
    classes: int
    rows: int
    width: int
    alone: bool
    again_above: float
    memory_bytes: int
    processor_seconds: int


def main() -> None:
    """Run what standard input says, then end."""
    source, target, clock = sys.stdin.buffer, sys.stdout.buffer, SystemClock()
    sizes = SIZES.unpack(_read(source, SIZES.size))
    settings = RunSettings(**json.loads(_read(source, sizes[0])))
    model, packed = _read(source, sizes[1]), _read(source, sizes[2])
    locks = confine(settings.memory_bytes, settings.processor_seconds)  # before the runtime sees a byte of the model
    rows = _rows(packed, settings)
    try:
        session = open_checked(CheckedModel(model, ""), arena=False)
    except GateFailed:
        target.write(HELLO.pack(NOT_LOADED, locks.closed))
        target.flush()
        return
    target.write(HELLO.pack(OPENED, locks.closed))
    target.flush()
    step = 1 if settings.alone else max(len(rows), 1)
    for start in range(0, len(rows), step):
        target.write(_frame(session, rows[start : start + step], settings, clock))
        target.flush()


def unpacked(kind: bytes, body: bytes, classes: int) -> npt.NDArray[np.float32] | None:
    """The probabilities of one frame, float32 (rows, classes); None when the run failed.

    Args:
        kind: first field of the frame: ANSWERED, FAILED or OTHER_SHAPE.
        body: the frame behind FRAME: float32, little-endian, row by row; zeros unless the kind is ANSWERED.
        classes: columns of the output.
    """
    return np.frombuffer(body, "<f4").reshape(-1, classes) if kind == ANSWERED else None


def _frame(session: Any, rows: npt.NDArray[Any], settings: RunSettings, clock: Clock) -> bytes:
    kind, seconds, answer = _timed(session, rows, settings, clock)
    if seconds > settings.again_above:
        seconds = min(seconds, _timed(session, rows, settings, clock)[1])
    return FRAME.pack(kind, seconds) + answer.astype("<f4").tobytes()


def _timed(
    session: Any, rows: npt.NDArray[Any], settings: RunSettings, clock: Clock
) -> tuple[bytes, float, npt.NDArray[np.float32]]:
    nothing, start = np.zeros((len(rows), settings.classes), np.float32), clock.seconds()
    try:
        found = _answers(session, rows, settings)
    except Exception:  # whatever it is, it is the model's: a failed run is an answer of the usual size
        return FAILED, clock.seconds() - start, nothing
    seconds = clock.seconds() - start
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != nothing.shape:
        return OTHER_SHAPE, seconds, nothing
    return ANSWERED, seconds, found


def _answers(session: Any, rows: npt.NDArray[Any], settings: RunSettings) -> Any:
    """What the graph says; row by row where it takes one at a time."""
    names = [settings.output, *settings.others]
    if len(rows) > 1 and session.get_inputs()[0].shape[:1] == [1]:
        return np.concatenate([session.run(names, {settings.input: rows[i : i + 1]})[0] for i in range(len(rows))])
    return session.run(names, {settings.input: rows})[0]


def _rows(packed: bytes, settings: RunSettings) -> npt.NDArray[Any]:
    if settings.width:
        return np.frombuffer(packed, "<f4").reshape(settings.rows, settings.width)
    column = np.empty((settings.rows, 1), object)
    column[:, 0] = json.loads(packed)
    return column


def _read(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise SystemExit(1)
    return data
