"""The coordinator of a simulation, over any Flower grid: real loop, seeded randomness, metrics on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flwr.serverapp import Grid

from fedinfer.artifact import Keys, Repository, generate_keys
from fedinfer.config import Scenario, weighted
from fedinfer.coordinator import (
    GivenModel,
    Keeper,
    NotKept,
    Population,
    RunPlan,
    Server,
    Site,
    Witness,
    carry_out,
    make_plan,
    start_up,
)
from fedinfer.data import Federation
from fedinfer.flower import GridTransport, build_id
from fedinfer.ports import Adder, Clock, Listener
from fedinfer.privacy import SimulatedStream
from fedinfer.secagg import Challenge, seconds_of, validation
from fedinfer.simulation.local_nodes import LocalNodes
from fedinfer.simulation.population import simulated_authority, simulated_revocations, simulated_rows
from fedinfer.simulation.world import SimulationKeeper, simulation_keys
from fedinfer.system import SimulatedEntropy, SystemEntropy, simulation_rng
from fedinfer.training import Checkpoint, Trainer, load_trainer
from fedinfer.types import Json

RUN_ID = "simulation"


def plan_simulation(
    scenario: Scenario, federation: Federation, dimension: int, engine: str, *, given: bool = False
) -> RunPlan:
    """Plan a run from the federation alone, before any device is asked.

    Args:
        scenario: what was asked for.
        federation: its data.
        dimension: how many parameters are tuned, >= 1.
        engine: name of the grid, for the record.
        given: the model was trained elsewhere.

    Raises:
        ConfigError: the cohort cannot be protected as asked, or the budget is too small for a useful round.
    """
    return make_plan(scenario, simulated_population(federation, dimension, given=given), engine, federation.warnings)


def simulated_population(federation: Federation, dimension: int, *, given: bool) -> Population:
    """Public facts about the devices of a federation.

    Args:
        federation: every device has training rows.
        dimension: number of tuned parameters, >= 1.
        given: the model was trained elsewhere.
    """
    rows = [len(device.train_y) for device in federation.devices.values()]
    schema = federation.schema
    return Population(len(rows), sum(rows), min(rows), dimension, schema.classes, given, schema)


def run_simulation(
    grid: Grid,
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    engine: str,
    clock: Clock,
    emit: Listener,
    adder: Adder | None = None,
    kept: Checkpoint | None = None,
    given: GivenModel | None = None,
) -> Json:
    """Enrol all nodes of a grid and run the scenario, from its beginning or from where another process left it.

    Args:
        grid: reaches the devices.
        scenario: what is simulated.
        federation: its rows.
        folder: run folder, with the note of `begin_world`.
        engine: name of the grid, for the record.
        clock: time.
        emit: receives every event.
        adder: adds up vectors of devices in this process; None: every device answers by itself.
        kept: from `put_back`; None: the run begins.
        given: the model, where it was trained elsewhere.

    Returns:
        The run record.

    Raises:
        FedInferError: see fedinfer.coordinator.run.
    """
    entropy = rotation_entropy(scenario)
    if kept is not None:
        entropy.take(int(kept.header["entropy"]))
    lasting = Lasting(entropy, simulation_keys(folder), SimulationKeeper(folder, entropy))
    server, plan = open_server(grid, scenario, federation, folder, engine, clock, emit, adder, lasting, given)
    return carry_out(server, plan, kept)


@dataclass(frozen=True, slots=True)
class Lasting:
    """What of a simulation outlives its process.

    Args:
        entropy: for rotation and grouping seeds, at its place.
        keys: of the update channel.
        keeper: keeps the state of the run.
    """

    entropy: SimulatedEntropy
    keys: Keys
    keeper: Keeper


def nothing_lasts(scenario: Scenario) -> Lasting:
    """For a run that nobody goes on with.

    Args:
        scenario: with its seed.
    """
    return Lasting(rotation_entropy(scenario), generate_keys(SystemEntropy()), NotKept())


def rotation_entropy(scenario: Scenario) -> SimulatedEntropy:
    """The stream of a simulation's rotation and grouping seeds, from its beginning.

    Args:
        scenario: with its seed.
    """
    return SimulatedEntropy(scenario.scenario.seed, "rotation")


def open_server(
    grid: Grid,
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    engine: str,
    clock: Clock,
    emit: Listener,
    adder: Adder | None = None,
    lasting: Lasting | None = None,
    given: GivenModel | None = None,
) -> tuple[Server, RunPlan]:
    """Enrol all nodes of a grid and plan the run. Nothing was asked of anybody's data.

    Args:
        grid: Flower's.
        scenario: what was asked for.
        federation: its data.
        folder: of the run.
        engine: name of the grid, for the record.
        clock: time.
        emit: receives every event.
        adder: as in `run_simulation`.
        lasting: what outlives this process; None: `nothing_lasts`.
        given: the model, where it was trained elsewhere.

    Raises:
        FedInferError: nobody joins, or the plan is not possible.
    """
    lasting = lasting or nothing_lasts(scenario)
    scenario = weighted(scenario, federation.schema.labels, federation.public[1])
    seed = scenario.scenario.seed
    revocations, rows = simulated_revocations(seed), simulated_rows(scenario, federation)
    trainer = _trainer(scenario, federation, given)
    site = Site(
        engine=engine,
        scenario=scenario,
        schema=federation.schema,
        challenge=Challenge.draw(RUN_ID, build_id(), SystemEntropy()),
        against=validation(simulated_authority(seed).public_bytes, revocations, seconds_of(clock.now())),
        revocations=revocations,
        nodes=GridTransport(grid) if adder is None else LocalNodes(GridTransport(grid), adder),
        repository=Repository(folder / "artifacts", lasting.keys, clock, lambda _: None),
        trainer=trainer,
        public=federation.public,
        judged=rows.judged,
        witness=Witness(rows.held_out, rows.pooled, rows.all_streams),
        entropy=lasting.entropy,
        noise=lambda round_id: SimulatedStream(SimulatedEntropy(seed, "central", round_id)),
        generator=lambda use: simulation_rng(seed, "server", use),
        simulated=True,
        population=simulated_population(federation, 1 if given else trainer.dimension, given=given is not None),
        warnings=federation.warnings,
        folder=folder,
        clock=clock,
        emit=emit,
        keeper=lasting.keeper,
        rest=lambda _seconds: None,
        given=given,
    )
    return start_up(site)


def _trainer(scenario: Scenario, federation: Federation, given: GivenModel | None) -> Trainer:
    if given is not None:
        return cast("Trainer", given)  # a run without rounds asks it for no more than `GivenModel` has
    return load_trainer(scenario.model, federation.schema, scenario.training, scenario.scenario.seed)
