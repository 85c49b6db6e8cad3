"""From a site to a server that can run: enrol, join, plan, wire. Simulation and deployment start here alike.

What differs between them (whose randomness, which rows are judged, who the authority is) is in the `Site`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedinfer.artifact import Templates
from fedinfer.config import Scenario, override
from fedinfer.coordinator.context import LEDGER_OWNER, Keeper, Rows, Server, Witness
from fedinfer.coordinator.enrolment import enrol, join
from fedinfer.coordinator.given import GivenModel
from fedinfer.coordinator.judging import judgement_basis
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.drift import AUTO, automatic_names
from fedinfer.coordinator.plan.promised import promise_of
from fedinfer.coordinator.plan.run_plan import RunPlan, make_plan
from fedinfer.coordinator.plan.statement import make_statement
from fedinfer.manifest import Statement
from fedinfer.ports import Clock, Entropy, Listener, Nodes
from fedinfer.privacy import LEDGER_MIGRATIONS, Ledger, NoiseStream, protected_of
from fedinfer.private_files import private_folder
from fedinfer.rollout import RolloutStore
from fedinfer.schema import Schema
from fedinfer.secagg import Challenge, Validation
from fedinfer.store import Durability, open_store
from fedinfer.types import DeviceId

if TYPE_CHECKING:
    from fedinfer.artifact import Repository
    from fedinfer.training import Trainer


@dataclass(frozen=True, slots=True)
class Site:
    """What a server has before it has met a device.

    Args:
        engine: name of the grid, for the record.
        scenario, schema: the task.
        challenge: drawn for this start; holds the run id.
        against: what certificates are checked against.
        revocations: the authority's signed list, for the devices.
        nodes: reaches the devices.
        repository: signed artifacts.
        trainer: numpy in, numpy out.
        public: rows the server may hold; may be empty.
        judged: rows that metrics are computed on, by inference window.
        witness: of a simulation; None: the devices are real.
        entropy: for rotation and grouping seeds, which are public.
        noise: stream for noise that the server adds (trust central), by round.
        generator: numpy generator by purpose.
        simulated: devices are simulated; only then is what they say about their rows and times believed.
        population: what is planned for, where it is known before anybody joins; None: who joins.
        warnings: known before; they come first in the plan's.
        folder: run folder.
        clock: time.
        emit: receives every event.
        keeper: keeps the state of the run after every step.
        rest: waits so many seconds.
        given: the model, where it was trained elsewhere.
    """

    engine: str
    scenario: Scenario
    schema: Schema
    challenge: Challenge
    against: Validation
    revocations: bytes
    nodes: Nodes
    repository: Repository
    trainer: Trainer
    public: Rows
    judged: Callable[[int], Rows]
    witness: Witness | None
    entropy: Entropy
    noise: Callable[[str], NoiseStream]
    generator: Callable[[str], np.random.Generator]
    simulated: bool
    population: Population | None
    warnings: tuple[str, ...]
    folder: Path
    clock: Clock
    emit: Listener
    keeper: Keeper
    rest: Callable[[float], None]
    given: GivenModel | None = None


def start_up(site: Site) -> tuple[Server, RunPlan]:
    """Enrol all nodes, send them the task, and plan the run. Nothing was asked of anybody's data.

    Args:
        site: what the server has before it has met a device.

    Raises:
        TransportError: no node is connected, or none can take part.
        ConfigError: the cohort cannot be protected as asked, or the budget is too small for a useful round.
    """
    deadline = site.scenario.training.deadline_seconds
    members = enrol(site.nodes, site.against, site.challenge, deadline, site.emit)
    site = replace(site, scenario=_named(site, len(members)))
    root = site.repository.trusted_root()
    rows, refused = join(
        members, site.challenge, site.scenario, site.schema, site.revocations, root, site.nodes, deadline
    )
    for device, reason in refused.items():
        site.emit("not_joined", {"device": device, "reason": reason})
    planned = site.population or population_of(site, rows)
    population = replace(planned, schema=site.schema)
    plan = make_plan(site.scenario, population, site.engine, site.warnings)
    keys = {member.device: member.public_key for member in members if member.device in rows}
    return _server(site, keys, rows, population, plan), plan


def _named(site: Site, devices: int) -> Scenario:
    """The scenario that devices get: they are told which channels a report has, not how to choose them."""
    if site.scenario.drift.channels != AUTO:
        return site.scenario
    who = Population(devices, devices, 1, site.trainer.dimension, site.schema.classes, schema=site.schema)
    population = site.population or who
    return override(site.scenario, {"drift.channels": list(automatic_names(site.scenario, population))})


def population_of(site: Site, rows: Mapping[DeviceId, int]) -> Population:
    """Public facts about who joined; a device may have no training rows.

    Args:
        site: knows the model and the schema.
        rows: number of training rows per device that joined, as it signed it.
    """
    counts = [count for count in rows.values() if count] or [1]
    return Population(
        len(rows), sum(counts), min(counts), site.trainer.dimension, site.schema.classes, schema=site.schema
    )


def _statement(site: Site, ledger: Ledger, plan: RunPlan, devices: int) -> Statement:
    """Of this run, and of those before it that the same ledger holds."""
    others = [entry for entry in ledger.entries(LEDGER_OWNER) if entry.task != site.challenge.run_id]
    runs = len({entry.task for entry in others})
    earlier = [entry.event for entry in others]
    return make_statement(site.scenario, site.schema, plan, devices, earlier, runs, real=not site.simulated)


def _server(
    site: Site, devices: dict[DeviceId, bytes], rows: dict[DeviceId, int], population: Population, plan: RunPlan
) -> Server:
    private_folder(site.folder / "checkpoints")
    durability = Durability.PROCESS if site.simulated else Durability.POWER
    database = open_store(site.folder / "ledger.sqlite", "privacy", LEDGER_MIGRATIONS, durability)
    ledger = Ledger(database, protected_of(site.scenario.privacy.unit))
    return Server(
        scenario=site.scenario,
        schema=site.schema,
        run_id=site.challenge.run_id,
        devices=devices,
        rows=rows,
        transport=site.nodes,
        clock=site.clock,
        entropy=site.entropy,
        noise=site.noise,
        generator=site.generator,
        ledger=ledger,
        trainer=site.trainer,
        public=site.public,
        judged=site.judged,
        judged_by=judgement_basis(site.scenario, site.schema, site.judged(0)),
        witness=site.witness,
        statement=_statement(site, ledger, plan, len(devices)),
        promise=promise_of(site.scenario, plan),
        repository=site.repository,
        rollouts=RolloutStore(site.folder / "rollout.sqlite"),
        templates=Templates(),
        simulated=site.simulated,
        folder=site.folder,
        emit=site.emit,
        population=population,
        keeper=site.keeper,
        rest=site.rest,
        given=site.given,
    )
