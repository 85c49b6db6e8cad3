"""What a device answered, handed on in bulk to whoever counts it: single predictions cost a copy of their row."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedinfer.inference.predict.answers import Naming
from fedinfer.inference.predict.predictor import Predictor, Rows
from fedinfer.inference.predict.rows import FloatArray
from fedinfer.schema import Schema


@dataclass(frozen=True, slots=True)
class Observed:
    """Rows that one version answered, in the order in which they came.

    Args:
        version: of the model.
        naming: how its answers become classes or numbers.
        schema: of its rows.
        rows: raw, float32 (n, width), or texts (n, 1).
        raw: what the graph answered, float32 (n, outputs); None: it has no answer for these rows.
        request: under which labels of these rows may come later; empty: none will.
    """

    version: int
    naming: Naming
    schema: Schema
    rows: Rows
    raw: FloatArray | None
    request: str = ""


Observer = Callable[[Sequence[Observed]], None]


class ObservationBuffer:
    """Collects what is answered and hands it on in bulk; many threads may add.

    Args:
        rows: how many are collected, >= 1.
        observer: gets them, in order.
    """

    def __init__(self, rows: int, observer: Observer) -> None:
        self._size = rows
        self._observer = observer
        self._waiting: list[Observed] = []
        self._waiting_rows = 0
        self._single: Observed | None = None
        self._answers: FloatArray = np.empty((0, 0), np.float32)
        self._used = 0
        self._lock = threading.Lock()

    def add_one(self, version: int, predictor: Predictor, raw: FloatArray) -> None:
        """Take a copy of the row that this thread predicted last, and of its answer.

        Args:
            version: of the model that answered.
            predictor: of this version.
            raw: what the graph answered, float32 (outputs,).
        """
        row, naming = predictor.last_row(), predictor.naming
        with self._lock:
            single = self._single
            if single is None or version != single.version or naming is not single.naming:
                self._collect()
                rows, self._answers = (np.empty((self._size, x.size), x.dtype) for x in (row, raw))
                single = self._single = Observed(version, naming, predictor.schema, rows, self._answers)
            single.rows[self._used] = row
            self._answers[self._used] = raw
            self._used += 1
            if self._used + self._waiting_rows >= self._size:
                self._flush()

    def add(self, observed: Observed) -> None:
        """Take many rows at once. Their arrays are kept until they are handed on.

        Args:
            observed: n >= 1 rows; nobody writes into its arrays any more.
        """
        with self._lock:
            self._collect()
            self._waiting.append(observed)
            self._waiting_rows += len(observed.rows)
            if self._waiting_rows >= self._size:
                self._flush()

    def flush(self) -> None:
        """Hand on what is there, for instance at the end of a program."""
        with self._lock:
            self._flush()

    def _collect(self) -> None:
        """Put single rows behind what waits."""
        single, used = self._single, self._used
        if single is not None and used:
            found = replace(single, rows=single.rows[:used].copy(), raw=self._answers[:used].copy())
            self._waiting.append(found)
            self._waiting_rows += used
            self._used = 0

    def _flush(self) -> None:
        self._collect()
        if self._waiting:
            waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
            self._observer(waiting)
