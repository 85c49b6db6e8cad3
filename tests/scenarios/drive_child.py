"""A coordinator that drives one rollout and kills itself. Not a test: test_rollout_killed.py starts it.

It dies with SIGKILL when it is about to deliver the COUNT-th message of KIND; COUNT 0: it lives to the end. Installs
are written to a file instead of being made; the private sums of looks go through real simulated devices.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from fedinfer.coordinator.context import LEDGER_OWNER, Progress, RunAccount, Server
from fedinfer.coordinator.context import Fleet as Reached
from fedinfer.coordinator.push.rollout import OPERATOR, Steps, drive, settings_of
from fedinfer.messages import HealthReply, Kind, PushReply, PushRequest
from fedinfer.ports import Answer, Ask
from fedinfer.privacy import SecureStream, WindowRows
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Budget, Ledger
from fedinfer.privacy.charges import protected_of
from fedinfer.rollout.controller import Approval, begin
from fedinfer.rollout.state import RolloutStore
from fedinfer.rollout.waves import Wave
from fedinfer.store import open_store
from fedinfer.system import SystemClock, SystemEntropy, simulation_rng
from fedinfer.wire import decode, encode
from tests.protocol.fleet import Fleet, settings, simulated
from tests.unit.inference.device_world import make_manifest, make_model

DEVICES = 12
NAME = "run-v2"
EXTRA = """
[rollout]
waves = [0.25, 0.5, 1.0]
canary_epsilon = 0.5
on_hold = "proceed"
unjudgeable = "hold"
"""


@dataclass
class Mortal:
    """A transport that takes its process with it."""

    fleet: Fleet
    pushed: Path
    kind: str
    left: int

    def devices(self) -> list[str]:
        return sorted(self.fleet.roster)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> list[Answer]:
        return [self._one(ask, timeout_seconds) for ask in asks]

    def _one(self, ask: Ask, timeout_seconds: float) -> Answer:
        if ask.kind == self.kind:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        if ask.kind == Kind.HEALTH:
            return Answer(ask.device, encode(HealthReply(0, "", 0)))
        if ask.kind == Kind.PUSH:
            version = decode(PushRequest, ask.common).version
            with self.pushed.open("a") as file:
                file.write(f"{ask.device} {version}\n")
            return Answer(ask.device, encode(PushReply(True, version, "")))
        return self.fleet.post.ask([ask], timeout_seconds)[0]


def main(folder: Path, kind: str, count: int) -> None:
    scenario = settings(EXTRA)
    fleet = simulated(folder, scenario, DEVICES)
    ledger = Ledger(
        open_store(folder / "ledger.sqlite", "privacy", LEDGER_MIGRATIONS), protected_of(scenario.privacy.unit)
    )
    ledger.open_account(LEDGER_OWNER, "run", Budget(scenario.privacy.epsilon, scenario.privacy.delta))
    clock, rollouts = SystemClock(), RolloutStore(folder / "rollout.sqlite")
    parts: dict[str, Any] = {
        "scenario": scenario,
        "run_id": "run",
        "devices": fleet.roster,
        "transport": Mortal(fleet, folder / "pushed.txt", kind, count),
        "clock": clock,
        "simulated": True,
        "entropy": SystemEntropy(),
        "noise": lambda round_id: SecureStream(),
        "generator": lambda use: simulation_rng("killed", use),
        "ledger": ledger,
        "repository": SimpleNamespace(
            bundle=lambda version, active_sha256: {"model": b"%d" % version},
            manifest=lambda version: make_manifest(version, {"float": make_model()}),
            versions=lambda: (),
        ),
        "rollouts": rollouts,
        "promise": b"",
        "windows": WindowRows.HELD_OUT,
        "emit": lambda name, fields: None,
    }
    parts["account"] = RunAccount(ledger, "run", clock)
    parts["fleet"] = Reached(fleet.roster, parts["transport"], scenario.training.deadline_seconds)
    server, devices = cast(Server, SimpleNamespace(**parts)), sorted(fleet.roster)
    if NAME not in rollouts.names():
        waves = [Wave(fraction) for fraction in scenario.rollout.waves]
        gates = settings_of(scenario.rollout, fleet.plan, compared=True)
        state = begin(NAME, "2", "1", {device: {} for device in devices}, waves, gates, Approval.NONE)
        rollouts.start(state, OPERATOR, clock.now())
    steps = Steps()
    progress = Progress(np.zeros(1, np.float32), None, 1.0, version=2)
    done = drive(server, fleet.plan, progress, NAME, dict.fromkeys(devices, 0), steps)
    print(json.dumps({"phase": str(done.phase), "row": steps.record().to_json()}))
