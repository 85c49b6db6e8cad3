"""A model in service: hot swap without a lost request, counting, watching, and going back when the model fails.

A request takes the current model once and finishes with it; a swap is one assignment, so requests in flight end on the
old model and none waits. When a model fails (NaN, an error of the graph) `most_failures` times in a row on rows that
fit its schema, it has to answer its own check rows. Only when it fails on them too, and the previous version does not,
the previous version takes over and the failed one is withdrawn here. No row of a client can bring that about.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from fedinfer.errors import DataError, FedInferError, GateFailed, NoModel
from fedinfer.inference.install.installed import Installed, open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.answers import Prediction, Predictions
from fedinfer.inference.predict.observation import ObservationBuffer, Observed
from fedinfer.inference.predict.predictor import Rows
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.serve.health import ailment, previous_is_well
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.ports import Clock

logger = logging.getLogger(__name__)


class Service:
    """The active model of a device, in use.

    Args:
        slots: where models are installed.
        cache: sessions of this process.
        clock: for latencies.
        telemetry: counts predictions and errors.
        most_failures: failures of the model in a row after which it is checked on its own rows, >= 1.
        observations: gets every prediction; None = none is kept.

    Raises:
        NoModel: when no model is installed, or it was withdrawn.
        ArtifactRejected: when no usable model is left.
    """

    def __init__(
        self,
        slots: Slots,
        cache: SessionCache,
        clock: Clock,
        telemetry: Telemetry,
        most_failures: int,
        observations: ObservationBuffer | None = None,
    ) -> None:
        self.telemetry = telemetry
        self._slots = slots
        self._cache = cache
        self.clock = clock
        self._most_failures = most_failures
        self._observations = observations
        self._failures = 0
        self._reported = 0
        self._swap_lock = threading.Lock()
        self._current: Installed | None = open_installed(slots, cache)

    @property
    def current(self) -> Installed:
        """The model that answers new requests.

        Raises:
            NoModel: the last one was withdrawn.
        """
        if self._current is None:
            raise NoModel("the model of this device was withdrawn", hint="wait for a new version")
        return self._current

    @property
    def version(self) -> int:
        """Of the model that answers new requests; 0 when it was withdrawn."""
        current = self._current
        return 0 if current is None else current.info.version

    def reload(self) -> bool:
        """Take over what is active on the disk now; True when that was another model, or the model was withdrawn.

        Raises:
            ArtifactRejected: when it cannot be loaded; the current model keeps serving.
        """
        with self._swap_lock:
            pointer, served = self._slots.pointer(), self._current
            if pointer.active == (None if served is None else served.info):
                return False
            if pointer.active is None and self.version in pointer.withdrawn:  # a store that is gone withdraws nothing
                logger.warning("version %d was withdrawn: nothing serves until a new version comes", self.version)
                self._current = None
                return True
            found = open_installed(self._slots, self._cache)
            if served is not None and found.info == served.info:
                return False  # the active files are damaged, and the version that stands in for them serves already
            self._take(found)
            return True

    def predict_one(self, row: Any) -> Prediction:
        """Like `Predictor.predict_one`, counted and observed.

        Args:
            row: any row that `Predictor.predict_one` takes.

        Raises:
            NoModel: when the model was withdrawn.
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        current, start = self.current, self.clock.seconds()
        version = current.info.version
        try:
            answer = current.predictor.predict_one(row)
        except (DataError, GateFailed) as error:
            if isinstance(error, GateFailed):
                self._unanswered(current, current.predictor.last_row()[None])
            self._failed(current, error)
            raise
        self._failures = 0
        self.telemetry.answered(version, self.clock.seconds() - start)
        if self._observations is not None:
            self._observations.add_one(version, current.predictor, answer.raw)
        return answer

    def predict(self, rows: Any, request: str = "") -> tuple[Installed, Predictions]:
        """Like `Predictor.predict`, counted and observed.

        Args:
            rows: any rows that `Predictor.predict` takes.
            request: under which their labels may come later; empty: none will.

        Returns:
            The model that answered, which a swap may have replaced by now, and its answers.

        Raises:
            NoModel: when the model was withdrawn.
            DataError: for a row that breaks the schema.
            GateFailed: when the model fails or answers NaN or infinity.
        """
        current, start = self.current, self.clock.seconds()
        version = current.info.version
        matrix = None
        try:
            matrix = current.predictor.reader.matrix(rows)
            answers = current.predictor.predict_matrix(matrix)
        except (DataError, GateFailed) as error:
            if matrix is not None:
                self._unanswered(current, matrix)
            self._failed(current, error)
            raise
        self._failures = 0
        self.telemetry.answered(version, self.clock.seconds() - start, len(answers))
        if self._observations is not None and len(answers):
            schema = current.predictor.schema
            self._observations.add(Observed(version, answers.naming, schema, matrix, answers.raw, request))
        return current, answers

    def _unanswered(self, current: Installed, rows: Rows) -> None:
        """A model that fails is drift, so such rows are observed as well."""
        if self._observations is not None:
            predictor = current.predictor
            self._observations.add(Observed(current.info.version, predictor.naming, predictor.schema, rows, None))

    def _failed(self, current: Installed, error: DataError | GateFailed) -> None:
        self.telemetry.failed(current.info.version, error)
        if isinstance(error, DataError):
            return  # the row's fault
        with self._swap_lock:
            if current is not self._current:
                return  # somebody swapped in the meantime
            self._failures += 1
            if self._failures >= self._most_failures:
                self._failures = 0
                self._examine(current)

    def _examine(self, current: Installed) -> None:
        """Go back when the model is ill by its own check rows; what clients sent is no evidence.

        It is asked twice, with the version before in between: what failed because clients held the memory passes then.
        """
        version, problem = current.info.version, ailment(current)
        if problem and not previous_is_well(self._slots, self._cache):
            words = "version %d fails its self-check (%s) and stays: there is no previous version that passes its own"
            self._report(logging.ERROR, version, words, problem)
        elif problem and ailment(current):
            self._go_back(current, problem)
        else:
            words = "version %d has no answer for rows that clients send; it passes its self-check and stays"
            self._report(logging.WARNING, version, words)

    def _report(self, level: int, version: int, words: str, *values: object) -> None:
        """Log once per version: clients decide how often it comes to this."""
        if self._reported != version:
            self._reported = version
            logger.log(level, words, version, *values)

    def _go_back(self, current: Installed, problem: str) -> None:
        try:
            with self._slots.exclusive():
                if self._slots.active() == current.info:
                    self._slots.rollback()
            self._take(open_installed(self._slots, self._cache))
        except FedInferError as nothing:
            logger.error("version %d fails (%s) and stays: %s", current.info.version, problem, nothing)
            return
        bad, most = current.info.version, self._most_failures
        logger.warning("version %d failed %d times and its self-check (%s): back to version %d",
                       bad, most, problem, self.version)  # fmt: skip

    def _take(self, installed: Installed) -> None:
        if installed.damaged:
            logger.warning("%s; version %d serves instead", installed.damaged, installed.info.version)
        self._failures = 0
        self._current = installed
