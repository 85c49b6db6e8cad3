"""Runs a model in a process of its own that is confined, and reads a fixed number of bytes from it.

Rules:
* The process starts fresh (no copy of this one, which has threads and secrets), gets the bytes of the model and the
  rows through a pipe, and has no other descriptor, no folder, no environment.
* A run that takes longer than its time, or a process that dies, counts as a failed run of the row that was being run;
  the rows after it go on in a new process. So one row changes the answer for itself only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import GateFailed, Refusal
from fedinfer.model_file.confined import FRAME, HELLO, OPENED, SIZES, RunSettings, unpacked
from fedinfer.model_file.inspection import CheckedModel
from fedinfer.model_file.process import confined_process, taken
from fedinfer.ports import Clock

_MAIN = "fedinfer.model_file.confined"


class Isolation(StrEnum):
    """Where a model runs before it is trusted: in a confined process of its own, or in this one."""

    PROCESS = "process"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What a model may take in the sandbox.

    Args:
        memory_bytes: address space beyond the interpreter, the runtime and the bytes of the model, > 0.
        memory_per_byte: further address space per byte of the model file, for its weights as stored and as unpacked.
        open_seconds: wall-clock time to start the process and load the model.
        run_seconds: wall-clock time of one run; an answer is waited for twice as long, because a slow run may be
            made a second time (`Question.again_above`).
    """

    memory_bytes: int = 2**28
    memory_per_byte: int = 8
    open_seconds: float = 60.0
    run_seconds: float = 30.0


RUN_LIMITS = RunLimits()


@dataclass(frozen=True, slots=True)
class SandboxRun:
    """The result of one run.

    Args:
        probabilities: float32 (rows, classes); None: it failed, or answered in another shape or type.
        seconds: how long it took; the time limit when it was ended.
    """

    probabilities: npt.NDArray[np.float32] | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Question:
    """Rows for a model.

    Args:
        input, output, others: names in the graph; see RunSettings.
        classes: columns of the output.
        rows: float32 (n, width), or texts, object (n, 1); n >= 1.
        alone: True: one run per row; False: one run for all.
        again_above: seconds; see RunSettings.
    """

    input: str
    output: str
    classes: int
    rows: npt.NDArray[Any]
    alone: bool
    others: tuple[str, ...] = ()
    again_above: float = float("inf")


def run_confined(
    model: CheckedModel, question: Question, clock: Clock, limits: RunLimits = RUN_LIMITS
) -> list[SandboxRun]:
    """Run a model on rows in a confined process.

    Args:
        model: that `check_model` accepted.
        question: rows, and which output is wanted for them.
        clock: for time limits.
        limits: of memory and time.

    Returns:
        One SandboxRun per row, or one for all.

    Raises:
        GateFailed: when the model does not load there.
    """
    rows, runs = question.rows, 1 if not question.alone else len(question.rows)
    done: list[SandboxRun] = []
    while len(done) < runs:
        left = replace(question, rows=rows[len(done) :] if question.alone else rows)
        done += _until_it_dies(model, left, clock, limits)
    return done


def _until_it_dies(model: CheckedModel, question: Question, clock: Clock, limits: RunLimits) -> list[SandboxRun]:
    """The runs of one process; the last one has failed when it is not the last of all."""
    runs, per_run = (len(question.rows), 1) if question.alone else (1, len(question.rows))
    size = FRAME.size + 4 * per_run * question.classes
    done: list[SandboxRun] = []
    with confined_process(_MAIN, _parts(model, question, limits)) as pipe:
        hello = taken(pipe, HELLO.size, limits.open_seconds, clock)
        if hello is None or HELLO.unpack(hello)[0] != OPENED:
            raise GateFailed("the model does not load while it is confined", Refusal.CONFINED)
        while len(done) < runs:
            frame = taken(pipe, size, 2 * limits.run_seconds, clock)
            if frame is None:
                return [*done, SandboxRun(None, limits.run_seconds)]
            kind, seconds = FRAME.unpack(frame[: FRAME.size])
            done.append(SandboxRun(unpacked(kind, frame[FRAME.size :], question.classes), seconds))
    return done


def _parts(model: CheckedModel, question: Question, limits: RunLimits) -> tuple[bytes, ...]:
    """Everything at once; a process that died does not listen, which is its answer."""
    rows = question.rows
    texts = rows.dtype == object
    packed = json.dumps([str(row[0]) for row in rows]).encode() if texts else rows.astype("<f4").tobytes()
    runs = len(rows) if question.alone else 1
    settings = RunSettings(
        question.input, question.output, question.others, question.classes, len(rows), 0 if texts else rows.shape[1],
        question.alone, question.again_above, limits.memory_bytes + limits.memory_per_byte * len(model.data),
        int(limits.open_seconds + 2 * limits.run_seconds * runs) + 1,
    )  # fmt: skip
    head = json.dumps(asdict(settings)).encode()
    return SIZES.pack(len(head), len(model.data), len(packed)), head, model.data, packed
