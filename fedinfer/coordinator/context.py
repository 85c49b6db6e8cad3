"""What the coordinator holds while a run lasts: ports and wiring (`Server`), and what changes (`Progress`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario
from fedinfer.coordinator.participation import ParticipationSchedule
from fedinfer.coordinator.record import AlarmRecord, ModelRecord, RoundRecord, WindowRecord
from fedinfer.ports import Clock, Entropy, Listener, Transport
from fedinfer.privacy.accounting.ledger import Ledger
from fedinfer.privacy.mechanism.noise import NoiseStream
from fedinfer.rollout.state import RolloutStore
from fedinfer.schema import Schema
from fedinfer.types import DeviceId, FloatVector

if TYPE_CHECKING:
    from fedinfer.artifact.export.torch import Templates
    from fedinfer.artifact.release.repository import Repository
    from fedinfer.training.trainer import Trainer

Rows = tuple[FloatVector, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Server:
    """Wiring of a coordinator; nothing here changes during a run.

    Args:
        scenario, schema, run_id: the task.
        devices: enrolled devices with their Ed25519 public keys, the pinned roster.
        rows: training rows per device, declared public.
        transport, clock: ports.
        entropy: for rotation seeds; public values, so a simulation may use a seed.
        noise: stream for noise that the server adds (trust central), by round id.
        generator: numpy generator by purpose and round, for cohorts and pre-training.
        ledger: the server's.
        trainer: numpy in, numpy out.
        public: rows the server may hold; may be empty.
        judged: rows that the metric is computed on: in a simulation all devices' held-out rows pooled, else `public`.
        repository: signed artifacts.
        rollouts: state and audit log of rollouts.
        templates: exported graphs, kept between versions.
        simulated: devices are simulated; only then is what they say about their rows and times believed.
        folder: run folder.
        emit: receives every event.
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
    repository: Repository
    rollouts: RolloutStore
    templates: Templates
    simulated: bool
    folder: Path
    emit: Listener


@dataclass(slots=True)
class Progress:
    """What a run has reached.

    `clipping_norm` is that of the next round; `schedule` the secret state of correlated noise, None for independent.
    """

    weights: FloatVector
    optimizer: Any
    clipping_norm: float
    round: int = 0
    window: int = 0
    version: int = 0
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
    aborted_in_a_row: int = 0
    schedule: ParticipationSchedule | None = field(default=None, repr=False)
