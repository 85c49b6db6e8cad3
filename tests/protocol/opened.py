"""An opened run: real coordinator and device code in one process, both sides at hand, round by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedinfer.config import Scenario
from fedinfer.coordinator.aggregate.groups import RoundSum
from fedinfer.coordinator.aggregate.promise import sum_plans
from fedinfer.coordinator.aggregate.release import Release, release_groups
from fedinfer.coordinator.context import LEDGER_OWNER, Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.run import budget_of, first_progress
from fedinfer.coordinator.train.round import training_round
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.messages import FitWork, Purpose, SumPlan
from fedinfer.ports import Answer, Ask
from fedinfer.simulation.coordinate import open_server
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.system import SystemClock
from fedinfer.types import Json
from fedinfer.wire import encode
from tests.protocol.fleet import federation


@dataclass
class Run:
    """An opened run: both sides, before the first round."""

    server: Server
    plan: RunPlan
    host: Host
    progress: Progress
    events: list[tuple[str, Json]]

    def round(self, reason: str = "initial") -> Json:
        training_round(self.server, self.plan, self.progress, reason)
        return self.progress.rounds[-1].to_json()

    @property
    def work(self) -> bytes:
        return encode(FitWork(self.progress.weights, 0, self.progress.clipping_norm))

    def plans(self, round_id: str = "round-0001") -> tuple[SumPlan, ...]:
        everyone = tuple(sorted(self.server.devices))
        return sum_plans(self.server, self.plan.train, Purpose.TRAIN, round_id, everyone, self.work)

    def release(self, round_id: str = "round-0001") -> tuple[Release | None, RoundSum]:
        return release_groups(self.server, round_id, self.plans(round_id), self.work, self.plan.rule)

    def through(self, change: Callable[[Sequence[Ask], list[Answer]], list[Answer]]) -> None:
        """Whatever devices answer passes `change` first."""
        self.server = replace(self.server, transport=Between(self.server.transport, change))


@dataclass
class Between:
    inner: Any
    change: Callable[[Sequence[Ask], list[Answer]], list[Answer]]

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> list[Answer]:
        return self.change(asks, list(self.inner.ask(asks, timeout_seconds)))


def opened(folder: Path, scenario: Scenario, devices: int) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    data, clock = federation(devices), SystemClock()
    host = simulated_host(scenario, data, folder / "devices", clock, Processes.ONE)
    names, responder, events = sorted(data.devices), DeviceResponder(host), []
    app = CohortClientApp(lambda context: (names[int(context.node_config["partition-id"])], responder))
    grid = LocalGrid(app, devices, {})
    server, plan = open_server(grid, scenario, data, folder, "test", clock, lambda *event: events.append(event))
    server.ledger.open_account(LEDGER_OWNER, server.run_id, budget_of(scenario))
    return Run(server, plan, host, first_progress(server, plan), events)
