"""Selection, jobs, synchronous and buffered rounds: what each may and may not do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from fedinfer.config import FleetClockSection
from fedinfer.config.flat import FlatValue
from fedinfer.errors import ConfigError, TooFewSurvivors
from fedinfer.fleet import Chunk, PreparedFleet, prepare_fleet, run_fleet
from fedinfer.fleet.availability import DrawnAvailability
from fedinfer.fleet.buffered import staleness_weight
from fedinfer.fleet.devices import capacities_of
from fedinfer.fleet.draws import Devices, Floats
from fedinfer.fleet.jobs import Fate, Jobs, JobSize, begin_jobs
from fedinfer.fleet.selection import Registry
from fedinfer.fleet.sums import open_sum
from fedinfer.fleet.synchronous import end_of_round
from fedinfer.fleet.tally import fairness, gini
from fedinfer.privacy import clip_rows
from fedinfer.system import simulation_rng
from fedinfer.types import RingVector
from tests.unit.fleet.fleets import run, scenario

STEADY: dict[str, FlatValue] = {
    "fleet__device__available": 1.0,
    "fleet__device__available_swing": 0.0,
    "fleet__device__crash_per_hour": 0.0,
    "fleet__clock__least_battery": 0.0,
}
ALIKE: dict[str, FlatValue] = {
    "fleet__device__speed_spread": 0.0,
    "fleet__device__bandwidth_spread": 0.0,
    "fleet__device__battery_spread": 0.0,
    "data__synthetic__rows_spread": 0.0,
}
EAGER: dict[str, FlatValue] = {"fleet__clock__rounds": "buffered"}


@dataclass
class Counting:
    """Availability that is always there and counts who is looked at."""

    looked_at: int = 0

    def until(self, devices: Devices, seconds: float) -> Floats:
        self.looked_at += len(devices)
        return np.full(len(devices), np.inf)


@dataclass
class Watched:
    """Workers that keep every chunk."""

    prepared: PreparedFleet
    chunks: list[Chunk] = field(default_factory=list)

    def sums(self, chunks: Sequence[Chunk]) -> list[RingVector]:
        self.chunks += chunks
        return self.prepared.bench.sums(chunks)


def watched(**others: FlatValue) -> Watched:
    found = Watched(prepare_fleet(scenario(**others)))
    run_fleet(found.prepared, found, lambda *_: None)
    return found


def registry(devices: int, clock: FleetClockSection | None = None, most: int = 3) -> tuple[Registry, Counting]:
    counting = Counting()
    found = capacities_of(scenario(), devices)
    return Registry(found, counting, clock or FleetClockSection(least_battery=0.0), most, 1), counting


def test_looking_for_a_cohort_costs_the_same_in_any_population() -> None:
    looked = []
    for devices in (10_000, 100_000, 1_000_000):
        found, counting = registry(devices)
        assert len(set(found.select(100, 0.0, simulation_rng(1)).tolist())) == 100
        looked.append(counting.looked_at)
    assert looked[0] == looked[1] == looked[2] <= 300


def test_only_devices_that_are_ready_are_asked() -> None:
    found, _ = registry(4_000, FleetClockSection(least_memory_mb=3000, least_battery=0.5), most=2)
    found.busy[:1000], found.participations[1000:2000] = True, 2
    asked = found.select(200, 0.0, simulation_rng(1))
    assert asked.min() >= 2000
    assert (found.capacities.memory_mb[asked] >= 3000).all()
    assert (found.charge(asked, 0.0) >= 0.5).all()
    assert len(registry(50)[0].select(200, 0.0, simulation_rng(1))) == 50


def test_energy_is_taken_from_the_battery_of_the_day() -> None:
    found, _ = registry(10)
    one, before = np.array([4]), registry(10)[0].charge(np.array([4]), 0.0)
    for _ in range(2):
        found.spend(one, np.array([0.05]) * found.capacities.battery_wh[one], 0.0)
    assert found.charge(one, 0.0) == pytest.approx(before - 0.1)
    assert found.charge(one, 86_400.0) == registry(10)[0].charge(one, 86_400.0)


def test_jobs_end_by_the_first_thing_that_happens() -> None:
    found, _ = registry(30_000)
    everybody, fleet = np.arange(30_000), scenario(fleet__dropout=0.1, fleet__device__crash_per_hour=0.5).fleet
    jobs = begin_jobs(found, fleet, JobSize(1, 0, 0, 0), everybody, np.full(30_000, 100_000), 50.0, 0)
    whole = 5 + 100_000 / found.capacities.rows_per_second.astype(np.float64)
    crashed = jobs.fate == Fate.CRASHED
    expected = 1 - np.exp(-0.5 * whole / 3600)
    assert crashed.mean() == pytest.approx(expected.mean(), rel=0.06)
    assert (jobs.fate[~crashed & (jobs.fate != Fate.FLAT)] == Fate.DROPPED).mean() == pytest.approx(0.1, abs=0.01)
    done = jobs.fate == Fate.ANSWERED
    np.testing.assert_allclose(jobs.end[done], 50 + whole[done])
    assert (jobs.end[crashed] < 50 + whole[crashed]).all()
    np.testing.assert_allclose(jobs.watt_hours[done], 3 * (whole[done] - 5) / 3600)
    level = found.charge(everybody, 50.0) * found.capacities.battery_wh
    flat = jobs.fate == Fate.FLAT
    np.testing.assert_allclose(jobs.watt_hours[flat], level[flat], rtol=1e-6)


def test_a_device_that_is_no_longer_available_leaves() -> None:
    found, _ = registry(2_000)
    found.availability = DrawnAvailability(found.capacities.zone, 0.5, 0.5, 0.0, 1)
    there = np.flatnonzero(found.availability.until(np.arange(2_000), 3000.0) > 3000)
    jobs = begin_jobs(found, scenario().fleet, JobSize(1, 0, 0, 0), there, np.full(len(there), 200_000), 3000.0, 0)
    left = jobs.fate == Fate.LEFT
    assert left.any()
    np.testing.assert_array_equal(jobs.end[left], found.availability.until(there, 3000.0)[left])


def jobs_of(ends: Sequence[float], fates: Sequence[Fate]) -> Jobs:
    count = len(ends)
    return Jobs(np.arange(count), 0.0, np.array(ends), np.array(fates, np.int8), np.ones(count))


def test_a_round_ends_with_the_last_answer_that_it_needs_or_at_the_deadline() -> None:
    jobs = jobs_of([5, 1, 9, 3], [Fate.ANSWERED, Fate.ANSWERED, Fate.ANSWERED, Fate.CRASHED])
    end, used = end_of_round(jobs, 2, 100)
    assert (end, used.tolist()) == (5, [1, 0])
    end, used = end_of_round(jobs, 4, 100)
    assert (end, used.tolist()) == (100, [1, 0, 2])
    end, used = end_of_round(jobs, 3, 8)
    assert (end, used.tolist()) == (8, [1, 0])


def test_a_round_without_enough_answers_releases_nothing() -> None:
    with pytest.raises(TooFewSurvivors, match="0 sums released"):
        run(scenario(fleet__dropout=0.95))
    record = run(scenario(fleet__dropout=0.28, training__cohort=40))
    assert record["failed_rounds"] > 0
    assert all(row["answers"] >= 36 for row in record["releases"])


def test_what_over_selection_costs_is_counted() -> None:
    record = run(scenario(**STEADY))
    totals = record["totals"]
    assert totals["asked"] == 6 * 52
    assert totals["outcomes"] == {"used": 240, "too late": 72}
    assert 0 < totals["wasted_watt_hours"] < totals["watt_hours"]
    assert totals["down_bytes"] == 312 * 4 * record["plan"]["parameters"]


@pytest.mark.parametrize("mode", [{}, EAGER])
def test_no_device_is_in_a_sum_twice_or_in_more_sums_than_planned(mode: dict[str, FlatValue]) -> None:
    small = {"data__partition__devices": 150, "training__rounds": 12, "fleet__clock__participations": 3}
    found = watched(**STEADY, **mode, **small, training__cohort=20, privacy__delta=1e-4)
    releases: dict[int, list[int]] = {}
    for chunk in found.chunks:
        releases.setdefault(chunk.release, []).extend(chunk.devices.tolist())
    assert all(len(set(devices)) == len(devices) == 20 for devices in releases.values())
    counts = np.bincount([device for devices in releases.values() for device in devices], minlength=150)
    assert counts.max() == 3
    np.testing.assert_array_equal(counts, found.prepared.registry.participations)


def test_a_fleet_that_is_used_up_says_so() -> None:
    with pytest.raises(TooFewSurvivors, match="are in 1 sums already") as caught:
        run(scenario(**STEADY, data__partition__devices=100, fleet__clock__participations=1, privacy__delta=1e-4))
    assert "participations" in caught.value.hint


def test_buffered_rounds_of_equal_devices_are_synchronous_rounds() -> None:
    """All work equally long, so every buffer is one cohort with the newest model: the same run, bit for bit."""
    same = {**STEADY, **ALIKE, "fleet__clock__over_selection": 1.0, "fleet__clock__buffer": 40, "privacy__unit": "none"}
    rounds, buffers = run(scenario(**same)), run(scenario(**same, **EAGER))
    assert [row["metric"] for row in rounds["releases"]] == [row["metric"] for row in buffers["releases"]]
    assert {row["most_staleness"] for row in buffers["releases"]} == {0}
    assert rounds["seconds"] == buffers["seconds"]
    assert rounds["totals"]["watt_hours"] == pytest.approx(buffers["totals"]["watt_hours"])


def test_a_buffer_is_the_weighted_sum_of_clipped_updates_from_the_models_they_began_with() -> None:
    found = watched(
        **EAGER, privacy__unit="none", privacy__clipping_norm=0.1, training__rounds=8, fleet__clock__concurrency=60
    )
    bench, chunks = found.prepared.bench, [chunk for chunk in found.chunks if chunk.release == 7]
    assert len({chunk.weights.tobytes() for chunk in chunks}) > 1
    fine = replace(chunks[0].mechanism, bits=32, scale=1e6)
    exact = np.zeros(bench.trainer.dimension)
    for chunk in chunks:
        for device, began, scale in zip(chunk.devices, chunk.began, chunk.scales, strict=True):
            rng = simulation_rng(1, "fleet train", 7, int(device))
            update = bench.trainer.updates(chunk.weights, [bench.rows.training(int(device), began)], [rng])
            exact += scale * clip_rows(update, 0.1)[0]
        assert chunk.scales.max() <= 1
    assert any(chunk.scales[0] == pytest.approx(1 / np.sqrt(2)) for chunk in found.chunks)
    parts = bench.sums([replace(chunk, mechanism=fine) for chunk in chunks])
    total = open_sum(parts, replace(found.prepared.budget, mechanism=fine), 1, 7)
    np.testing.assert_allclose(total, exact, atol=1e-4)


def test_staleness_weights_are_those_of_the_paper() -> None:
    assert [staleness_weight(s, 0.5) for s in (0, 1, 3, 8)] == pytest.approx([1, 0.5**0.5, 0.5, 1 / 3])
    assert staleness_weight(7, 0.0) == 1.0


def test_answers_that_are_too_old_are_thrown_away() -> None:
    record = run(scenario(**EAGER, fleet__clock__max_staleness=0, fleet__clock__concurrency=80))
    assert record["totals"]["outcomes"]["too stale"] > 0
    assert all(row["most_staleness"] == 0 for row in record["releases"])


@pytest.mark.parametrize("trust", ["central", "distributed"])
def test_a_run_is_repeated_by_its_seed(trust: str) -> None:
    first, second, other = (
        run(scenario(**EAGER, privacy__trust=trust, scenario__seed=seed, training__rounds=3)) for seed in (1, 1, 2)
    )
    assert first == second
    assert first["releases"] != other["releases"]


def test_the_target_is_noted_when_it_is_first_reached() -> None:
    record = run(scenario(privacy__unit="none", fleet__clock__target=0.5))
    reached = next(row for row in record["releases"] if row["metric"] >= 0.5)
    assert record["target"]["seconds"] == reached["seconds"]
    assert run(scenario(fleet__clock__target=0.999))["target"]["seconds"] is None


def test_gini_is_half_the_relative_mean_difference() -> None:
    counts = np.random.default_rng(1).poisson(1.5, 300).astype(np.uint16)
    wide = counts.astype(np.float64)
    reference = np.abs(wide[:, None] - wide[None, :]).mean() / (2 * wide.mean())
    assert gini(counts) == pytest.approx(reference)
    assert gini(np.zeros(5, np.uint16)) == 0.0


def test_fast_devices_take_part_more_often_where_the_first_answers_count() -> None:
    found = prepare_fleet(scenario(**STEADY, training__rounds=30, fleet__device__startup_seconds=0.0))
    run_fleet(found, None, lambda *_: None)
    by_speed = fairness(found.registry)["mean_by_speed"]
    assert by_speed["slowest quarter"] < by_speed["fastest quarter"]


@pytest.mark.parametrize(
    ("others", "part"),
    [
        ({"privacy__unit": "example"}, "unit"),
        ({"privacy__trust": "local"}, "trust"),
        ({"privacy__clipping": "adaptive"}, "clipping"),
        ({"training__robust": "median"}, "robust"),
        ({"privacy__trust": "distributed", "training__cohort": 600}, "at most 500"),
        ({"privacy__delta": 1e-3}, "delta"),
        ({"training__rounds": 0}, "rounds"),
        ({"training__cohort": 3000}, "3000 answers"),
        ({"fleet__clock__rounds": "buffered", "fleet__clock__buffer": 3000}, "3000 answers"),
        ({"training__pretrain": True}, "pretrain"),
    ],
)
def test_what_a_virtual_fleet_cannot_do_is_refused(others: dict[str, FlatValue], part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        prepare_fleet(scenario(**others))
    assert caught.value.hint
