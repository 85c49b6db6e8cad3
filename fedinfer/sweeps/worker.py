"""The process that runs cells: JSON lines in, JSON lines out. It ends with whoever started it.

    python -m fedinfer.sweeps.worker

A process of its own and not a pool of the standard library: that one sends pickles, imports the caller's main module
again (so a script without a guard starts itself for ever), and its processes outlive a parent that was killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO

from fedinfer.config import from_flat
from fedinfer.errors import FedInferError, StoreError
from fedinfer.private_files import private_folder
from fedinfer.sweeps.folder import CellStatus, Outcome, finish
from fedinfer.types import Json


def main() -> None:
    """Answer every line of stdin with one of stdout, until stdin ends."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    jobs: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, jobs), daemon=True).start()
    while True:
        answer = carry_out(json.loads(jobs.get()))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _listen(stdin: TextIO, jobs: SimpleQueue[str]) -> None:
    """Queue what comes; the end of the input means that the parent is gone or needs nothing more: end at once."""
    for line in stdin:
        jobs.put(line)
    os._exit(0)


def carry_out(job: Json) -> Json:
    """Run one cell and complete its folder.

    Args:
        job: `scenario` (flat), `rows`, `part` (folder), `keep`; for private selection the seed `split`.

    Returns:
        `status` and `reason`; the folder has everything else.
    """
    part = Path(job["part"])
    start, cpu = time.perf_counter(), time.process_time()
    try:
        private_folder(part)
        status, reason, hint = _ended(job, part)
        outcome = Outcome(status, reason, hint, time.perf_counter() - start, time.process_time() - cpu)
        finish(part, outcome, bool(job["keep"]))
    except OSError as error:
        return {"status": CellStatus.FAILED, "reason": f"{part}: {error}"}
    return {"status": outcome.status, "reason": outcome.reason}


def _ended(job: Json, part: Path) -> tuple[CellStatus, str, str]:
    """How a run ended. A stranger's model or data source may raise anything: the sweep goes on."""
    try:
        _run(job, part)
    except FedInferError as error:
        began = (part / "run.json").exists()
        status = CellStatus.STOPPED if began else CellStatus.REFUSED
        machine = isinstance(error, StoreError)
        return (CellStatus.FAILED if machine else status), str(error), error.hint
    except Exception as error:
        return CellStatus.FAILED, f"{type(error).__name__}: {error}", ""
    return CellStatus.COMPLETED, "", ""


def _run(job: Json, part: Path) -> None:
    from fedinfer.simulation import RUN_ID, EventLog, run_local
    from fedinfer.sweeps.rows import prepared_for, prepared_for_selection
    from fedinfer.system import SystemClock

    clock = SystemClock()
    scenario, split = from_flat(job["scenario"]), job.get("split")
    prepared = prepared_for(scenario, job["rows"]) if split is None else prepared_for_selection(scenario, split)
    run_local(prepared, part, clock, EventLog(part, clock, RUN_ID))


if __name__ == "__main__":
    main()
