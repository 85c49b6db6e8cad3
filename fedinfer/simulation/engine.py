"""Running a scenario in this process: a LocalGrid, a ClientApp over simulated devices, and the coordinator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from fedinfer.config import Scenario, to_flat
from fedinfer.coordinator import GivenModel, rehearse
from fedinfer.data import Federation, check_against_data, load
from fedinfer.device import DeviceResponder
from fedinfer.errors import ConfigError
from fedinfer.flower import CohortClientApp, make_server_app
from fedinfer.ports import Clock, Listener
from fedinfer.privacy import Event
from fedinfer.simulation.coordinate import plan_simulation, run_simulation
from fedinfer.simulation.folder import alone_in
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.simulation.world import begin_world, begun_scenario, put_back
from fedinfer.system import SystemClock
from fedinfer.training import Checkpoint, GradientEngine, load_trainer
from fedinfer.types import DeviceId, Json

DEVICES_FOLDER = "devices"
LOCAL = "local"
"""Name of this engine, for the record."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scenario whose data was read and whose plan was made: nothing can be wrong with the input any more.

    Args:
        scenario, federation: what is run.
        given: the model, where it was trained elsewhere.
    """

    scenario: Scenario
    federation: Federation
    given: GivenModel | None = None


def prepare_local(scenario: Scenario) -> Prepared:
    """Read the data, plan the run and rehearse it on made-up rows, without writing anything.

    Args:
        scenario: what was asked for.

    Raises:
        FedInferError: scenario or data are wrong, or the plan is not possible.
    """
    return prepare_federation(scenario, load(scenario))


def prepare_federation(scenario: Scenario, federation: Federation) -> Prepared:
    """Plan a run with rows that were read or made already, without writing anything.

    Args:
        scenario: what was asked for.
        federation: its devices and rows.

    Raises:
        FedInferError: scenario and data do not fit, or the plan is not possible.
    """
    check_against_data(scenario, federation)
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, scenario.scenario.seed)
    plan_simulation(scenario, federation, trainer.dimension, LOCAL)
    rehearse(scenario, federation.schema, trainer, GradientEngine.BATCHED, SystemClock())
    return Prepared(scenario, federation)


def planned_events(prepared: Prepared) -> tuple[Event, ...]:
    """Everything that a run may release of private rows, triggered retraining included; nothing is run.

    Args:
        prepared: from `prepare_federation`.

    Returns:
        Events for the accountant; empty without privacy.
    """
    scenario, federation = prepared.scenario, prepared.federation
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, scenario.scenario.seed)
    return plan_simulation(scenario, federation, trainer.dimension, LOCAL).events.all


def run_local(prepared: Prepared, folder: Path, clock: Clock, emit: Listener) -> Json:
    """Run a scenario with all devices in this process.

    Args:
        prepared: from `prepare_local`.
        folder: run folder; must exist and be empty.
        clock: time.
        emit: receives every event.

    Returns:
        The run record, as written to run.json.

    Raises:
        ConfigError: another process works on the folder.
        FedInferError: the reason why the run ended early.
    """
    with alone_in(folder):
        begin_world(folder, prepared.scenario, prepared.federation, LOCAL)
        return _run(prepared, folder, clock, emit, None)


def prepare_again(folder: Path) -> tuple[Prepared, str]:
    """Read the data of a run that did not come to its end.

    Args:
        folder: of the run.

    Returns:
        Its scenario and rows, and the name of its engine.

    Raises:
        ConfigError: there is nothing to go on with, or another program began it.
    """
    scenario, engine = begun_scenario(folder)
    if scenario.data.source == "builtin" and not scenario.data.name:
        raise ConfigError(f"{folder}: a run of an imported model does not go on", hint="run it anew")
    return prepare_local(scenario), engine


def resume_local(prepared: Prepared, folder: Path, clock: Clock, emit: Listener) -> Json:
    """Go on with a run after its last finished step, to the result that it would have had without the interruption.

    Args:
        prepared: from `prepare_again`.
        folder: of the run.
        clock: time.
        emit: receives every event.

    Returns:
        The run record, as written to run.json.

    Raises:
        ConfigError: another process works on the folder, or the rows have changed.
        FedInferError: the reason why the run ended early.
    """
    with alone_in(folder):
        return _run(prepared, folder, clock, emit, put_back(folder, prepared.federation))


def _run(prepared: Prepared, folder: Path, clock: Clock, emit: Listener, kept: Checkpoint | None) -> Json:
    scenario, federation = prepared.scenario, prepared.federation
    host = simulated_host(scenario, federation, folder / DEVICES_FOLDER, clock, Processes.ONE)
    devices: list[DeviceId] = sorted(federation.devices)
    responder = DeviceResponder(host)
    client_app = CohortClientApp(lambda context: (devices[int(context.node_config["partition-id"])], responder))
    flat = to_flat(scenario)
    grid = LocalGrid(client_app, len(devices), flat)
    results: list[Json] = []

    def main(grid: Grid, _: Context) -> None:
        results.append(
            run_simulation(grid, scenario, federation, folder, LOCAL, clock, emit, responder, kept, prepared.given)
        )

    make_server_app(main)(grid, Context(1, 1, {}, RecordDict(), flat))
    return results[0]
