"""A virtual run from its scenario to its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario, to_flat
from fedinfer.data import LazyRows, lazy_rows
from fedinfer.errors import ConfigError
from fedinfer.fleet.availability import availability_of
from fedinfer.fleet.budget import SumBudget, plan_budget
from fedinfer.fleet.buffered import run_buffered
from fedinfer.fleet.devices import capacities_of
from fedinfer.fleet.jobs import JobSize
from fedinfer.fleet.selection import Registry
from fedinfer.fleet.server import Fixed, VirtualServer
from fedinfer.fleet.state import FleetKeeper, NothingKept, fingerprint
from fedinfer.fleet.sums import Bench, Workers
from fedinfer.fleet.synchronous import run_synchronous
from fedinfer.fleet.tally import fairness
from fedinfer.metrics import Metric, judged_by
from fedinfer.ports import Listener
from fedinfer.secagg import packed_size
from fedinfer.training import Checkpoint, OptimizerSettings, init_optimizer
from fedinfer.types import Json, Unit

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class PreparedFleet:
    """A virtual run that can begin: nothing can be wrong with its input any more.

    Args:
        scenario: of the run.
        bench: makes sums in this process.
        budget: noise, and how often a device may take part.
        registry: devices.
        metric: by which the model is judged.
    """

    scenario: Scenario
    bench: Bench
    budget: SumBudget
    registry: Registry
    metric: Metric


def prepare_fleet(scenario: Scenario) -> PreparedFleet:
    """Read the data, draw the devices and plan the noise.

    Args:
        scenario: what was asked for.

    Raises:
        ConfigError: scenario, data or traces are wrong, or the noise does not fit the budget.
    """
    rows = lazy_rows(scenario)
    _check(scenario, rows)
    clock = scenario.fleet.clock
    answers = clock.buffer if clock.rounds == "buffered" else scenario.training.cohort or rows.devices
    if answers > rows.devices:
        raise ConfigError(
            f"{answers} answers are wanted in a sum: the population has {rows.devices} devices",
            hint="a smaller training.cohort or fleet.clock.buffer, or more data.partition.devices",
        )
    capacities = capacities_of(scenario, rows.devices)
    availability = availability_of(scenario, capacities)
    asked = scenario.training.metric
    metric = judged_by(Metric(asked) if asked else None, (), rows.schema.classes).metric
    bench = Bench(scenario, rows)
    budget = plan_budget(scenario, bench.trainer.dimension, answers)
    registry = Registry(capacities, availability, clock, budget.participations, scenario.scenario.seed)
    return PreparedFleet(scenario, bench, budget, registry, metric)


def _check(scenario: Scenario, rows: LazyRows) -> None:
    if scenario.privacy.unit is Unit.DEVICE and scenario.privacy.delta >= 1 / rows.devices:
        raise ConfigError(
            f"[privacy] delta = {scenario.privacy.delta}: with {rows.devices} devices it must be below "
            f"{1 / rows.devices:g}",
            hint=f"--set privacy.delta={0.1 / rows.devices:.0e}",
        )
    if not scenario.training.rounds:
        raise ConfigError("[training] rounds = 0: a virtual fleet has nothing to do", hint="--rounds 20")


def world_of(prepared: PreparedFleet) -> str:
    """SHA-256 of what a run reads from files: rows, capacities, availability. A run goes on in the same world alone.

    Args:
        prepared: from `prepare_fleet`.
    """
    registry = prepared.registry
    return fingerprint(prepared.bench.rows.held.read() | _arrays(registry.capacities) | _arrays(registry.availability))


def _arrays(data: object) -> dict[str, npt.NDArray[Any]]:
    found = {field.name: getattr(data, field.name) for field in fields(data)} if is_dataclass(data) else {}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def run_fleet(
    prepared: PreparedFleet,
    workers: Workers | None,
    emit: Listener,
    keeper: FleetKeeper | None = None,
    kept: Checkpoint | None = None,
) -> Json:
    """Run under the virtual clock.

    Args:
        prepared: from `prepare_fleet`; a run changes its registry, so it serves once.
        workers: make the sums; None: this process.
        emit: receives every event: `planned` or `resumed`, `released`, `finished`.
        keeper: gets the state after each sum; None: nobody goes on with this run.
        kept: state of a process that is gone, of the same scenario; None: the run begins.

    Returns:
        The record, as it goes into fleet.json.

    Raises:
        ConfigError: the state is of another run.
        TooFewSurvivors: too few devices were ready for days of virtual time.
    """
    server, keeper = _server(prepared, workers or prepared.bench, emit), keeper or NothingKept()
    if kept is None:
        emit("planned", _planned(prepared))
        server.start = server.judge()
    modes: dict[str, Callable[[VirtualServer, FleetKeeper, Checkpoint | None], None]] = {
        "synchronous": run_synchronous,
        "buffered": run_buffered,
    }
    modes[prepared.scenario.fleet.clock.rounds](server, keeper, kept)
    record = _record(prepared, server)
    emit("finished", {"seconds": server.now, "metric": record["metric"]["end"]})
    return record


def _server(prepared: PreparedFleet, workers: Workers, emit: Listener) -> VirtualServer:
    scenario, training, trainer = prepared.scenario, prepared.scenario.training, prepared.bench.trainer
    optimizer = OptimizerSettings(training.server_optimizer, training.server_learning_rate, training.server_momentum)
    mechanism = prepared.budget.mechanism
    work = JobSize(
        passes=0 if training.local_steps else training.local_epochs,
        rows=training.local_steps * training.batch_size,
        down=FLOAT_BYTES * trainer.size,
        up=packed_size(mechanism.padded, mechanism.bits),
    )
    fixed = Fixed(
        scenario, prepared.bench.rows, trainer, prepared.budget, work, optimizer, prepared.metric, workers, emit
    )
    return VirtualServer(fixed, prepared.registry, trainer.initial(), init_optimizer(optimizer, trainer.dimension))


def _planned(prepared: PreparedFleet) -> Json:
    budget, privacy = prepared.budget, prepared.scenario.privacy
    return {
        "devices": prepared.registry.devices,
        "rounds": prepared.scenario.fleet.clock.rounds,
        "releases": prepared.scenario.training.rounds,
        "answers": budget.answers,
        "metric": str(prepared.metric),
        "parameters": prepared.bench.trainer.dimension,
        "unit": str(privacy.unit),
        "trust": str(privacy.trust),
        "noise_multiplier": budget.noise_multiplier,
        "participations": budget.participations,
        "epsilon": budget.epsilon(budget.participations),
        "delta": budget.delta,
    }


def _record(prepared: PreparedFleet, server: VirtualServer) -> Json:
    found = fairness(server.registry)
    return {
        "schema": 1,
        "scenario": prepared.scenario.scenario.name,
        "settings": to_flat(prepared.scenario),
        "plan": _planned(prepared),
        "metric": {"name": str(prepared.metric), "start": server.start, "end": server.releases[-1]["metric"]},
        "seconds": server.now,
        "target": _target(server),
        "failed_rounds": server.failed,
        "totals": server.tally.to_json(),
        "participation": found,
        "privacy": {
            "most_spent_epsilon": prepared.budget.epsilon(int(found["most"])),
            "planned_epsilon": prepared.budget.epsilon(prepared.budget.participations),
            "amplification": "none",
        },
        "warnings": list(prepared.bench.rows.warnings),
        "releases": server.releases,
    }


def _target(server: VirtualServer) -> Json | None:
    wanted = server.fixed.scenario.fleet.clock.target
    if not wanted:
        return None
    reached = server.reached_target or {}
    names = ("release", "seconds", "down_bytes", "up_bytes", "watt_hours")
    return {"metric": wanted, **{name: reached.get(name) for name in names}}
