"""Running a scenario in this process: a LocalGrid, a ClientApp over simulated devices, and the coordinator."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, RecordDict

from fedinfer.config import Scenario, to_flat
from fedinfer.data import check_against_data, load
from fedinfer.device.respond import DeviceResponder
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.flower.server_app import make_server_app
from fedinfer.ports import Clock, Listener
from fedinfer.simulation.coordinate import coordinate
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import memory_sessions, simulated_host
from fedinfer.types import DeviceId, Json

DEVICES_FOLDER = "devices"


def run_local(scenario: Scenario, folder: Path, clock: Clock, emit: Listener) -> Json:
    """Run a scenario with all devices in this process.

    Args:
        scenario: validated.
        folder: run folder; must exist and be empty.
        clock: time.
        emit: receives every event.

    Returns:
        The run record, as written to run.json.

    Raises:
        FedInferError: bad input before anything is written, or the reason why the run ended early.
    """
    federation = load(scenario)
    check_against_data(scenario, federation)
    host = simulated_host(scenario, federation, folder / DEVICES_FOLDER, clock, memory_sessions())
    devices: list[DeviceId] = sorted(federation.devices)
    responder = DeviceResponder(host)
    client_app = CohortClientApp(lambda context: (devices[int(context.node_config["partition-id"])], responder))
    grid = LocalGrid(client_app, len(devices), to_flat(scenario))
    results: list[Json] = []

    def main(grid: LocalGrid, _: Context) -> None:
        results.append(coordinate(grid, scenario, federation, folder, "local", clock, emit))

    make_server_app(main)(grid, Context(1, 1, {}, RecordDict(), to_flat(scenario)))
    return results[0]
