"""Rounds with correlated noise on real coordinator and device code: what is released, charged, remembered, refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinfer.coordinator.aggregate.groups import RoundSum
from fedinfer.coordinator.aggregate.promise import sum_plans
from fedinfer.coordinator.aggregate.release import release_groups
from fedinfer.coordinator.context import LEDGER_OWNER
from fedinfer.coordinator.plan.correlation import correlate
from fedinfer.coordinator.train.round import ask_next
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.session_store import SESSION_MIGRATIONS, MemorySessions, StoredSessions
from fedinfer.errors import Misbehaviour
from fedinfer.messages import INDEPENDENT, Kind, PlainRequest, Purpose, ReportWork, ScheduledRound, SumPlan
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import Composed, GaussianEvent
from fedinfer.privacy.mechanism.matrix_mechanism import Factorization
from fedinfer.privacy.mechanism.mechanism import decoded_sensitivity
from fedinfer.privacy.mechanism.noise import gaussian
from fedinfer.simulation.population import Processes, simulated_host, simulated_revocations
from fedinfer.store import open_store
from fedinfer.system import SystemClock
from fedinfer.types import Relation
from fedinfer.wire import encode
from tests.protocol.fleet import Fleet, federation, joined, settings, work
from tests.protocol.opened import Run, opened

BANDED: dict[str, Any] = {
    "privacy.unit": "device",
    "privacy.trust": "central",
    "privacy.correlation": "banded",
    "privacy.epsilon": 30.0,
    "training.rounds": 6,
    "training.cohort": 4,
    "secure_aggregation.mode": "ideal",
    "drift.enabled": False,
}
"""Six rounds of four devices of nine: two rounds apart, so three turns."""


def correlated(folder: Path, changes: dict[str, Any] | None = None, devices: int = 9) -> Run:
    lines = [f"{key} = {json.dumps(value)}" for key, value in (BANDED | (changes or {})).items()]
    return opened(folder, settings("\n".join(lines)), devices)


def matrix(factorization: Factorization) -> np.ndarray:
    n, c = factorization.participation.rounds, factorization.coefficients
    return np.array([[c[i - j] if 0 <= i - j < len(c) else 0.0 for j in range(n)] for i in range(n)])


def strategy_of_run(run: Run) -> Factorization:
    assert run.plan.factorization is not None
    return run.plan.factorization


def step(run: Run, index: int) -> tuple[np.ndarray | None, RoundSum]:
    """One round as `training_round` makes it: what is released, and what the sums really are."""
    round_id = f"round-{index + 1:04d}"
    job = run.work
    server = run.server
    asked = ask_next(run.progress.schedule, server.devices, server.generator, server.noise, run.plan.cohort, round_id)
    plans = sum_plans(run.server, run.plan.train, Purpose.TRAIN, round_id, asked.cohort, job, asked.scheduled)
    released, sums = release_groups(run.server, round_id, plans, job, run.plan.rule, asked.noise)
    return (None if released is None else released.total.astype(np.float64)), sums


def noise_of(run: Run) -> np.ndarray:
    """(rounds, d) released minus true sums of all rounds."""
    rows = []
    for index in range(strategy_of_run(run).participation.rounds):
        released, sums = step(run, index)
        assert released is not None
        rows.append(released - sums.total)
    return np.array(rows)


def fresh_deviation(run: Run) -> float:
    return run.plan.train.noise_multiplier * decoded_sensitivity(run.plan.train.mechanism)


def fresh_noise(run: Run, rounds: int) -> np.ndarray:
    """(rounds, d) Z, drawn again from the streams that the rounds name."""
    shape = (run.plan.train.mechanism.dimension,)
    streams = [run.server.noise(f"round-{index + 1:04d}") for index in range(rounds)]
    return np.array([gaussian(fresh_deviation(run), shape, stream) for stream in streams])


# --- what is released ---


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"secure_aggregation.group_size": 2, "secure_aggregation.corruption_rate": 0.0},
        {"privacy.clipping": "adaptive"},
        {"privacy.correlation": "blt"},
    ],
    ids=["one group", "two groups", "adaptive norm", "buffers"],
)
def test_released_noise_is_the_inverse_strategy_times_fresh_noise(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = correlated(tmp_path, changes)
    strategy, noise = strategy_of_run(run), noise_of(run)
    assert len(strategy.coefficients) > 1
    fresh = fresh_noise(run, 6)
    np.testing.assert_allclose(matrix(strategy) @ noise, fresh, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_covariance_of_released_noise_is_that_of_the_mechanism(tmp_path: Path) -> None:
    """Over 30 seeds and 14 coordinates: std^2 C^-1 C^-T, entry by entry, nothing assumed about streams."""
    rows = []
    for seed in range(30):
        run = correlated(tmp_path / str(seed), {"scenario.seed": seed})
        rows.append(noise_of(run) / fresh_deviation(run))
    samples = np.concatenate(rows, axis=1)
    inverse = np.linalg.inv(matrix(strategy_of_run(run)))
    expected, found = inverse @ inverse.T, samples @ samples.T / samples.shape[1]
    errors = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / samples.shape[1])
    assert (np.abs(found - expected) < 4.5 * errors).all()
    assert np.abs(expected - np.diag(np.diag(expected))).max() > 5 * errors.max(), "correlation is visible here"


def test_secure_aggregation_gives_the_same_rounds_as_sums_in_the_open(tmp_path: Path) -> None:
    ideal = correlated(tmp_path / "ideal")
    real = correlated(tmp_path / "real", {"secure_aggregation.mode": "protocol"})
    for _ in range(3):
        ideal.round(), real.round()
    np.testing.assert_array_equal(ideal.progress.weights, real.progress.weights)


def test_an_aborted_round_uses_up_its_index_and_its_noise(tmp_path: Path) -> None:
    run = correlated(tmp_path)
    step(run, 0)

    def silence(asks: Sequence[Ask], answers: list[Answer]) -> list[Answer]:
        return []

    transport = run.server.transport
    run.through(silence)
    released, _ = step(run, 1)
    assert released is None
    run.server = replace(run.server, transport=transport)
    released, sums = step(run, 2)
    assert released is not None
    fresh = fresh_noise(run, 3)
    row = np.linalg.inv(matrix(strategy_of_run(run)))[2, :3] @ fresh
    np.testing.assert_allclose(released - sums.total, row, rtol=1e-4, atol=1e-4)


# --- what is charged ---


def test_ledgers_add_up_to_the_plan(tmp_path: Path) -> None:
    run = correlated(tmp_path)
    for _ in range(6):
        run.round()
    strategy, z = strategy_of_run(run), run.plan.noise_multiplier
    assert run.plan.planned is not None
    spent = run.server.ledger.spent(LEDGER_OWNER, run.server.run_id)
    assert spent.epsilon == pytest.approx(run.plan.planned.epsilon, rel=1e-9)
    assert spent.epsilon == pytest.approx(account([strategy.event(z)], 1e-5, Relation.ZERO_OUT).epsilon, rel=1e-9)
    entries = [entry.event for entry in run.server.ledger.entries(LEDGER_OWNER)]
    assert [event == Composed(()) for event in entries] == [False, True] * 3
    for device in run.server.devices:
        schedule = run.host.ledger.entries(device)
        indices = [int(entry.reference.removeprefix("round-")) - 1 for entry in schedule]
        assert [entry.event for entry in schedule] == [Composed((strategy.charge(z, index // 2),)) for index in indices]
        assert all(b - a >= 2 for a, b in pairwise(indices))
        assert run.host.ledger.spent(device, run.server.run_id).epsilon <= spent.epsilon * (1 + 1e-12)
    assert [row.epsilon for row in run.progress.rounds][1::2] == [row.epsilon for row in run.progress.rounds][::2]


def test_turns_that_never_come_are_not_charged(tmp_path: Path) -> None:
    run = correlated(tmp_path, {"drift.enabled": True, "drift.windows": 0, "drift.rounds": 6, "drift.max_triggers": 2})
    strategy = strategy_of_run(run)
    assert strategy.participation.rounds == 18
    for _ in range(6):
        run.round()
    begun = [strategy.charge(run.plan.noise_multiplier, scheduled) for scheduled in range(3)]
    spent = run.server.ledger.spent(LEDGER_OWNER, run.server.run_id).epsilon
    assert spent == pytest.approx(account(begun, 1e-5, Relation.ZERO_OUT).epsilon, rel=1e-9)
    assert run.plan.planned is not None
    assert spent < 0.8 * run.plan.planned.epsilon


def test_the_noise_is_nowhere_but_in_memory(tmp_path: Path) -> None:
    run = correlated(tmp_path)
    run.round()
    assert "turns" not in repr(run.progress)
    assert "correlat" not in json.dumps([row.to_json() for row in run.progress.rounds])


# --- what a device refuses ---


def fleet_of(folder: Path, processes: Processes = Processes.ONE, **changes: Any) -> Fleet:
    lines = [f"{key} = {json.dumps(value)}" for key, value in (BANDED | changes).items()]
    scenario = settings("\n".join(lines))
    host = simulated_host(scenario, federation(4), folder / "devices", SystemClock(), processes)
    return joined(scenario, dict.fromkeys(host.members, host), simulated_revocations(scenario.scenario.seed))


def promised(fleet: Fleet, index: int, **changes: Any) -> SumPlan:
    """Round `index` of six, for all four devices, which take part every second round."""
    strategy = correlate(fleet.scenario, 8, 4, 6)
    assert strategy is not None
    scheduled = replace(ScheduledRound(strategy.coefficients, 6, 3, 2, index), **changes)
    return fleet.promise(f"round-{index + 1:04d}", work(), scheduled=scheduled)


def reported(fleet: Fleet, plan: SumPlan, job: bytes | None = None) -> str:
    """What a device says to a plan; empty when it takes part."""
    answer = fleet.post.ask([Ask("d00", Kind.PLAIN, encode(PlainRequest(plan, job or work())))], 1.0)[0]
    return f"{answer.error}: {answer.detail}" if answer.error else ""


def test_a_device_takes_no_turn_before_its_time(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path)
    assert reported(fleet, promised(fleet, 1)) == ""
    assert "round index 2 on device d00 after 1: 2 rounds apart were promised" in reported(fleet, promised(fleet, 2))
    assert "round index 0" in reported(fleet, promised(fleet, 0))
    assert fleet.ledger("d00") == ["round-0002"], "a refused turn costs nothing and touches nothing"
    assert reported(fleet, promised(fleet, 3)) == ""


@pytest.mark.parametrize("mode", ["ideal", "protocol"])
def test_a_device_that_was_killed_between_turns_remembers_the_last_one(tmp_path: Path, mode: str) -> None:
    before = fleet_of(tmp_path, Processes.MANY, **{"secure_aggregation.mode": mode})
    first = before.sum(promised(before, 0), work())
    assert set(first.survivors) == set(before.roster)
    after = fleet_of(tmp_path, Processes.MANY, **{"secure_aggregation.mode": mode})  # a new process, the same files
    early = after.sum(promised(after, 1), work())
    assert not early.survivors
    assert all("2 rounds apart were promised" in text for _, text in early.errors)
    assert set(after.sum(promised(after, 2), work()).survivors) == set(after.roster)
    assert after.ledger("d00") == ["round-0001", "round-0003"]


def test_a_turn_that_was_begun_is_taken_even_if_the_device_dies_in_it(tmp_path: Path) -> None:
    protocol = {"secure_aggregation.mode": "protocol"}
    before = fleet_of(tmp_path, Processes.MANY, **protocol)
    assert not before.post.ask([Ask("d00", Kind.KEYS, encode(promised(before, 0)))], 1.0)[0].error
    after = fleet_of(tmp_path, Processes.MANY, **protocol)
    answer = after.post.ask([Ask("d00", Kind.KEYS, encode(promised(after, 1)))], 1.0)[0]
    assert (answer.error, "rounds apart" in answer.detail) == ("Misbehaviour", True)


def test_noise_and_rounds_may_not_change_between_turns(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path)
    assert reported(fleet, promised(fleet, 0)) == ""
    weaker = replace(promised(fleet, 2), noise_multiplier=100 * fleet.plan.train.noise_multiplier)
    for changed in (weaker, promised(fleet, 2, separation=1, limit=6), promised(fleet, 2, coefficients=(1.0, 0.1))):
        assert "another strategy" in reported(fleet, changed)
    assert reported(fleet, promised(fleet, 2)) == ""


def test_correlated_noise_is_refused_where_the_run_has_none(tmp_path: Path) -> None:
    banded = fleet_of(tmp_path / "banded", **{"drift.enabled": True, "drift.windows": 2, "drift.max_triggers": 0})
    assert "over 7 rounds, the run has 6" in reported(banded, promised(banded, 0, rounds=7))
    assert "over 1 rounds, the run has 6" in reported(banded, banded.promise("r", work()))
    report = encode(ReportWork(1))
    evaluations = banded.promise("window-1", report, Purpose.DRIFT, scheduled=promised(banded, 0).scheduled)
    assert "where this run has independent noise" in reported(banded, evaluations, report)
    plain = fleet_of(tmp_path / "plain", **{"privacy.correlation": "none"})
    scheduled = promised(banded, 0).scheduled
    assert "where this run has independent noise" in reported(plain, plain.promise("r", work(), scheduled=scheduled))
    assert reported(plain, plain.promise("r", work(), scheduled=INDEPENDENT)) == ""


def test_a_strategy_outside_the_theorem_is_refused_before_anything_is_charged(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path)
    assert "must start with 1, fall" in reported(fleet, promised(fleet, 0, coefficients=(1.0, 2.0)))
    assert "index 6" in reported(fleet, promised(fleet, 6))
    assert not fleet.ledger("d00")


def test_turns_are_part_of_the_promise(tmp_path: Path) -> None:
    """Split views: whoever is told another index cannot be summed with the others."""
    fleet = fleet_of(tmp_path, **{"secure_aggregation.mode": "protocol"})
    plan, other = promised(fleet, 0), encode(promised(fleet, 1))
    fleet.post.on_ask = lambda ask: (
        [replace(ask, common=other)] if (ask.kind, ask.device) == (Kind.KEYS, "d00") else [ask]
    )
    assert "d00" not in fleet.sum(plan, work()).survivors


@pytest.fixture(params=["memory", "stored"])
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> MemorySessions | StoredSessions:
    if request.param == "memory":
        return MemorySessions()
    return StoredSessions(open_store(tmp_path / "s.sqlite", "sessions", SESSION_MIGRATIONS))


def test_turns_are_counted_by_device_and_run(sessions: MemorySessions | StoredSessions) -> None:
    def scheduled(index: int) -> ScheduledRound:
        return ScheduledRound((1.0, 0.5), 20, 5, 4, index)

    sessions.take_scheduled("d", "run", b"s", scheduled(3))
    sessions.take_scheduled("e", "run", b"s", scheduled(4))
    sessions.take_scheduled("d", "other", b"t", scheduled(0))
    for strategy, index in ((b"s", 3), (b"s", 6), (b"s", 0), (b"t", 7)):
        with pytest.raises(Misbehaviour):
            sessions.take_scheduled("d", "run", strategy, scheduled(index))
    sessions.take_scheduled("d", "run", b"s", scheduled(7))


def test_a_device_of_an_independent_run_pays_as_before(tmp_path: Path) -> None:
    run = correlated(tmp_path, {"privacy.correlation": "none"})
    assert run.progress.schedule is None
    run.round()
    device = run.host.ledger.entries(None)[0]
    assert GaussianEvent(run.plan.noise_multiplier) in [part.event for part in device.event.events]  # type: ignore[union-attr] # a Composed of Repeated


def test_responders_of_one_host_share_turns(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path)
    assert reported(fleet, promised(fleet, 0)) == ""
    again = DeviceResponder(fleet.hosts["d00"]).answer(
        [Ask("d00", Kind.PLAIN, encode(PlainRequest(promised(fleet, 1), work())))]
    )[0]
    assert again.error == "Misbehaviour"
