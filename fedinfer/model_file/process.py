"""A process that is made for one model: fresh, with nothing but a pipe to it and a pipe from it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from fedinfer.ports import Clock

_ROOT = str(Path(__file__).resolve().parents[2])
_PROGRAM = "import sys; sys.path.insert(0, {root!r}); from {module} import main; main()"
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C", "ORT_DISABLE_TELEMETRY": "1"}
_PART = 2**20


@contextlib.contextmanager
def confined_process(module: str, parts: Sequence[bytes]) -> Iterator[IO[bytes]]:
    """The pipe that a program answers through; the process ends with the block.

    Args:
        module: of this package, whose `main` reads standard input, confines itself and writes standard output.
        parts: what it reads, written while the caller reads; a process that died does not listen.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _PROGRAM.format(root=_ROOT, module=module)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=_ENVIRONMENT, cwd="/", close_fds=True, bufsize=0,
    )  # fmt: skip
    source, target = process.stdin, process.stdout
    if source is None or target is None:
        raise RuntimeError("a process was started without its pipes")
    writer = threading.Thread(target=_send, args=(source, parts), daemon=True)
    writer.start()
    try:
        yield target
    finally:
        process.kill()
        process.wait()
        writer.join()
        target.close()


def taken(pipe: IO[bytes], size: int, seconds: float, clock: Clock) -> bytes | None:
    """Exactly so many bytes; None when they do not come in time or at all.

    Args:
        pipe: of `confined_process`.
        size: bytes wanted.
        seconds: longest wait.
        clock: for the time limit.
    """
    parts, missing, deadline = [], size, clock.seconds() + seconds
    ready = select.poll()  # unlike select, it knows descriptors above 1023
    ready.register(pipe, select.POLLIN)
    while missing:
        left = deadline - clock.seconds()
        if left <= 0 or not ready.poll(1000 * left):
            return None
        part = os.read(pipe.fileno(), min(missing, _PART))
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _send(pipe: IO[bytes], parts: Sequence[bytes]) -> None:
    with contextlib.suppress(OSError), pipe:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[pipe.write(view[:_PART]) :]
