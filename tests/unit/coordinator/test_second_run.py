"""A later run of the same task on the same devices goes on with the next version."""

from __future__ import annotations

from pathlib import Path

from fedinfer.coordinator.push.publish import publish_version, push_version
from fedinfer.coordinator.run import carry_out, first_progress
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.simulation.coordinate import open_server
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.system import SystemClock
from tests.protocol.fleet import federation, settings


def test_a_second_run_publishes_the_next_version_and_the_devices_take_it(tmp_path: Path) -> None:
    scenario = settings("training.rounds = 1\ndrift.enabled = false")
    clock, rows = SystemClock(), federation()
    host = simulated_host(scenario, rows, tmp_path / "devices", clock, Processes.ONE)
    app = CohortClientApp(lambda context: (f"d{int(context.node_config['partition-id']):02d}", DeviceResponder(host)))
    grid = LocalGrid(app, len(rows.devices), {})
    server, plan = open_server(grid, scenario, rows, tmp_path, "local", clock, lambda name, fields: None)
    first = carry_out(server, plan)
    assert [(row["version"], row["devices_active"]) for row in first["models"]] == [(1, 8)]

    second = first_progress(server, plan)
    publish_version(server, plan, second)
    push_version(server, plan, second)
    assert [(row["version"], row["devices_active"]) for row in (model.to_json() for model in second.models)] == [(2, 8)]
    assert (tmp_path / "checkpoints" / "v1.npz").exists()
