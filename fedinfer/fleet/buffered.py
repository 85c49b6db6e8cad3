"""Buffered asynchronous rounds (Nguyen et al. 2022, *Federated learning with buffered asynchronous aggregation*).

Devices work all the time, each with the model that was newest when it began. An answer that is s versions old weighs
(1 + s)^-a (section 5 of the paper: a = 1/2), which the device applies after clipping, because a secure sum hides single
answers. Every K answers are summed, divided by K, and make a new version (Algorithm 1).

A device is busy until the sum that holds its answer is released, so no sum holds two of its answers.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.fleet.draws import Devices
from fedinfer.fleet.jobs import Fate, begin_jobs
from fedinfer.fleet.server import VirtualServer
from fedinfer.fleet.state import FleetKeeper, restore, to_checkpoint
from fedinfer.fleet.sums import Chunk, chunks_of
from fedinfer.fleet.tally import TOO_STALE, USED
from fedinfer.fleet.waiting import STEP_SECONDS, ClockPatience
from fedinfer.system import simulation_rng
from fedinfer.training import Checkpoint
from fedinfer.types import FloatVector, Json

REFILL = 50
"""Free places are filled when at least a fiftieth of all is free: one draw then serves several."""


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """The end of a job; ordered by time, then by number, so that the order is the same everywhere.

    Args:
        end: virtual seconds.
        number: of the job.
        device: who worked.
        began: virtual seconds.
        version: of the model that it began with.
        fate: how it ended.
        watt_hours: that it took.
    """

    end: float
    number: int
    device: int = field(compare=False)
    began: float = field(compare=False)
    version: int = field(compare=False)
    fate: int = field(compare=False)
    watt_hours: float = field(compare=False)


@dataclass(slots=True)
class Flow:
    """What is under way.

    Args:
        server: of the run.
        rng: of the selection.
        coming: ends of jobs, a heap.
        buffer: answers that wait for their sum.
        versions: weights that jobs under way, or answers in the buffer, began with.
        begun: number of jobs so far.
        look_again: virtual seconds before which nobody is looked for.
    """

    server: VirtualServer
    rng: np.random.Generator
    coming: list[Arrival] = field(default_factory=list)
    buffer: list[Arrival] = field(default_factory=list)
    versions: dict[int, FloatVector] = field(default_factory=dict)
    begun: int = 0
    look_again: float = 0.0

    @property
    def version(self) -> int:
        """Number of the newest model."""
        return len(self.server.releases)


def run_buffered(server: VirtualServer, keeper: FleetKeeper, kept: Checkpoint | None) -> None:
    """All releases of a scenario.

    Args:
        server: at its beginning; it is moved on.
        keeper: gets the state after each sum.
        kept: state of a process that is gone; None: the run begins.

    Raises:
        ConfigError: the state is of another run.
        TooFewSurvivors: no buffer was filled for days of virtual time.
    """
    flow = Flow(server, simulation_rng(server.seed, "fleet", "selection"))
    if kept is not None:
        _take_up(flow, restore(server, flow.rng, kept), kept.arrays)
    patience = ClockPatience(server)
    while flow.version < server.fixed.scenario.training.rounds:
        # Where too few are ready, looking for them costs much: that is not done at every arrival.
        if server.now >= flow.look_again and not _refill(flow):
            flow.look_again = server.now + STEP_SECONDS
        if not flow.coming:
            patience.wait("a full buffer")
            continue
        _arrive(flow, heapq.heappop(flow.coming))
        while flow.coming and flow.coming[0].end <= server.now and len(flow.buffer) < server.fixed.budget.answers:
            _arrive(flow, heapq.heappop(flow.coming))  # of the same moment: before anybody new begins
        patience.check("a full buffer")
        if len(flow.buffer) == server.fixed.budget.answers:
            _release(flow)
            patience.renew()
            keeper.keep(partial(_state, flow))


def _state(flow: Flow) -> Checkpoint:
    """The state after a sum: the buffer is empty then."""
    jobs = np.array([astuple(arrival) for arrival in flow.coming], dtype=np.float64).reshape(-1, len(fields(Arrival)))
    numbers = sorted(flow.versions)
    weights = [flow.versions[number] for number in numbers]
    arrays: dict[str, npt.NDArray[Any]] = {
        "jobs": jobs,  # numbers below 2^53 are exact in double precision
        "versions": np.array(numbers, np.int64),
        "version_weights": np.stack(weights) if weights else np.zeros((0, len(flow.server.weights)), np.float32),
    }
    return to_checkpoint(flow.server, flow.rng, {"begun": flow.begun, "look_again": flow.look_again}, arrays)


def _take_up(flow: Flow, mode: Json, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Inverse of `_state`; a heap stays one, because its order is kept."""
    flow.begun, flow.look_again = int(mode["begun"]), float(mode["look_again"])
    flow.coming = [
        Arrival(end, int(number), int(device), began, int(version), int(fate), watt_hours)
        for end, number, device, began, version, fate, watt_hours in arrays["jobs"].tolist()
    ]
    flow.versions = dict(zip(arrays["versions"].tolist(), arrays["version_weights"], strict=True))


def _refill(flow: Flow) -> bool:
    """Ask devices until all places are taken; False where too few are ready."""
    server, fixed = flow.server, flow.server.fixed
    places = fixed.scenario.fleet.clock.concurrency or fixed.scenario.training.cohort or fixed.budget.answers
    free = places - len(flow.coming)
    if free < max(1, places // REFILL):
        return True
    devices = server.registry.select(free, server.now, flow.rng)
    if len(devices):
        _begin(flow, devices)
    return len(devices) == free


def _begin(flow: Flow, devices: Devices) -> None:
    server, fixed, now = flow.server, flow.server.fixed, flow.server.now
    rows = fixed.work.rows_of(fixed.rows.training_sizes_of(devices))
    jobs = begin_jobs(server.registry, fixed.scenario.fleet, fixed.work, devices, rows, now, flow.begun)
    server.registry.busy[devices] = True
    server.registry.spend(devices, jobs.watt_hours, now)
    server.tally.asked += len(devices)
    server.tally.down_bytes += fixed.work.down * len(devices)
    flow.versions[flow.version] = server.weights
    entries = zip(devices.tolist(), jobs.end.tolist(), jobs.fate.tolist(), jobs.watt_hours.tolist(), strict=True)
    for device, end, fate, watt_hours in entries:
        heapq.heappush(flow.coming, Arrival(end, flow.begun, device, now, flow.version, fate, watt_hours))
        flow.begun += 1


def _arrive(flow: Flow, arrival: Arrival) -> None:
    """One job is over: into the buffer, or the device is free again."""
    server = flow.server
    server.now = max(server.now, arrival.end)
    if arrival.fate == Fate.ANSWERED:
        server.tally.up_bytes += server.fixed.work.up
        if flow.version - arrival.version <= server.fixed.scenario.fleet.clock.max_staleness:
            flow.buffer.append(arrival)
            return
        server.tally.count(TOO_STALE, 1, arrival.watt_hours)
    else:
        server.tally.count_fates(np.array([arrival.fate]), np.array([arrival.watt_hours]))
    server.registry.busy[arrival.device] = False


def _release(flow: Flow) -> None:
    """Sum the buffer: answers of one version train together."""
    server, version = flow.server, flow.version
    chunks: list[Chunk] = []
    for begun in sorted({arrival.version for arrival in flow.buffer}):
        some = [arrival for arrival in flow.buffer if arrival.version == begun]
        devices = np.array([arrival.device for arrival in some])
        began = np.array([arrival.began for arrival in some])
        scales = np.full(
            len(some), staleness_weight(version - begun, server.fixed.scenario.fleet.clock.staleness_power)
        )
        chunks += chunks_of(version, devices, began, scales, flow.versions[begun], server.fixed.budget.mechanism)
    staleness = np.array([version - arrival.version for arrival in flow.buffer], dtype=np.float64)
    server.tally.count(USED, len(flow.buffer), sum(arrival.watt_hours for arrival in flow.buffer))
    server.release(chunks, server.fixed.budget.answers, staleness)
    server.registry.busy[[arrival.device for arrival in flow.buffer]] = False
    flow.buffer = []
    wanted = {arrival.version for arrival in flow.coming}
    flow.versions = {number: weights for number, weights in flow.versions.items() if number in wanted}


def staleness_weight(versions: int, power: float) -> float:
    """(1 + s)^-a (Nguyen et al. 2022, section 5), at most 1.

    Args:
        versions: s >= 0, by which an answer is old.
        power: a >= 0.
    """
    return float((1 + versions) ** -power)
