"""The rounds of a scenario with some of its units, and all that a server sees of them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario, to_flat
from fedinfer.coordinator import (
    LEDGER_OWNER,
    RunPlan,
    Server,
    apply_release,
    ask_next,
    first_progress,
    release_groups,
    sum_plans,
)
from fedinfer.data import Federation
from fedinfer.device import DeviceResponder, Host
from fedinfer.flower import CohortClientApp
from fedinfer.messages import FitWork, Purpose
from fedinfer.ports import Clock
from fedinfer.privacy import Budget, Spent, clipping_of
from fedinfer.simulation import LocalGrid, Processes, open_server, simulated_host
from fedinfer.types import DeviceId, FloatVector, Json
from fedinfer.wire import encode

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class AttackedRun:
    """What a run released.

    Args:
        weights: before each round, and at the end: float32 (size,) each.
        released: of each round, in the unit of the weights, float64 (d,).
        planned: what the whole plan costs; None without privacy.
    """

    weights: tuple[FloatVector, ...]
    released: tuple[Floats, ...]
    planned: Spent | None


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """An enrolled federation, before its first round."""

    server: Server
    plan: RunPlan
    host: Host


@contextmanager
def opened(scenario: Scenario, federation: Federation, clock: Clock) -> Iterator[OpenedRun]:
    """A server and its simulated devices, in a folder that goes away.

    Args:
        scenario: no windows are run, whatever it says.
        federation: who takes part, with which rows.
        clock: time.

    Raises:
        FedInferError: the plan is not possible.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        host = simulated_host(scenario, federation, folder / "devices", clock, Processes.ONE)
        names, responder = sorted(host.members), DeviceResponder(host)
        app = CohortClientApp(lambda context: (names[int(context.node_config["partition-id"])], responder))
        grid = LocalGrid(app, len(names), to_flat(scenario))
        server, plan = open_server(grid, scenario, federation, folder, "local", clock, _unheard)
        budget = Budget(math.inf, scenario.privacy.delta)
        server.ledger.open_account(LEDGER_OWNER, server.run_id, budget)
        yield OpenedRun(server, plan, host)


def observe(scenario: Scenario, federation: Federation, clock: Clock) -> AttackedRun:
    """Train and keep everything that the server gets to see.

    Args:
        scenario: what is trained.
        federation: with whom.
        clock: time.

    Raises:
        FedInferError: whatever stops a run.
    """
    with opened(scenario, federation, clock) as world:
        server, plan = world.server, world.plan
        progress = first_progress(server, plan)
        clipping = clipping_of(scenario.privacy)
        weights, released = [progress.weights], []
        for number in range(1, plan.rounds + 1):
            name = f"round-{number:04d}"
            asked = ask_next(progress.schedule, server.devices, server.generator, server.noise, plan.cohort, name)
            norm = progress.clipping_norm
            work = encode(FitWork(progress.weights, 0, norm))
            promises = sum_plans(server, plan.train, Purpose.TRAIN, name, asked.cohort, work, asked.scheduled)
            release, _ = release_groups(server, name, promises, work, plan.rule, asked.noise)
            if release is None:
                continue
            apply_release(scenario, server.trainer, server.rows, plan, progress, release)
            weights.append(progress.weights)
            released.append(np.asarray(clipping.updates(release.total, norm), np.float64))
        return AttackedRun(tuple(weights), tuple(released), plan.planned)


def without_privacy(scenario: Scenario) -> Scenario:
    """The same training, protected by nothing.

    Args:
        scenario: with privacy.
    """
    flat = {"unit": "none", "correlation": "none", "clipping": "fixed"}
    return type(scenario).model_validate(scenario.model_dump() | {"privacy": scenario.privacy.model_dump() | flat})


def with_rows(federation: Federation, kept: dict[DeviceId, Flags]) -> Federation:
    """The federation with some of its training rows.

    Args:
        federation: whole.
        kept: by device, (rows,) which stay; a device that is not named, or keeps no row, is left out.
    """
    devices = {
        device: replace(data, train_x=data.train_x[kept[device]], train_y=data.train_y[kept[device]])
        for device, data in federation.devices.items()
        if device in kept and kept[device].any()
    }
    return replace(federation, devices=devices)


def _unheard(_name: str, _fields: Json) -> None:
    """Nobody listens."""
