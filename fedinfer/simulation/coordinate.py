"""The coordinator of a simulation, over any Flower grid: real loop, seeded randomness, metrics on held-out rows."""

from __future__ import annotations

from pathlib import Path

from flwr.serverapp import Grid

from fedinfer.artifact import Repository, generate_keys
from fedinfer.config import Scenario, weighted
from fedinfer.coordinator import Population, RunPlan, Server, Site, Witness, carry_out, make_plan, start_up
from fedinfer.data import Federation
from fedinfer.flower import GridTransport, build_id
from fedinfer.ports import Adder, Clock, Listener
from fedinfer.privacy import SimulatedStream
from fedinfer.secagg import Challenge, seconds_of, validation
from fedinfer.simulation.local_nodes import LocalNodes
from fedinfer.simulation.population import simulated_authority, simulated_revocations, simulated_rows
from fedinfer.system import SimulatedEntropy, SystemEntropy, simulation_rng
from fedinfer.training import Trainer, load_trainer
from fedinfer.types import Json

RUN_ID = "simulation"


def plan_simulation(scenario: Scenario, federation: Federation, trainer: Trainer, engine: str) -> RunPlan:
    """Plan a run from the federation alone, before any device is asked.

    Args:
        scenario: what was asked for.
        federation: its data.
        trainer: knows how many parameters are tuned.
        engine: name of the grid, for the record.

    Raises:
        ConfigError: the cohort cannot be protected as asked, or the budget is too small for a useful round.
    """
    return make_plan(scenario, simulated_population(federation, trainer), engine, federation.warnings)


def simulated_population(federation: Federation, trainer: Trainer) -> Population:
    """Public facts about the devices of a federation.

    Args:
        federation: every device has training rows.
        trainer: knows the number of tuned parameters.
    """
    rows = [len(device.train_y) for device in federation.devices.values()]
    return Population(len(rows), sum(rows), min(rows), trainer.dimension, federation.schema.classes)


def run_simulation(
    grid: Grid,
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    engine: str,
    clock: Clock,
    emit: Listener,
    adder: Adder | None = None,
) -> Json:
    """Enrol all nodes of a grid and run the scenario.

    Args:
        grid: reaches the devices.
        scenario: what is simulated.
        federation: its rows.
        folder: run folder; must exist.
        engine: name of the grid, for the record.
        clock: time.
        emit: receives every event.
        adder: adds up vectors of devices in this process; None: every device answers by itself.

    Returns:
        The run record.

    Raises:
        FedInferError: see fedinfer.coordinator.run.
    """
    return carry_out(*open_server(grid, scenario, federation, folder, engine, clock, emit, adder))


def open_server(
    grid: Grid,
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    engine: str,
    clock: Clock,
    emit: Listener,
    adder: Adder | None = None,
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

    Raises:
        FedInferError: nobody joins, or the plan is not possible.
    """
    scenario = weighted(scenario, federation.schema.labels, federation.public[1])
    seed = scenario.scenario.seed
    revocations, rows = simulated_revocations(seed), simulated_rows(scenario, federation)
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, seed)
    site = Site(
        engine=engine,
        scenario=scenario,
        schema=federation.schema,
        challenge=Challenge.draw(RUN_ID, build_id(), SystemEntropy()),
        against=validation(simulated_authority(seed).public_bytes, revocations, seconds_of(clock.now())),
        revocations=revocations,
        nodes=GridTransport(grid) if adder is None else LocalNodes(GridTransport(grid), adder),
        repository=Repository(folder / "artifacts", generate_keys(SystemEntropy()), clock, lambda _: None),
        trainer=trainer,
        public=federation.public,
        judged=rows.judged,
        witness=Witness(rows.held_out, rows.pooled, rows.all_streams),
        entropy=SimulatedEntropy(seed, "rotation"),
        noise=lambda round_id: SimulatedStream(SimulatedEntropy(seed, "central", round_id)),
        generator=lambda use: simulation_rng(seed, "server", use),
        simulated=True,
        population=simulated_population(federation, trainer),
        warnings=federation.warnings,
        folder=folder,
        clock=clock,
        emit=emit,
    )
    return start_up(site)
