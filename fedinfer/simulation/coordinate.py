"""The coordinator of a simulation, over any Flower grid: real loop, drawn randomness, pooled held-out rows judged."""

from __future__ import annotations

from pathlib import Path

from flwr.serverapp import Grid

from fedinfer.artifact.export.torch import Templates
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.signing import generate_keys
from fedinfer.config import Scenario
from fedinfer.coordinator.context import Server
from fedinfer.coordinator.enrolment import join
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.run_plan import RunPlan, make_plan
from fedinfer.coordinator.run import run
from fedinfer.data import Federation
from fedinfer.flower.records import build_id
from fedinfer.flower.transport import GridTransport
from fedinfer.ports import Clock, Listener
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Ledger
from fedinfer.privacy.charges import relation_of
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.private_files import private_folder
from fedinfer.rollout.state import RolloutStore
from fedinfer.secagg.enrolment import Challenge, validation
from fedinfer.secagg.revocation import seconds_of
from fedinfer.simulation.population import simulated_authority, simulated_revocations, simulated_rows
from fedinfer.store import open_store
from fedinfer.system import SimulatedEntropy, SystemEntropy, simulation_rng
from fedinfer.training.trainer import Trainer, load_trainer
from fedinfer.types import DeviceId, Json

RUN_ID = "simulation"


def plan_simulation(scenario: Scenario, federation: Federation, trainer: Trainer, engine: str) -> RunPlan:
    """Plan a run from the federation alone, before any device is asked.

    Raises:
        ConfigError: see fedinfer.coordinator.plan.run_plan.
    """
    rows = [len(device.train_y) for device in federation.devices.values()]
    population = Population(len(rows), sum(rows), min(rows), trainer.dimension, federation.schema.classes)
    return make_plan(scenario, population, engine, federation.warnings)


def coordinate(
    grid: Grid,
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    engine: str,
    clock: Clock,
    emit: Listener,
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

    Returns:
        The run record.

    Raises:
        FedInferError: see fedinfer.coordinator.run.
    """
    return run(*open_server(grid, scenario, federation, folder, engine, clock, emit))


def open_server(
    grid: Grid,
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    engine: str,
    clock: Clock,
    emit: Listener,
) -> tuple[Server, RunPlan]:
    """Enrol all nodes of a grid and plan the run; arguments as in `coordinate`. Nothing was asked of anybody's data.

    Raises:
        FedInferError: when nobody joins, or the plan is not possible.
    """
    seed = scenario.scenario.seed
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, seed)
    plan = plan_simulation(scenario, federation, trainer, engine)
    transport = GridTransport(grid)
    challenge = Challenge.draw(RUN_ID, build_id(), SystemEntropy())
    revocations = simulated_revocations(seed)
    against = validation(simulated_authority(seed).public_bytes, revocations, seconds_of(clock.now()))
    deadline = scenario.training.deadline_seconds
    members = transport.enroll(against, challenge, deadline, emit)
    repository = Repository(folder / "artifacts", generate_keys(SystemEntropy()), clock, lambda _: None)
    root = repository.trusted_root()
    rows, _ = join(members, challenge, scenario, federation.schema, revocations, root, transport, deadline)
    devices = {member.device: member.public_key for member in members if member.device in rows}
    server = _server(scenario, federation, folder, trainer, transport, devices, rows, repository, clock, emit)
    return server, plan


def _server(
    scenario: Scenario,
    federation: Federation,
    folder: Path,
    trainer: Trainer,
    transport: GridTransport,
    devices: dict[DeviceId, bytes],
    rows: dict[DeviceId, int],
    repository: Repository,
    clock: Clock,
    emit: Listener,
) -> Server:
    seed = scenario.scenario.seed
    private_folder(folder / "checkpoints")
    connection = open_store(folder / "ledger.sqlite", "privacy", LEDGER_MIGRATIONS)
    return Server(
        scenario=scenario,
        schema=federation.schema,
        run_id=RUN_ID,
        devices=devices,
        rows=rows,
        transport=transport,
        clock=clock,
        entropy=SimulatedEntropy(seed, "rotation"),
        noise=lambda round_id: SimulatedStream(SimulatedEntropy(seed, "central", round_id)),
        generator=lambda use: simulation_rng(seed, "server", use),
        ledger=Ledger(connection, relation_of(scenario.privacy.unit)),
        trainer=trainer,
        public=federation.public,
        judged=simulated_rows(scenario, federation).judged,
        repository=repository,
        rollouts=RolloutStore(folder / "rollout.sqlite"),
        templates=Templates(),
        folder=folder,
        emit=emit,
    )
