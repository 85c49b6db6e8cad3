"""All six combinations of unit and trust: the noise that runs is the noise that is charged, and nothing is cut off.

One round is run twice with the same seed, with its noise and without: the difference of the two releases is the noise.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedinfer.audit.opening import silenced
from fedinfer.config import Scenario, load_scenario, to_flat
from fedinfer.coordinator.aggregate.groups import Group
from fedinfer.coordinator.aggregate.promise import sum_plan
from fedinfer.coordinator.aggregate.release import Release, release
from fedinfer.coordinator.context import LEDGER_OWNER, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.plan.sum_settings import SumSettings
from fedinfer.coordinator.run import first_progress
from fedinfer.data import load
from fedinfer.device.aggregate.contribution import private_vectors
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.errors import ConfigError
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.messages import ONE_GROUP, FitWork, Purpose, SumPlan
from fedinfer.privacy.accounting.events import GaussianEvent, PoissonSampled, Repeated, SkellamEvent
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.privacy.charges import charge
from fedinfer.privacy.mechanism.mechanism import decoded_sensitivity
from fedinfer.simulation.coordinate import open_server
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.system import SystemClock
from fedinfer.types import Trust, Unit
from fedinfer.wire import encode

ROOT = Path(__file__).parents[2]
COMBINATIONS = [(unit, trust) for unit in (Unit.EXAMPLE, Unit.DEVICE) for trust in Trust]
IDS = [f"{unit}-{trust}" for unit, trust in COMBINATIONS]


@dataclass(frozen=True)
class World:
    scenario: Scenario
    host: Host
    server: Server
    plan: RunPlan


def _world(folder: Path, unit: Unit, trust: Trust, *more: str) -> World:
    """Digits on 200 devices; budgets without end, because a round without noise is part of the test."""
    overrides = [
        "secure_aggregation.mode=ideal", "drift.enabled=false", "rollout.canary_epsilon=0", "fleet.dropout=0",
        f"privacy.unit={unit}", f"privacy.trust={trust}", "training.sampling_rate=0.5", "privacy.local_steps=1", *more,
    ]  # fmt: skip
    scenario, clock = load_scenario("digits", overrides), SystemClock()
    federation = load(scenario)
    host = simulated_host(scenario, federation, folder / "devices", clock, Processes.ONE)
    host.policy = type(host.policy)(**{**_fields(host.policy), "budget": Budget(math.inf, 1e-5)})
    names, responder = sorted(federation.devices), DeviceResponder(host)
    client = CohortClientApp(lambda context: (names[int(context.node_config["partition-id"])], responder))
    grid = LocalGrid(client, len(names), to_flat(scenario))
    server, plan = open_server(grid, scenario, federation, folder, "local", clock, lambda *_: None)
    server.ledger.open_account(LEDGER_OWNER, server.run_id, Budget(math.inf, 1e-5))
    return World(scenario, host, server, plan)


def _fields(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}  # type: ignore[attr-defined] # a slots dataclass


def _promise(world: World, settings: SumSettings, round_id: str) -> tuple[SumPlan, bytes]:
    work = encode(FitWork(first_progress(world.server, world.plan).weights, 0))
    cohort = tuple(sorted(world.server.devices))
    server, group = world.server, Group(round_id, cohort, ONE_GROUP)
    return sum_plan(server.scenario, server.run_id, server.entropy, settings, Purpose.TRAIN, group, work), work


def _released(folder: Path, unit: Unit, trust: Trust, *, noisy: bool) -> tuple[World, Release, SumPlan]:
    world = _world(folder, unit, trust)
    settings = world.plan.train if noisy else silenced(world.plan.train)
    promise, work = _promise(world, settings, "round-0001")
    released, _ = release(world.server, promise, work)
    assert released is not None
    return world, released, promise


def _promised_deviation(world: World) -> float:
    """What theory says about each coordinate of the released sum of 200 devices."""
    settings, privacy = world.plan.train, world.scenario.privacy
    mechanism, z, n = settings.mechanism, world.plan.noise_multiplier, len(world.server.devices)
    if privacy.trust is Trust.DISTRIBUTED:
        return z * privacy.clipping_norm * math.sqrt(n / mechanism.contributors)
    if privacy.trust is Trust.CENTRAL:
        return z * decoded_sensitivity(mechanism)
    if privacy.unit is Unit.DEVICE:
        return z * privacy.clipping_norm * math.sqrt(n)
    steps = [world.scenario.training.learning_rate / max(1.0, 0.5 * rows) for rows in world.server.rows.values()]
    return z * privacy.clipping_norm * math.sqrt(sum(step**2 for step in steps))


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "trust"), COMBINATIONS, ids=IDS)
def test_the_noise_that_runs_is_the_noise_of_the_plan(unit: Unit, trust: Trust, tmp_path: Path) -> None:
    (tmp_path / "noisy").mkdir()
    (tmp_path / "silent").mkdir()
    world, noisy, promise = _released(tmp_path / "noisy", unit, trust, noisy=True)
    _, silent, _ = _released(tmp_path / "silent", unit, trust, noisy=False)
    noise = noisy.total.astype(np.float64) - silent.total
    promised = _promised_deviation(world)
    # Rounding is drawn anew where vectors were noised before they were encoded: it adds a little.
    assert noise.std() == pytest.approx(promised, rel=0.12)  # 650 coordinates: four standard errors are 11 %
    assert abs(noise.mean()) < 5 * promised / math.sqrt(noise.size)
    (event,) = charge(promise)
    event = event.event if isinstance(event, Repeated) else event
    assert isinstance(event, PoissonSampled) == (unit is Unit.EXAMPLE)
    inner = event.event if isinstance(event, PoissonSampled) else event
    if trust is Trust.DISTRIBUTED:
        assert isinstance(inner, SkellamEvent)
        scale = world.plan.train.mechanism.scale * world.scenario.privacy.clipping_norm
        assert math.sqrt(inner.variance) / scale == pytest.approx(world.plan.noise_multiplier, rel=0.01)
        assert inner.l2 >= scale
    else:
        assert inner == GaussianEvent(world.plan.noise_multiplier)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [Unit.EXAMPLE, Unit.DEVICE])
@pytest.mark.parametrize("more", [(), ("privacy.local_steps=20",), ("training.momentum=0.9", "privacy.local_steps=20")])
def test_with_trust_local_each_device_noises_its_own_vector_and_the_ring_holds_it(
    unit: Unit, more: tuple[str, ...], tmp_path: Path
) -> None:
    world = _world(tmp_path, unit, Trust.LOCAL, *more)
    names = sorted(world.server.devices)
    noisy = private_vectors(world.host, *_promise(world, world.plan.train, "round-0001"), names)
    silent = private_vectors(world.host, *_promise(world, silenced(world.plan.train), "round-0001"), names)
    lengths = np.linalg.norm(noisy.astype(np.float64), axis=1)
    assert (lengths <= world.plan.train.mechanism.clipping_norm).all(), "nothing is cut off after the noise"
    assert lengths.max() > world.plan.train.mechanism.clipping_norm / 25, "and the range is not wasted"
    apart = (noisy - silent).std(axis=1)
    assert (apart > 0).all(), "every device's own vector carries noise before it is encoded"
    if unit is Unit.DEVICE:
        expected = world.plan.noise_multiplier * world.scenario.privacy.clipping_norm
        assert apart == pytest.approx(np.full(len(names), expected), rel=0.2)


@pytest.mark.slow
def test_central_sums_cannot_wrap_around_even_if_all_rows_pull_one_way(tmp_path: Path) -> None:
    for number, unit in enumerate((Unit.EXAMPLE, Unit.DEVICE)):
        (tmp_path / str(number)).mkdir()
        world = _world(tmp_path / str(number), unit, Trust.CENTRAL)
        mechanism = world.plan.train.mechanism
        units = sum(world.server.rows.values()) if unit is Unit.EXAMPLE else len(world.server.devices)
        assert mechanism.units >= units
        most = mechanism.scale * mechanism.clipping_norm * units + mechanism.summands
        assert most < 2 ** (mechanism.bits - 1)


@pytest.mark.slow
def test_with_trust_local_noise_of_many_devices_averages_out(tmp_path: Path) -> None:
    """Too noisy for the few rows of one device is not yet too noisy for the mean of 200 devices."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "whole").mkdir()
    _world(tmp_path / "rows", Unit.EXAMPLE, Trust.LOCAL, "privacy.epsilon=2", "training.rounds=5")
    whole = (tmp_path / "whole", Unit.DEVICE, Trust.LOCAL, "privacy.epsilon=2")
    assert _world(*whole).plan.rounds == 3
    with pytest.raises(ConfigError, match="useful round"):
        _world(*whole, "data.partition.devices=20")


@pytest.mark.soak
def test_the_comparison_runs_small() -> None:
    done = subprocess.run(
        [sys.executable, "simulations/six_combinations.py", "2", "1", "ideal"],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert {(row["unit"], row["trust"]) for row in rows} == {(str(unit), str(trust)) for unit, trust in COMBINATIONS}
    assert all(0 < row["epsilon"] <= (1 if row["table"] == "heart" else 8) for row in rows)


def test_a_plan_without_rounds_is_possible_with_every_trust(tmp_path: Path) -> None:
    for number, trust in enumerate(Trust):
        (tmp_path / str(number)).mkdir()
        assert _world(tmp_path / str(number), Unit.DEVICE, trust, "training.rounds=0").plan.rounds == 0
