"""Rounds in groups: what is asked, charged, left out and combined, on real coordinator and device code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fedinfer.coordinator.aggregate import secure_sum
from fedinfer.coordinator.aggregate.groups import Group, group_at_random
from fedinfer.coordinator.aggregate.promise import sum_plan, sum_plans
from fedinfer.coordinator.aggregate.release import release_groups
from fedinfer.coordinator.aggregate.secure_sum import Total
from fedinfer.coordinator.context import LEDGER_OWNER
from fedinfer.coordinator.plan.robust import PLAIN_MEAN
from fedinfer.coordinator.train.server_step import open_release
from fedinfer.errors import TooFewSurvivors
from fedinfer.messages import ONE_GROUP, Kind, PlainReply, PlainRequest, Purpose
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.events import Composed
from fedinfer.privacy.charges import charge, mechanism_of
from fedinfer.privacy.mechanism.clipping import FixedClipping
from fedinfer.privacy.mechanism.mechanism import decoded_sensitivity
from fedinfer.privacy.mechanism.noise import gaussian
from fedinfer.secagg.packing import pack, unpack
from fedinfer.system import SystemEntropy
from fedinfer.wire import decode, encode
from tests.protocol.fleet import settings
from tests.protocol.opened import Run, opened

GROUPED: dict[str, Any] = {
    "privacy.unit": "device",
    "privacy.epsilon": 30.0,
    "training.sampling_rate": 1.0,
    "secure_aggregation.mode": "ideal",
    "secure_aggregation.group_size": 8,
    "secure_aggregation.corruption_rate": 0.0,
    "drift.windows": 2,
}
"""Groups of eight, of which two may vanish."""


def grouped(folder: Path, changes: dict[str, Any] | None = None, devices: int = 24) -> Run:
    lines = [f"{key} = {json.dumps(value)}" for key, value in (GROUPED | (changes or {})).items()]
    return opened(folder, settings("\n".join(lines)), devices)


# --- what is asked ---


def test_a_cohort_is_dealt_to_groups_with_plans_of_their_own(tmp_path: Path) -> None:
    run = grouped(tmp_path)
    plans = run.plans()
    assert [plan.round_id for plan in plans] == [f"round-0001/group-{n}" for n in (1, 2, 3)]
    assert sorted(device for plan in plans for device in plan.cohort) == sorted(run.server.devices)
    assert {len(plan.cohort) for plan in plans} == {8}
    assert {plan.min_survivors for plan in plans} == {6}
    assert {mechanism_of(plan).contributors for plan in plans} == {6}, "noise counts on one group, not on all"
    assert {mechanism_of(plan).summands for plan in plans} == {8}
    assert len({plan.rotation_seed for plan in plans}) == 3


def test_an_answer_of_nobody_or_of_a_group_whose_sum_is_over_is_ignored() -> None:
    """Groups go through the stages side by side: here the second one is over, and a device of it still talks."""
    said = [Answer("a", b"1"), Answer("c", b"2"), Answer("stranger", b"3")]
    transport, plans = SimpleNamespace(ask=lambda asks, seconds: said), [SimpleNamespace(cohort=c) for c in ("ab", "c")]
    exchange = secure_sum._Exchange(cast(Any, transport), 1.0, cast(Any, plans))
    assert exchange.ask({0: [Ask("a", Kind.KEYS, b"")]}) == {0: {"a": b"1"}}


def test_groups_change_from_round_to_round(tmp_path: Path) -> None:
    run = grouped(tmp_path)
    assert {plan.cohort for plan in run.plans("a")}.isdisjoint(plan.cohort for plan in run.plans("b"))


def test_a_cohort_of_one_group_keeps_the_name_of_its_round(tmp_path: Path) -> None:
    (plan,) = grouped(tmp_path, devices=8).plans()
    assert (plan.round_id, plan.split.groups, plan.split.everyone) == ("round-0001", 1, ())


def test_fewer_devices_than_planned_make_fewer_groups_of_the_planned_size(tmp_path: Path) -> None:
    run = grouped(tmp_path)
    some = tuple(sorted(run.server.devices))[:17]  # two groups of eight; the 17th is not asked
    plans = sum_plans(run.server, run.plan.train, Purpose.TRAIN, "r", some, run.work)
    assert [len(plan.cohort) for plan in plans] == [8, 8]
    assert {device for plan in plans for device in plan.cohort} < set(some)
    with pytest.raises(TooFewSurvivors, match="5 devices can be asked, 6 must survive"):
        sum_plans(run.server, run.plan.train, Purpose.TRAIN, "r", some[:5], run.work)


def test_a_device_refuses_a_group_that_the_seed_does_not_give(tmp_path: Path) -> None:
    run = grouped(tmp_path)
    first, second, _ = run.plans()
    picked = tuple(sorted((*first.cohort[1:], second.cohort[0])))
    _, sums = release_groups(run.server, "round-0001", (replace(first, cohort=picked),), run.work, PLAIN_MEAN)
    (result,) = (group.result for group in sums.groups)
    assert result.survivors == ()
    assert all("none of the 3 groups that the published seed makes" in text for _, text in result.errors)
    assert len(result.errors) == 8


@pytest.mark.parametrize("mode", ["protocol", "ideal"])
def test_the_same_devices_in_the_plan_of_one_group_are_asked_alone(tmp_path: Path, mode: str) -> None:
    """What the server sees of a group is the sum of that group's devices, decoded with that group's rotation."""
    run = grouped(tmp_path, {"secure_aggregation.mode": mode})
    _, sums = run.release()
    assert len(sums.summed) == 3
    assert sums.survivors == tuple(sorted(run.server.devices))
    np.testing.assert_allclose(sums.total, sum(total.astype(np.float64) for _, total, _ in sums.summed))


def asked_in(run: Run) -> list[tuple[Kind, int]]:
    """Kind and number of the asks of every exchange from now on."""
    seen: list[tuple[Kind, int]] = []

    def watch(asks: Sequence[Ask], answers: list[Answer]) -> list[Answer]:
        seen.append((Kind(asks[0].kind), len(asks)))
        return answers

    run.through(watch)
    return seen


def test_groups_go_through_the_stages_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three groups take the five exchanges of one, and each has the sum, bit for bit, that it has alone."""
    changes = {"secure_aggregation.mode": "protocol"}
    together, alone = grouped(tmp_path / "together", changes), grouped(tmp_path / "alone", changes)
    seen, seen_alone = asked_in(together), asked_in(alone)
    side_by_side = together.release()[1]
    stages = [Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK]
    assert [kind for kind, _ in seen] == stages
    assert seen[0] == (Kind.KEYS, 24)
    monkeypatch.setattr(secure_sum, "MOST_BYTES_TOGETHER", 1)
    one_by_one = alone.release()[1]
    assert [kind for kind, _ in seen_alone] == stages * 3
    for ours, theirs in zip(side_by_side.groups, one_by_one.groups, strict=True):
        assert isinstance(ours.result, Total)
        assert isinstance(theirs.result, Total)
        assert np.array_equal(ours.result.ring, theirs.result.ring)
        assert (ours.plan, ours.result.survivors) == (theirs.plan, theirs.result.survivors)
        assert ours.result.traffic == theirs.result.traffic


def test_a_group_that_ends_early_does_not_hold_up_the_others(tmp_path: Path) -> None:
    run = grouped(tmp_path, {"secure_aggregation.mode": "protocol"})
    plans = run.plans()
    gone = set(plans[1].cohort[:4])

    def drop(asks: Sequence[Ask], answers: list[Answer]) -> list[Answer]:
        return [answer for answer in answers if answer.device not in gone]

    run.through(drop)
    seen = asked_in(run)
    _, sums = release_groups(run.server, "round-0001", plans, run.work, run.plan.rule)
    assert [len(group.result.survivors) for group in sums.groups if isinstance(group.result, Total)] == [8, 8]
    assert sums.left_out[0].startswith("round-0001/group-2: ")
    assert [kind for kind, _ in seen] == [Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK]
    assert [count for _, count in seen][1:] == [16] * 4


# --- what is charged ---


def test_a_round_is_charged_once_and_every_device_pays_the_event_of_its_own_group(tmp_path: Path) -> None:
    """Parallel composition: the server's one event is the event of whichever group a device is in."""
    run = grouped(tmp_path)
    for _ in range(2):
        run.round()
    (paid_first, paid_second) = run.server.ledger.entries(LEDGER_OWNER)
    assert [paid_first.reference, paid_second.reference] == ["round-0001", "round-0002"]
    places = set()
    for device in run.server.devices:
        entries = run.host.ledger.entries(device)
        assert [entry.reference.split("/")[0] for entry in entries] == ["round-0001", "round-0002"]
        assert {entry.event for entry in entries} == {paid_first.event, paid_second.event}
        assert run.host.ledger.spent(device, run.server.run_id) == run.server.ledger.spent(
            LEDGER_OWNER, run.server.run_id
        )
        places.add(tuple(entry.reference for entry in entries))
    assert len(places) > 3, "groups are dealt anew in every round"


def test_all_plans_of_a_round_cost_the_same_also_in_groups_of_different_size(tmp_path: Path) -> None:
    run = grouped(tmp_path, devices=23)
    plans = run.plans()
    assert sorted(len(plan.cohort) for plan in plans) == [7, 8, 8]
    (event,) = {charge(plan) for plan in plans}
    assert mechanism_of(plans[0]).contributors <= min(plan.min_survivors for plan in plans)
    run.release()
    assert run.server.ledger.entries(LEDGER_OWNER)[0].event == Composed(event)


def test_a_device_in_two_groups_pays_twice_whatever_the_server_says(tmp_path: Path) -> None:
    """The server's proof needs disjoint groups; the device's own ledger does not trust it."""
    run = grouped(tmp_path)
    victim = sorted(run.server.devices)[0]
    own = next(plan for plan in run.plans() if victim in plan.cohort)
    other = tuple(sorted({victim, *sorted(set(run.server.devices) - set(own.cohort))[:7]}))
    server, group = run.server, Group("round-0001/group-9", other, ONE_GROUP)
    again = sum_plan(server.scenario, server.run_id, server.entropy, run.plan.train, Purpose.TRAIN, group, run.work)
    release_groups(run.server, "round-0001", (own, again), run.work, PLAIN_MEAN)
    assert [entry.reference for entry in run.host.ledger.entries(victim)] == [own.round_id, again.round_id]
    task = run.server.run_id
    assert run.host.ledger.spent(victim, task).epsilon > 1.3 * run.server.ledger.spent(LEDGER_OWNER, task).epsilon


def test_the_noise_in_a_group_is_that_of_its_guaranteed_contributors(tmp_path: Path) -> None:
    """Zero weights and no steps: what is released of each group is noise, and it has at least the promised size."""
    run = grouped(tmp_path, {"training.learning_rate": 1e-9, "training.rounds": 12})
    mechanism = run.plan.train.mechanism
    sums = [run.release(f"r{n}")[1] for n in range(12)]
    seen = np.concatenate([total for one in sums for _, total, _ in one.summed])
    promised = mechanism.noise_multiplier * mechanism.clipping_norm
    per_group = promised * np.sqrt(8 / 6)  # eight shares arrive, six are counted
    assert len(seen) == 12 * 3 * 14
    assert promised < seen.std() < 1.2 * per_group
    whole = np.concatenate([one.total for one in sums])
    assert 0.8 < whole.std() / (per_group * np.sqrt(3)) < 1.2, "adding groups adds their noise"


# --- what is left out ---


def vanishing_in(*groups: int) -> Callable[[str, str], Kind | None]:
    return lambda round_id, device: Kind.MASKED if round_id.endswith(tuple(f"group-{n}" for n in groups)) else None


@pytest.mark.parametrize("mode", ["protocol", "ideal"])
def test_a_group_that_aborts_is_left_out_and_named(tmp_path: Path, mode: str) -> None:
    run = grouped(tmp_path, {"secure_aggregation.mode": mode})
    run.host.drops_out = vanishing_in(2)
    before = run.progress.weights.copy()
    row = run.round()
    assert (row["status"], row["groups"], row["groups_released"]) == ("released", 3, 2)
    assert (row["cohort"], row["survivors"]) == (24, 16)
    assert row["detail"].startswith("round-0001/group-2: ")
    assert run.progress.dropped == 8
    assert not np.array_equal(run.progress.weights, before)
    (left,) = [fields for name, fields in run.events if name == "group_left_out"]
    assert (left["round"], left["stage"]) == ("round-0001/group-2", "masked")


def test_a_round_without_any_group_aborts_and_changes_nothing(tmp_path: Path) -> None:
    run = grouped(tmp_path)
    run.host.drops_out = vanishing_in(1, 2, 3)
    before = run.progress.weights.copy()
    row = run.round()
    assert (row["status"], row["groups_released"], row["survivors"]) == ("aborted", 0, 0)
    np.testing.assert_array_equal(run.progress.weights, before)
    assert run.progress.aborted_in_a_row == 1


def test_a_median_with_too_few_groups_left_aborts(tmp_path: Path) -> None:
    run = grouped(tmp_path, {"training.robust": "median"})
    run.host.drops_out = vanishing_in(3)
    before = run.progress.weights.copy()
    row = run.round()
    assert (row["status"], row["groups_released"]) == ("aborted", 2)
    np.testing.assert_array_equal(run.progress.weights, before)


@pytest.mark.slow
def test_drift_reports_go_through_the_same_groups(tmp_path: Path) -> None:
    from fedinfer.coordinator import drift as drift_loop
    from fedinfer.coordinator.push.publish import publish_version, push_version

    run = grouped(tmp_path)
    run.host.drops_out = vanishing_in(2)
    run.round()
    publish_version(run.server, run.plan, run.progress)
    push_version(run.server, run.plan, run.progress)
    watch = drift_loop.start_watch(run.server.scenario, run.plan)
    drift_loop.window(run.server, run.plan, run.progress, watch)
    row = run.progress.windows[0].to_json()
    assert (row["groups"], row["groups_released"], row["reporters"]) == (3, 2, 16)
    device = sorted(run.server.devices)[0]
    assert any(entry.reference.startswith("window-0001/group-") for entry in run.host.ledger.entries(device))
    assert [entry.reference for entry in run.server.ledger.entries(LEDGER_OWNER)] == ["round-0001", "window-0001"]


# --- how it is combined ---


@pytest.mark.parametrize("robust", ["mean", "median"])
def test_a_trusted_server_adds_its_noise_once_to_a_mean_and_to_each_group_for_a_robust_rule(
    tmp_path: Path, robust: str
) -> None:
    run = grouped(tmp_path, {"privacy.trust": "central", "training.robust": robust})
    released, sums = run.release()
    assert released is not None
    std = run.plan.train.noise_multiplier * decoded_sensitivity(run.plan.train.mechanism)
    names = ["round-0001"] if robust == "mean" else [plan.round_id for plan, _, _ in sums.summed]
    noise = [gaussian(std, (14,), run.server.noise(name)) for name in names]
    np.testing.assert_allclose(released.total, sums.total + np.sum(noise, axis=0), rtol=1e-5, atol=1e-5)
    if robust == "median":
        means = [(total + n) / count for n, (_, total, count) in zip(noise, sums.summed, strict=True)]
        assert released.means is not None
        np.testing.assert_allclose(released.means, means, rtol=1e-4, atol=1e-5)


ATTACKED: dict[str, Any] = {
    "privacy.epsilon": 30.0,
    "training.rounds": 4,
    "training.learning_rate": 2.0,
    "training.local_epochs": 4,
    "training.norm_bound": 0.5,
    "training.trim": 0.34,
    "drift.enabled": False,
}
DISHONEST = ("d03", "d19", "d44")
"""Three of 56 devices in seven groups: at least four groups are honest."""


def largest_allowed(asks: Sequence[Ask], answers: list[Answer]) -> list[Answer]:
    """Dishonest devices send the largest numbers of the ring, all in the direction that unlearns the task."""
    common = {ask.device: ask for ask in asks}
    changed = []
    for answer in answers:
        if answer.device in DISHONEST and common[answer.device].kind == Kind.PLAIN and not answer.error:
            plan = decode(PlainRequest, common[answer.device].common).plan
            honest = unpack(decode(PlainReply, answer.body).packed, plan.bits, plan.dimension).astype(np.int64)
            half = 1 << (plan.bits - 1)
            signed = np.where((honest + half) % (2 * half) - half > 0, -(4 * half // 5), 4 * half // 5)
            ring = (signed % (2 * half)).astype(np.uint32)
            answer = Answer(answer.device, encode(PlainReply(pack(ring, plan.bits))))
        changed.append(answer)
    return changed


def trained(folder: Path, robust: str, *, attacked: bool) -> tuple[Run, list[float]]:
    run = grouped(folder / f"{robust}-{attacked}", ATTACKED | {"training.robust": robust}, devices=56)
    if attacked:
        run.through(largest_allowed)
    return run, [run.round()["metric"] for _ in range(run.plan.rounds)]


def test_a_few_dishonest_devices_spoil_the_plain_mean_and_no_robust_rule(tmp_path: Path) -> None:
    honest, learned = trained(tmp_path, "mean", attacked=False)
    plain, spoiled = trained(tmp_path, "mean", attacked=True)
    assert learned[-1] > 0.85
    assert spoiled[-1] < learned[-1] - 0.3
    for rule in ("median", "trimmed_mean", "norm_bounded_mean"):
        run, metrics = trained(tmp_path, rule, attacked=True)
        assert metrics[-1] > learned[-1] - 0.07, rule
        # The same groups see the same sums: nothing more is spent for being robust.
        assert [e.event for e in run.server.ledger.entries(LEDGER_OWNER)] == [
            e.event for e in plain.server.ledger.entries(LEDGER_OWNER)
        ]
        device = next(iter(run.server.devices))
        assert run.host.ledger.spent(device, run.server.run_id) == honest.host.ledger.spent(
            device, honest.server.run_id
        )


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "norm_bounded_mean"])
def test_how_far_dishonest_devices_move_one_update(tmp_path: Path, rule: str) -> None:
    """In clipping norms. Each of the three throws the sum of its group to the edge of the ring."""
    moved = {}
    for name in ("mean", rule):
        updates = []
        for attacked in (False, True):
            run = grouped(tmp_path / f"{name}-{attacked}", ATTACKED | {"training.robust": name}, devices=56)
            if attacked:
                run.through(largest_allowed)
            released, sums = run.release()
            assert released is not None
            assert sum(bool(set(plan.cohort) & set(DISHONEST)) for plan, _, _ in sums.summed) <= 3
            survivors, rule_here = len(released.survivors), run.plan.rule
            opened = open_release(FixedClipping(1.0), rule_here, 1.0, released.total, released.means, survivors)
            updates.append(opened.total / survivors if opened.robust is None else opened.robust)
        moved[name] = np.linalg.norm(updates[1] - updates[0])
    assert moved["mean"] > 1.0, "further than the clipping norm: no honest population could do that"
    assert moved[rule] < (2 * 3 / 7 * 0.5 if rule == "norm_bounded_mean" else 0.25)


# --- both modes ---


@pytest.mark.parametrize("unit", ["device", "example"])
def test_masked_groups_give_bit_for_bit_the_sums_of_open_ones_with_dropouts(tmp_path: Path, unit: str) -> None:
    extra = {"privacy.unit": unit, "fleet.dropout": 0.08, "fleet.late_dropout": 0.05}
    results = {}
    for mode in ("protocol", "ideal"):
        run = grouped(tmp_path / mode, extra | {"secure_aggregation.mode": mode}, devices=40)
        results[mode] = [run.release(f"round-{n}")[1] for n in range(3)]
    rings = 0
    for masked, open_sums in zip(results["protocol"], results["ideal"], strict=True):
        assert [group.plan.cohort for group in masked.groups] == [group.plan.cohort for group in open_sums.groups]
        for one, other in zip(masked.groups, open_sums.groups, strict=True):
            if isinstance(one.result, Total) and isinstance(other.result, Total):
                assert one.result.survivors == other.result.survivors
                np.testing.assert_array_equal(one.result.ring, other.result.ring)
                rings += len(one.result.survivors) < len(one.plan.cohort)
    assert rings >= 3, "groups with dropouts are what this test is about"


def test_a_deal_with_system_entropy_is_a_partition(tmp_path: Path) -> None:
    everyone = tuple(f"d{i:04d}" for i in range(1001))
    groups = group_at_random("r", everyone, 3, SystemEntropy())
    assert sorted(device for group in groups for device in group.cohort) == list(everyone)
    assert sorted(len(group.cohort) for group in groups) == [333, 334, 334]
