"""Simulated devices: the real device code over rows of a federation, with drawn failures and a world that may change.

Everything a simulated device draws follows from (run seed, device, round), so one process, many processes and a batch
give the same result. Keys and shares of secure aggregation come from the operating system even here: they cancel.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.config import FleetSection, InjectSection, Scenario
from fedinfer.data import Federation, collected, drifting_devices, inject, stream_window, upcoming
from fedinfer.device import (
    FLAG_MIGRATIONS,
    SESSION_MIGRATIONS,
    SKETCH_MIGRATIONS,
    FlagReferences,
    Host,
    Member,
    MemoryFlagReferences,
    MemoryKnown,
    MemorySessions,
    MemorySketches,
    Policy,
    Sessions,
    Sketches,
    StoredFlagReferences,
    StoredSessions,
    StoredSketches,
)
from fedinfer.flower import build_id
from fedinfer.inference import SessionCache
from fedinfer.messages import Kind, Purpose, SumPlan
from fedinfer.model_file import Isolation
from fedinfer.ports import Clock
from fedinfer.privacy import LEDGER_MIGRATIONS, Budget, Ledger, NoiseStream, SimulatedStream, WindowRows, protected_of
from fedinfer.private_files import private_folder
from fedinfer.secagg import Enrolment, IdentityKey, RevocationList, sign_enrolment, sign_revocations
from fedinfer.store import Durability, open_store
from fedinfer.system import SimulatedEntropy, SystemEntropy, child_seed, simulation_rng
from fedinfer.training import GradientEngine
from fedinfer.types import DeviceId, FloatVector, Trust, Unit

EARLY = (Kind.KEYS, Kind.SHARES, Kind.MASKED)
MODELS_KEPT = 8
NO_END = 1 << 62
LATE = (Kind.SURVIVORS, Kind.UNMASK)


class Processes(Enum):
    """Whether one process answers for a device all the time."""

    ONE = 1
    MANY = 2


@dataclass(frozen=True, slots=True)
class SimulatedRows:
    """Rows of a federation seen through a world that changes at a stated window.

    Args:
        federation: all rows.
        change: of the world; None: none but what time brings.
        drifting: devices whose rows change.
        window_rows: rows of a window.
        seed: of the run.
        time_passes: rows in the order of time that a window has shown are trained on from then on, the oldest are
            forgotten, and the next window's are judged by. Not with unit `example`: there a row is of a window or is
            trained on, and the accounting rests on it.
    """

    federation: Federation
    change: InjectSection | None
    drifting: frozenset[DeviceId]
    window_rows: int
    seed: int
    time_passes: bool = False

    def training(self, device: DeviceId, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """Labelled rows under the data distribution of now: what a device would have collected after the change.

        Args:
            device: of the federation.
            window: number, from 1; 0: before the first.

        Returns:
            Inputs float32 (n, features) and classes int64 (n,).
        """
        data = self.federation.devices[device]
        x, y = data.train_x, data.train_y
        if self.time_passes and data.in_order:
            x, y = collected(data, window, self.window_rows)
        return self._seen(device, window, x, y, "training")

    def stream(self, device: DeviceId, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """Rows of one inference window.

        Args:
            device: of the federation.
            window: number, from 1.

        Returns:
            Inputs float32 (n, features) and classes int64 (n,), n at most `window_rows`.
        """
        data = self.federation.devices[device]
        x, y = stream_window(data, window, self.window_rows, child_seed(self.seed, device))
        return self._seen(device, window, x, y, f"stream {window}")

    def unseen(self, device: DeviceId, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """As `Rows.unseen`, under the data distribution of a window.

        Args:
            device: of the federation.
            window: number, from 1; 0: before the first.
        """
        data = self.federation.devices[device]
        x, y = data.test_x, data.test_y
        if self.time_passes and data.in_order:
            x, y = upcoming(data, window, self.window_rows)
        return self._seen(device, window, x, y, "judged")

    def training_count(self, device: DeviceId) -> int:
        """Number of training rows.

        Args:
            device: of the federation.
        """
        return len(self.federation.devices[device].train_y)

    def division(self, device: DeviceId) -> str:
        """As `Rows.division`: that of the federation, which does not change.

        Args:
            device: of the federation.
        """
        return str(WindowRows.HELD_OUT)

    def judged(self, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """All devices' held-out rows pooled, under the data distribution of a window.

        Args:
            window: number, from 1; 0: before the first.

        Returns:
            Inputs float32 (n, features) and classes int64 (n,), sorted by device: for the metric of a simulation.
        """
        if not self.time_passes and (self.change is None or window < self.change.at_window):
            return self.federation.test
        return _joined([self.unseen(device, window) for device in sorted(self.federation.devices)])

    def held_out(self, window: int) -> dict[DeviceId, int]:
        """Number of held-out rows per device, in the order of `judged`.

        Args:
            window: number, from 1; 0: before the first.
        """
        if self.time_passes:
            return {device: len(self.unseen(device, window)[1]) for device in sorted(self.federation.devices)}
        return {device: len(data.test_y) for device, data in sorted(self.federation.devices.items())}

    def pooled(self, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """All devices' training rows in one table: for a comparison that no real server could make.

        Args:
            window: number, from 1; 0: before the first.

        Returns:
            Inputs float32 (n, features) and classes int64 (n,), sorted by device.
        """
        return _joined([self.training(device, window) for device in sorted(self.federation.devices)])

    def all_streams(self, window: int) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        """All devices' rows of one inference window.

        Args:
            window: number, from 1.

        Returns:
            Inputs float32 (n, features) and classes int64 (n,), sorted by device.
        """
        return _joined([self.stream(device, window) for device in sorted(self.federation.devices)])

    def _seen(
        self, device: DeviceId, window: int, x: FloatVector, y: npt.NDArray[np.int64], label: str
    ) -> tuple[FloatVector, npt.NDArray[np.int64]]:
        if self.change is None or device not in self.drifting or window < self.change.at_window:
            return x, y
        rng = simulation_rng(self.seed, "world", device, label)
        return inject(x, y, self.federation.schema, self.change, window, rng)


def _joined(parts: list[tuple[FloatVector, npt.NDArray[np.int64]]]) -> tuple[FloatVector, npt.NDArray[np.int64]]:
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def simulated_rows(scenario: Scenario, federation: Federation) -> SimulatedRows:
    """The rows of a scenario's devices.

    Args:
        scenario: with its [drift] section.
        federation: its data.
    """
    change, seed = scenario.drift.inject, scenario.scenario.seed
    drifting = drifting_devices(sorted(federation.devices), change, seed) if change else frozenset()
    in_order = any(data.in_order for data in federation.devices.values())
    passes = in_order and scenario.privacy.unit is not Unit.EXAMPLE
    return SimulatedRows(federation, change, drifting, scenario.drift.window, seed, passes)


def vanishing(fleet: FleetSection, seed: int, round_id: str, device: DeviceId) -> Kind | None:
    """At which message a device drops out of a round, or None; independent draws per device and round.

    Args:
        fleet: chances of early and late dropout.
        seed: of the scenario.
        round_id: of the round, or of its group.
        device: of the cohort.
    """
    if fleet.dropout == 0 and fleet.late_dropout == 0:
        return None
    rng = simulation_rng(seed, "vanish", round_id, device)
    early, late, stage = rng.random(), rng.random(), rng.random()
    if early < fleet.dropout:
        return EARLY[int(stage * len(EARLY))]
    return LATE[int(stage * len(LATE))] if late < fleet.late_dropout else None


def _noise(seed: int, federation: Federation) -> Callable[[SumPlan, DeviceId, str], NoiseStream]:
    """Streams of noise by plan, device and use.

    Noise of drift reports follows from the rows too: reports of different tables are alike in size and scale, and with
    the same noise one unlucky seed would alarm on all of them.
    """
    rows = hashlib.sha256()
    for device, data in sorted(federation.devices.items()):
        for part in (device.encode(), data.test_x.tobytes(), data.test_y.tobytes()):
            rows.update(part)
    table = rows.hexdigest()

    def stream(plan: SumPlan, device: DeviceId, use: str) -> NoiseStream:
        match plan.purpose:
            case Purpose.DRIFT:
                own: tuple[str, ...] = (table,)
            case Purpose.TRAIN | Purpose.GATE | Purpose.THRESHOLD:
                own = ()
            case _:
                assert_never(plan.purpose)
        return SimulatedStream(SimulatedEntropy(seed, *own, use, plan.round_id, device))

    return stream


def simulated_host(
    scenario: Scenario, federation: Federation, folder: Path, clock: Clock, processes: Processes
) -> Host:
    """All devices of a federation in one process.

    Args:
        scenario: what is simulated.
        federation: its rows.
        folder: where the devices keep their stores and slots.
        clock: time.
        processes: with many, running rounds and finished windows are kept in the devices' database.
    """
    private_folder(folder)
    seed, privacy = scenario.scenario.seed, scenario.privacy
    authority = simulated_authority(seed)
    connection = open_store(folder / "devices.sqlite", "privacy", LEDGER_MIGRATIONS, Durability.PROCESS)
    sessions, sketches, references = _kept(folder, processes)
    return Host(
        members={device: _member(device, seed, authority) for device in sorted(federation.devices)},
        authority=authority.public_bytes,
        build=build_id(),
        policy=Policy(
            budget=device_budget(scenario),
            plain_sums=True,
            min_survivors=2,
            trusts=frozenset(Trust),
            dropout_rate=scenario.secure_aggregation.dropout_rate,
            corruption_rate=scenario.secure_aggregation.corruption_rate,
            unconfirmed_ranges=True,
            reveals_simulation=True,
            isolation=Isolation.NONE,
            factories=frozenset({scenario.model.factory}),
        ),
        rows=simulated_rows(scenario, federation),
        ledger=Ledger(connection, protected_of(privacy.unit)),
        sessions=sessions,
        sketches=sketches,
        references=references,
        known=MemoryKnown(),
        clock=clock,
        entropy=SystemEntropy(),
        noise=_noise(seed, federation),
        generator=lambda plan, device: simulation_rng(seed, "fit", plan.round_id, device),
        engine=GradientEngine.BATCHED,
        accelerator=scenario.simulation.accelerator,
        drops_out=lambda round_id, device: vanishing(scenario.fleet, seed, round_id, device),
        folder=lambda device: folder / device,
        model_cache=SessionCache(MODELS_KEPT),
        remember=lambda _: None,
    )


def _kept(folder: Path, processes: Processes) -> tuple[Sessions, Sketches, FlagReferences]:
    match processes:
        case Processes.ONE:
            return MemorySessions(), MemorySketches(), MemoryFlagReferences()
        case Processes.MANY:
            file = folder / "devices.sqlite"
            return (
                StoredSessions(open_store(file, "sessions", SESSION_MIGRATIONS)),
                StoredSketches(open_store(file, "sketches", SKETCH_MIGRATIONS)),
                StoredFlagReferences(open_store(file, "flags", FLAG_MIGRATIONS)),
            )
        case _:
            assert_never(processes)


def device_budget(scenario: Scenario) -> Budget:
    """What a simulated device's owner allows: `privacy.device_epsilon`, or the budget of the run.

    Args:
        scenario: with its [privacy] section; without a privacy unit the budget has no limit.
    """
    privacy = scenario.privacy
    if privacy.unit is Unit.NONE:
        return Budget(math.inf, privacy.delta)
    return Budget(privacy.device_epsilon or privacy.epsilon, privacy.delta)


def simulated_authority(seed: int) -> IdentityKey:
    """The enrolment authority of a simulation: whoever knows the seed has its key.

    Args:
        seed: of the scenario.
    """
    return IdentityKey.generate(SimulatedEntropy(seed, "authority"))


def simulated_revocations(seed: int) -> bytes:
    """Its list, on which nobody is and which does not end: a simulation has no calendar.

    Args:
        seed: of the scenario.
    """
    return sign_revocations(simulated_authority(seed), RevocationList(1, 0, NO_END, ()))


def _member(device: DeviceId, seed: int, authority: IdentityKey) -> Member:
    identity = IdentityKey.generate(SimulatedEntropy(seed, "identity", device))
    return Member(device, identity, sign_enrolment(authority, Enrolment(device, identity.public_bytes, 0, NO_END)))
