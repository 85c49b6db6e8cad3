"""Runs a model in a process of its own that is confined, and reads a fixed number of bytes from it.

Rules:
* The process starts fresh (no copy of this one, which has threads and secrets), gets the bytes of the model and the
  rows through a pipe, and has no other descriptor, no folder, no environment.
* A run that takes longer than its time, or a process that dies, counts as a failed run of the row that was being run;
  the rows after it go on in a new process. So one row changes the answer for itself only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import GateFailed, Refusal
from fedinfer.model_file.confined import FRAME, HELLO, OPENED, SIZES, RunSettings, unpacked
from fedinfer.model_file.inspection import CheckedModel
from fedinfer.ports import Clock

_ROOT = str(Path(__file__).resolve().parents[2])
_PROGRAM = "import sys; sys.path.insert(0, {root!r}); from fedinfer.model_file.confined import main; main()"
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C", "ORT_DISABLE_TELEMETRY": "1"}
_PART = 2**20


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
    with _started(model, question, limits) as pipe:
        hello = _taken(pipe, HELLO.size, limits.open_seconds, clock)
        if hello is None or HELLO.unpack(hello)[0] != OPENED:
            raise GateFailed("the model does not load while it is confined", Refusal.CONFINED)
        while len(done) < runs:
            frame = _taken(pipe, size, 2 * limits.run_seconds, clock)
            if frame is None:
                return [*done, SandboxRun(None, limits.run_seconds)]
            kind, seconds = FRAME.unpack(frame[: FRAME.size])
            done.append(SandboxRun(unpacked(kind, frame[FRAME.size :], question.classes), seconds))
    return done


@contextlib.contextmanager
def _started(model: CheckedModel, question: Question, limits: RunLimits) -> Iterator[IO[bytes]]:
    """The pipe that the process answers through; the process ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _PROGRAM.format(root=_ROOT)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=_ENVIRONMENT, cwd="/", close_fds=True, bufsize=0,
    )  # fmt: skip
    source, target = process.stdin, process.stdout
    if source is None or target is None:
        raise RuntimeError("a process was started without its pipes")
    writer = threading.Thread(target=_send, args=(source, model, question, limits), daemon=True)
    writer.start()
    try:
        yield target
    finally:
        process.kill()
        process.wait()
        writer.join()
        target.close()


def _send(pipe: IO[bytes], model: CheckedModel, question: Question, limits: RunLimits) -> None:
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
    with contextlib.suppress(OSError), pipe:
        for part in (SIZES.pack(len(head), len(model.data), len(packed)), head, model.data, packed):
            view = memoryview(part)
            while view:
                view = view[pipe.write(view[:_PART]) :]


def _taken(pipe: IO[bytes], size: int, seconds: float, clock: Clock) -> bytes | None:
    """Exactly so many bytes; None when they do not come in time or at all."""
    parts, missing, deadline = [], size, clock.seconds() + seconds
    while missing:
        left = deadline - clock.seconds()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return None
        part = os.read(pipe.fileno(), min(missing, _PART))
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
