"""What one physical process holds for its devices: one on a real device, a whole population in a simulation.

Handlers take the host and a list of asks, so that the batched path and the single path are one function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fedinfer.config import Accelerator, Scenario
from fedinfer.device.drift_store import Sketches
from fedinfer.device.flag_store import FlagReferences
from fedinfer.device.prediction_log import PredictionLog
from fedinfer.device.session_store import Sessions
from fedinfer.device.validity import KnownStore, known_time
from fedinfer.errors import Misbehaviour
from fedinfer.inference import Installed, SessionCache
from fedinfer.messages import Kind, SumPlan
from fedinfer.model_file import Isolation
from fedinfer.ports import Clock, Entropy
from fedinfer.privacy import Budget, Ledger, NoiseStream
from fedinfer.schema import Schema
from fedinfer.secagg import DeviceState, IdentityKey
from fedinfer.training import GradientEngine
from fedinfer.types import DeviceId, FloatVector, Trust


class Rows(Protocol):
    """The device's own data, read as the joined task describes it.

    `window` is an inference window: the data distribution may have changed since the rows were first read.
    """

    def training(self, device: DeviceId, window: int) -> tuple[FloatVector, np.ndarray]:
        """Labelled rows to train on.

        Args:
            device: one of the host's.
            window: newest finished inference window, 0 before the first.

        Returns:
            float32, shape (n, width of the schema), and int64 class numbers, shape (n,).
        """

    def stream(self, device: DeviceId, window: int) -> tuple[FloatVector, np.ndarray]:
        """Rows to infer on in one window.

        Args:
            device: one of the host's.
            window: number of the inference window, from 1.

        Returns:
            float32, shape (n, width of the schema), and int64 class numbers, shape (n,), empty where there are none.
        """

    def unseen(self, device: DeviceId, window: int) -> tuple[FloatVector, np.ndarray]:
        """Labelled rows that are not trained on.

        Args:
            device: one of the host's.
            window: newest finished inference window, 0 before the first.

        Returns:
            float32, shape (n, width of the schema), and int64 class numbers, shape (n,); n may be 0.
        """

    def training_count(self, device: DeviceId) -> int:
        """Number of training rows, declared public.

        Args:
            device: one of the host's.
        """

    def division(self, device: DeviceId) -> str:
        """Names how rows are divided into training rows and rows of windows: equal names, equal places of all rows.

        Args:
            device: one of the host's.
        """


@dataclass(frozen=True, slots=True)
class Policy:
    """What the device's owner allows, whatever the server says.

    Args:
        budget: limit of this device's own ledger.
        plain_sums: allow sums without masks (mode ideal or off): simulation only.
        min_survivors: minimum aggregation size: fewest vectors in a sum that this device takes part in, >= 2.
        trusts: who may be trusted with the noise: a device that does not list `central` refuses runs in which the
            server adds it.
        dropout_rate, corruption_rate: what the neighbour graph must withstand for this device to take part.
        unconfirmed_ranges: take part although nobody confirmed that ranges and categories are public: simulation only.
        reveals_simulation: fill the simulated facts of a WindowReply, and send errors as they are.
        factories: model factories ("package.module:callable") that a task may name; any other would be code that the
            server chose.
        tasks: names of scenarios that may be joined; None: any.
        most_latency_us: slowest prediction that a new model may need.
        stale_after_seconds: warn when the model repository was not reached for longer.
        isolation: where models of the server meet the rows of this device, and where they run first. A simulation,
            which made the models itself, saves the processes.
    """

    budget: Budget
    plain_sums: bool
    min_survivors: int
    trusts: frozenset[Trust]
    dropout_rate: float
    corruption_rate: float
    unconfirmed_ranges: bool
    reveals_simulation: bool
    factories: frozenset[str] = frozenset()
    tasks: frozenset[str] | None = None
    most_latency_us: float = 1e6
    stale_after_seconds: float = 7 * 86400.0
    isolation: Isolation = Isolation.PROCESS


@dataclass(frozen=True, slots=True)
class Member:
    """One device of this process.

    Args:
        device: its name.
        identity: its Ed25519 key.
        certificate: of the authority, encoded.
    """

    device: DeviceId
    identity: IdentityKey
    certificate: bytes


@dataclass(slots=True)
class JoinedTask:
    """What this host learned of a run when it joined: who takes part and what is trained.

    Args:
        run_id: the run.
        nonce: of the start of the run, 32 bytes; a server that was started again has drawn another.
        scenario: as the server sent it, admitted by the owner's policy.
        schema: that comes with it.
        pinned: certified public keys, 32 bytes, by device.
        trusted_root: TUF root metadata of the model repository; empty where there is none.
        valid_until: last second, since 1970, at which every certificate of `pinned` and the revocation list count.
    """

    run_id: str
    nonce: bytes
    scenario: Scenario
    schema: Schema
    pinned: Mapping[DeviceId, bytes]
    trusted_root: bytes
    valid_until: int
    trainer: Any = None
    """A fedinfer.training Trainer, made on first use; untyped here so that a device without torch can import this."""


@dataclass(slots=True)
class Host:
    """Wiring of a device process.

    Args:
        members: devices of this process.
        authority: public key of the enrolment authority, pinned.
        build: version and digest of this program, part of every proof that a device has its key.
        policy, rows, ledger, sessions, sketches, references, known, clock: see their types.
        entropy: for keys and shares; always the operating system's.
        noise: stream by plan, device and use; a real device ignores all three and takes its system's.
        generator: source of one device in one round, for shuffling and sampling: seeded in a simulation, else entropy.
        engine: computes per-example gradients; a real device takes every row by itself.
        accelerator: where cohorts train in batched steps; a real device has the processor.
        drops_out: simulation only: at which message a device drops out of a round, or None.
        folder: where a device keeps its files.
        model_cache: sessions shared by the devices of this process.
        remember: keeps the join message for the next process; a simulation keeps nothing.
        trusted_root: TUF root the device was shipped with, or the one of its first join; empty before that.
        states: simulation only: the running sums as they were before they were encoded, with the encoded form.
    """

    members: Mapping[DeviceId, Member]
    authority: bytes
    build: str
    policy: Policy
    rows: Rows
    ledger: Ledger
    sessions: Sessions
    sketches: Sketches
    references: FlagReferences
    known: KnownStore
    clock: Clock
    entropy: Entropy
    noise: Callable[[SumPlan, DeviceId, str], NoiseStream]
    generator: Callable[[SumPlan, DeviceId], np.random.Generator | Entropy]
    engine: GradientEngine
    drops_out: Callable[[str, DeviceId], Kind | None]
    folder: Callable[[DeviceId], Path]
    model_cache: SessionCache
    remember: Callable[[bytes], None]
    trusted_root: bytes = b""
    accelerator: Accelerator = Accelerator.CPU
    task: JoinedTask | None = None
    predictors: dict[DeviceId, Installed] = field(default_factory=dict)
    predictions: PredictionLog | None = None
    refused: dict[DeviceId, int] = field(default_factory=dict)
    states: dict[DeviceId, tuple[bytes, DeviceState]] = field(default_factory=dict, repr=False)

    def joined(self) -> JoinedTask:
        """The task.

        Raises:
            Misbehaviour: before any join.
        """
        if self.task is None:
            raise Misbehaviour("this device has not joined a run")
        return self.task

    def known_time(self) -> int:
        """Seconds since 1970: the clock's, or a later time that a device of this process has known."""
        return known_time(self.known, self.folder(next(iter(self.members))) / "metadata", self.clock.now())

    def check_roster(self) -> None:
        """Refuse to go on with a roster of which a part has expired since the join.

        Raises:
            Misbehaviour: before any join, or says for how long.
        """
        late = self.known_time() - self.joined().valid_until
        if late > 0:
            raise Misbehaviour(f"a certificate of the roster, or the revocation list, expired {late} s ago: join anew")

    def admit(self, scenario: Scenario, schema: Schema) -> None:
        """Check a task against the owner's policy.

        Args:
            scenario: of the task, as the server sent it.
            schema: that comes with it.

        Raises:
            Misbehaviour: ranges that nobody confirmed as public, outside a simulation; a trust that the owner does not
                allow; a model factory or a task that the owner did not name.
        """
        name = scenario.scenario.name
        if self.policy.tasks is not None and name not in self.policy.tasks:
            raise Misbehaviour(
                f"this device's owner did not agree to the task {name!r}",
                hint="its owner lists tasks in device.json",
            )
        trust = scenario.privacy.trust
        if trust not in self.policy.trusts:
            allowed = ", ".join(sorted(self.policy.trusts))
            raise Misbehaviour(f"the run trusts {trust} with the noise, this device's owner allows {allowed}")
        factory = scenario.model.factory
        if factory and factory not in self.policy.factories:
            raise Misbehaviour(
                f"the task names the model factory {factory!r}, which this device's owner did not allow",
                hint="install it on the device and list it in device.json under factories",
            )
        confirmed = schema.confirmed and scenario.data.ranges_confirmed
        if not confirmed and not self.policy.unconfirmed_ranges:
            raise Misbehaviour(
                "the scenario's ranges and categories were read off data and nobody confirmed that they are public",
                hint="check them, then set [data] ranges_confirmed = true",
            )
