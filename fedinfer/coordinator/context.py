"""What the coordinator holds while a run lasts: ports and wiring (`Server`), and what changes (`Progress`).

A function that needs the ledger or the devices alone takes a `RunAccount` or a `Fleet`, not the whole server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario
from fedinfer.coordinator.agenda import RunStep
from fedinfer.coordinator.given import GivenModel
from fedinfer.coordinator.participation import ParticipationSchedule
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.record import AlarmRecord, ModelRecord, RoundRecord, WindowRecord
from fedinfer.drift import ConfidenceCalibration
from fedinfer.errors import BudgetExceeded
from fedinfer.manifest import Statement
from fedinfer.metrics import JudgedBy
from fedinfer.ports import Answer, Ask, Clock, Entropy, Listener, Transport
from fedinfer.privacy import Event, Ledger, NoiseStream, Repeated, Spent, WindowRows, account
from fedinfer.rollout import RolloutStore
from fedinfer.schema import Schema
from fedinfer.types import DeviceId, FloatVector, Json

if TYPE_CHECKING:
    from fedinfer.artifact import ChosenFile, Repository, Templates
    from fedinfer.training import Checkpoint, Trainer

Rows = tuple[FloatVector, npt.NDArray[np.int64]]
"""Inputs, float32 (n, features), and their classes, int64 (n,)."""

LEDGER_OWNER = "server"
"""Owner of the server's account in its ledger; the task of the account is the run id."""


class Keeper(Protocol):
    """Where the state of a run lies between its steps, so that another process can go on with it."""

    def keep(self, done: RunStep | None, state: Checkpoint) -> None:
        """Replace what was kept; a process that is killed meanwhile leaves the state of before.

        Args:
            done: the step that is over; None: the run has begun.
            state: as `fedinfer.coordinator.checkpoint` writes it.

        Raises:
            StoreError: the disk refuses; the state of before is still there.
        """

    def end(self) -> None:
        """Forget the state: the run is over."""


class NotKept:
    """Keeper of a run that nobody goes on with."""

    def keep(self, done: RunStep | None, state: Checkpoint) -> None:
        """As `Keeper.keep`."""

    def end(self) -> None:
        """As `Keeper.end`."""


@dataclass(frozen=True, slots=True)
class RunAccount:
    """The server's account of one run in its ledger.

    Args:
        ledger: the server's.
        run_id: task of the account, which `run` has opened.
        clock: dates the entries.
    """

    ledger: Ledger
    run_id: str
    clock: Clock

    def reserve(self, round_id: str, events: Sequence[Event], reason: str) -> None:
        """Charge the account before data is touched; a charge is never refunded.

        Args:
            round_id: reference of the entry, used once in a run.
            events: what the mechanism will do to one unit of privacy.
            reason: for people who read the ledger.

        Raises:
            BudgetExceeded: the budget does not cover the events; nothing was charged.
            Misbehaviour: the reference was used before.
        """
        refusals = self.ledger.reserve([LEDGER_OWNER], self.run_id, round_id, events, reason, self.clock.now())
        for error in refusals.values():
            if error is not None:
                raise error

    def reserve_once(self, reference: str, events: Sequence[Event], reason: str) -> None:
        """Charge what several sums share, before the first of them; later calls with the reference change nothing.

        Args:
            reference: of the entry.
            events: what one unit of privacy pays for all of the sums together.
            reason: for people who read the ledger.

        Raises:
            BudgetExceeded: the budget does not cover the events; nothing was charged.
        """
        refusals = self.ledger.reserve([LEDGER_OWNER], self.run_id, reference, events, reason, self.clock.now())
        for error in refusals.values():
            if isinstance(error, BudgetExceeded):
                raise error

    def commit(self, round_id: str) -> None:
        """Note in the ledger that a charged mechanism ran to its end.

        Args:
            round_id: reference of the entry.
        """
        self.ledger.commit([LEDGER_OWNER], self.run_id, round_id, self.clock.now())

    def charged(self, round_id: str) -> bool:
        """Whether a reference was charged in this run, by whichever process.

        Args:
            round_id: reference of the entry.
        """
        entries = self.ledger.entries(LEDGER_OWNER)
        return any(entry.task == self.run_id and entry.reference == round_id for entry in entries)

    def spent(self) -> Spent:
        """Proved bound on what the run spent so far, at the delta of its budget."""
        return self.ledger.spent(LEDGER_OWNER, self.run_id)

    def price_of_more(self, reason: str, count: int) -> float:
        """Epsilon that repeating the last charge of a kind would add.

        Args:
            reason: how the reasons of such charges begin.
            count: how often it would be repeated, >= 0.

        Returns:
            >= 0; 0 when nothing of the kind was charged yet, or nothing is protected.
        """
        entries = [entry for entry in self.ledger.entries(LEDGER_OWNER) if entry.task == self.run_id]
        same = [entry.event for entry in entries if entry.reason.startswith(reason)]
        spent = self.spent()
        if not same or not math.isfinite(spent.epsilon):
            return 0.0
        more = (*(entry.event for entry in entries), Repeated(same[-1], count))
        return max(account(more, spent.delta, spent.relation).epsilon - spent.epsilon, 0.0) if count else 0.0

    def remaining(self) -> float:
        """Epsilon of the budget minus epsilon spent, >= 0."""
        return self.ledger.remaining(LEDGER_OWNER, self.run_id)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The enrolled devices and how to reach them.

    Args:
        devices: with their Ed25519 public keys, 32 bytes each: the pinned roster.
        transport: carries requests to them.
        deadline_seconds: longest wait for the answers to one request.
    """

    devices: Mapping[DeviceId, bytes]
    transport: Transport
    deadline_seconds: float

    def ask(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """Send requests, and wait for the answers until the deadline.

        Args:
            asks: one for a device at most.

        Returns:
            Answers in any order; devices that did not answer in time are missing.
        """
        return self.transport.ask(asks, self.deadline_seconds)


@dataclass(frozen=True, slots=True)
class Witness:
    """What only a simulation knows of its devices' rows, for figures in its record. No decision may read it.

    Args:
        held_out: number of held-out rows per device, in the order of the judged rows, by inference window.
        training: training rows of all devices, by inference window.
        stream: rows of all devices of one inference window.
    """

    held_out: Callable[[int], Mapping[DeviceId, int]]
    training: Callable[[int], Rows]
    stream: Callable[[int], Rows]


@dataclass(frozen=True, slots=True)
class Server:
    """Wiring of a coordinator; nothing here changes during a run.

    Args:
        scenario, schema, run_id: the task.
        devices: enrolled devices with their Ed25519 public keys, the pinned roster.
        rows: number of training rows per device, declared public.
        transport, clock: ports.
        entropy: for rotation and grouping seeds; public values, so a simulation may use a seed.
        noise: stream for noise that the server adds (trust central), by round id.
        generator: numpy generator by purpose and round, for cohorts and pre-training.
        ledger: the server's.
        trainer: numpy in, numpy out.
        public: rows the server may hold; may be empty.
        judged: rows that the metric is computed on, by inference window (0: before the first): in a simulation all
            devices' held-out rows pooled, else `public`.
        judged_by: the figure of the task, by which everything here judges.
        witness: of a simulation; None: the devices are real.
        statement: what the run claims about privacy; everybody who is told anything is told this.
        promise: what the whole run will ask devices for; every plan carries it.
        repository: signed artifacts.
        rollouts: state and audit log of rollouts.
        templates: exported graphs, kept between versions.
        simulated: devices are simulated; only then is what they say about their rows and times believed.
        folder: run folder.
        emit: receives every event.
        population: what was planned for, which a process that goes on with the run plans for again.
        keeper: keeps the state of the run after every step.
        rest: waits so many seconds.
        given: the model, where it was trained elsewhere; the trainer is then never asked to train.
    """

    scenario: Scenario
    schema: Schema
    run_id: str
    devices: dict[DeviceId, bytes]
    rows: dict[DeviceId, int]
    transport: Transport
    clock: Clock
    entropy: Entropy
    noise: Callable[[str], NoiseStream]
    generator: Callable[[str], np.random.Generator]
    ledger: Ledger
    trainer: Trainer
    public: Rows
    judged: Callable[[int], Rows]
    judged_by: JudgedBy
    witness: Witness | None
    statement: Statement
    promise: bytes
    repository: Repository
    rollouts: RolloutStore
    templates: Templates
    simulated: bool
    folder: Path
    emit: Listener
    population: Population
    keeper: Keeper
    rest: Callable[[float], None]
    given: GivenModel | None = None

    @property
    def windows(self) -> WindowRows:
        """What the windows of the run are made of."""
        return WindowRows.HELD_OUT if self.simulated else WindowRows.LIVE

    @property
    def account(self) -> RunAccount:
        """What this run may spend, and has spent."""
        return RunAccount(self.ledger, self.run_id, self.clock)

    @property
    def fleet(self) -> Fleet:
        """Who can be asked; the deadline is that of `[training] deadline_seconds`."""
        return Fleet(self.devices, self.transport, self.scenario.training.deadline_seconds)


@dataclass(slots=True)
class Progress:
    """What a run has reached.

    Args:
        weights: of the model now, float32 (all parameters,).
        optimizer: state of the server's optimizer.
        clipping_norm: of the next round, L2, > 0.
        round, window, version: numbers of the last ones, from 1; 0 before the first.
        previous: version that a rollback of the newest one goes to; 0: there is none.
        newest: the file of the newest version that was built, for figures of a simulation; None before there is one.
        active: version of every device that answered when the newest one was signed, 0: none or unknown; empty: not
            asked by this process.
        rounds, models, windows, alarms: records so far, oldest first.
        triggered: how many alarms led to training rounds.
        dropped, refused: devices that dropped out of a training round, or refused it, counted once per round.
        predictions, correct: of all windows so far; known to simulations only.
        latencies_us: microseconds of single predictions; known to simulations only.
        window_metrics: metric of the task per window; NaN where it is not known.
        judgement: of the newest version; empty before there is one.
        start: where the weights came from that the run began with.
        notices: what turned out on the way and is said with the warnings.
        calibration: how often answers of each confidence are right, of the newest version; None where no row with a
            label may be judged by.
        pooled: figures of the pooled model; empty where there is none.
        aborted_in_a_row: training rounds without a release since the last one with a release.
        schedule: secret state of correlated noise; None: the noise of rounds is independent.
        log_odds: from which on the newest version answers class 1, chosen in private; None: not chosen in private.
    """

    weights: FloatVector
    optimizer: Any
    clipping_norm: float
    round: int = 0
    window: int = 0
    version: int = 0
    previous: int = 0
    newest: ChosenFile | None = None
    active: dict[DeviceId, int] = field(default_factory=dict)
    rounds: list[RoundRecord] = field(default_factory=list)
    models: list[ModelRecord] = field(default_factory=list)
    windows: list[WindowRecord] = field(default_factory=list)
    alarms: list[AlarmRecord] = field(default_factory=list)
    triggered: int = 0
    dropped: int = 0
    refused: int = 0
    predictions: int = 0
    correct: int = 0
    latencies_us: list[float] = field(default_factory=list)
    window_metrics: list[float] = field(default_factory=list)
    judgement: Json = field(default_factory=dict)
    start: str = "fresh"
    notices: list[str] = field(default_factory=list)
    calibration: ConfidenceCalibration | None = None
    pooled: Json = field(default_factory=dict)
    aborted_in_a_row: int = 0
    schedule: ParticipationSchedule | None = field(default=None, repr=False)
    log_odds: float | None = None
