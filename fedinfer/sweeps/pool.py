"""Worker processes side by side: each takes the next job when it is free; one that dies is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, Queue, SimpleQueue

from fedinfer.sweeps.folder import CellStatus
from fedinfer.types import Json

Done = Callable[[int, Json], None]
"""Called with the number of the job, and its answer."""
LOG = "workers.log"
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def carry_out_all(jobs: Sequence[Json], processes: int, folder: Path, done: Done) -> None:
    """Carry out jobs in worker processes.

    Args:
        jobs: see `fedinfer.sweeps.worker.carry_out`.
        processes: how many at a time, >= 1.
        folder: gets the log of what workers print.
        done: is called in this thread, once per job, in the order in which they end.
    """
    waiting: Queue[int] = Queue()
    for number in range(len(jobs)):
        waiting.put(number)
    answers: SimpleQueue[tuple[int, Json]] = SimpleQueue()
    workers = [_Worker(folder / LOG, processes) for _ in range(min(processes, len(jobs)))]
    threads = [threading.Thread(target=_serve, args=(each, waiting, jobs, answers), daemon=True) for each in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in jobs:
            done(*answers.get())
    finally:
        for worker in workers:
            worker.kill()
        for thread, worker in zip(threads, workers, strict=True):
            thread.join()
            worker.close()


def _serve(worker: _Worker, waiting: Queue[int], jobs: Sequence[Json], answers: SimpleQueue[tuple[int, Json]]) -> None:
    while not worker.killed:
        try:
            number = waiting.get_nowait()
        except Empty:
            return
        answers.put((number, worker.ask(jobs[number])))


class _Worker:
    """A process, started when it is first asked and again after it died."""

    def __init__(self, log: Path, side_by_side: int) -> None:
        self._log, self._side_by_side, self.killed = log, side_by_side, False
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: Json) -> Json:
        """Hand over a job and wait for the answer."""
        process = self._started()
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if line:
            answer: Json = json.loads(line)
            return answer
        code = process.wait()
        self.close()
        reason = f"the process ended with {_words(code)}; what it printed is in {self._log.name}"
        return {"status": CellStatus.FAILED, "reason": reason}

    def kill(self) -> None:
        """End the process; a cell in flight is lost."""
        self.killed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Forget a process that has ended or was killed."""
        if self._process is not None:
            with self._process:  # waits for it and closes its pipes
                pass
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self._log.open("a", encoding="utf-8") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "fedinfer.sweeps.worker"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment(),
                )  # fmt: skip
            if self.killed:  # while it was started
                self._process.kill()
        return self._process

    def _environment(self) -> dict[str, str]:
        """This program's, with its search path: own models and data sources are found as here."""
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        few = {name: "1" for name in LIMITS if self._side_by_side > 1}
        return os.environ | few | {"PYTHONPATH": path}


def _words(code: int) -> str:
    if code == -9:
        return "signal 9 (perhaps out of memory: fewer --jobs)"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
