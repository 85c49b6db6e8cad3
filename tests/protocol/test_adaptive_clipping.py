"""Rounds with a clipping norm that adapts: what a device accepts and sends, what is charged, how the norm moves."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinfer.coordinator.aggregate.secure_sum import Total
from fedinfer.coordinator.context import LEDGER_OWNER
from fedinfer.coordinator.run import carry_out
from fedinfer.device.aggregate.contribution import private_vectors
from fedinfer.errors import ConfigError, Misbehaviour
from fedinfer.messages import FitWork, Kind, PlainReply, PlainRequest, SumPlan
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import GaussianEvent, Repeated, SkellamEvent
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.privacy.charges import charge, mechanism_of
from fedinfer.privacy.mechanism.clipping import AdaptiveClipping, clipping_of, row_norms
from fedinfer.privacy.mechanism.design import design
from fedinfer.privacy.mechanism.mechanism import NoiseKind, Rounding
from fedinfer.secagg.packing import pack, unpack
from fedinfer.types import Relation, Trust
from fedinfer.wire import decode, encode
from tests.protocol.fleet import DIMENSION, Fleet, enrolled, real, settings, simulated
from tests.protocol.opened import Run, opened

ADAPTIVE: dict[str, Any] = {
    "privacy.unit": "device",
    "privacy.epsilon": 30.0,
    "privacy.clipping": "adaptive",
    "training.sampling_rate": 1.0,
    "training.local_epochs": 3,
    "secure_aggregation.mode": "ideal",
}
BOUND = math.sqrt(1 + 0.25**2)
NO_NORMS = (math.nan, math.inf, -math.inf, 0.0, -1.0)


def adaptive(**changes: Any) -> str:
    """Lines of a scenario."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in (ADAPTIVE | dotted).items())


def working(norm: float) -> bytes:
    return encode(FitWork(np.zeros(DIMENSION, np.float32), 0, norm))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return simulated(tmp_path, settings(adaptive()), 8)


# --- what a device accepts ---


def refusal(fleet: Fleet, plan: SumPlan) -> str:
    return fleet.post.ask([Ask("d00", Kind.KEYS, encode(plan))], 1.0)[0].detail


def test_one_mechanism_of_update_and_bit_serves_every_round(fleet: Fleet) -> None:
    mechanism = fleet.plan.train.mechanism
    assert (mechanism.clipping_norm, mechanism.dimension) == (BOUND, DIMENSION + 1)
    for number, norm in enumerate((1.0, 1e-6, 1e6)):
        assert refusal(fleet, fleet.promise(f"round-{number}", working(norm))) == ""


@pytest.mark.parametrize("norm", [1.0, 0.5, 2.0])
def test_a_mechanism_for_the_rounds_norm_instead_of_the_joint_one_is_refused(fleet: Fleet, norm: float) -> None:
    lying = replace(fleet.plan.train.mechanism, clipping_norm=norm)
    assert "this device clips to 1.03" in refusal(fleet, fleet.promise("r", working(norm), mechanism=encode(lying)))


@pytest.mark.parametrize("norm", NO_NORMS)
def test_a_norm_that_is_none_is_refused_before_any_row_is_read(fleet: Fleet, norm: float) -> None:
    plan = fleet.promise("r", working(norm))
    answer = fleet.post.ask([Ask("d00", Kind.PLAIN, encode(PlainRequest(plan, working(norm))))], 1.0)[0]
    assert (answer.error, answer.body) == (Misbehaviour.__name__, b"")
    assert f"a norm of {norm}" in answer.detail


def test_another_norm_than_the_promised_work_names_is_refused(fleet: Fleet) -> None:
    plan = fleet.promise("r", working(1.0))
    answer = fleet.post.ask([Ask("d00", Kind.PLAIN, encode(PlainRequest(plan, working(2.0))))], 1.0)[0]
    assert "is not the one that was promised" in answer.detail


# --- what a device sends ---


@pytest.mark.parametrize("norm", [5e-324, 1e-30, 1e-3, 1.0, 1e30, 1.7e308])
@pytest.mark.parametrize("trust", list(Trust))
def test_whatever_norm_a_server_names_a_device_stays_within_the_mechanism(
    tmp_path: Path, norm: float, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With trust `local` the noise is that of the joint norm too, so the same signal hides in the same noise."""
    fleet = simulated(tmp_path, settings(adaptive(privacy__trust=str(trust))), 8)
    host, names = fleet.hosts["d00"], sorted(fleet.hosts)
    plan = fleet.promise("r", working(norm))
    with monkeypatch.context() as silent:
        module = importlib.import_module("fedinfer.privacy.noise_model")
        silent.setattr(module, "lattice_gaussian", lambda std, unit, count, words: np.zeros(count))
        sent = private_vectors(host, plan, working(norm), names)
    assert sent.shape == (8, DIMENSION + 1)
    assert (row_norms(sent) <= BOUND).all()
    if trust is Trust.LOCAL:
        noise = private_vectors(host, plan, working(norm), names) - sent
        assert noise.std() == pytest.approx(plan.noise_multiplier * BOUND, rel=0.3)  # 120 values
    else:
        np.testing.assert_array_equal(private_vectors(host, plan, working(norm), names), sent)


def test_a_cohort_at_once_sends_what_each_device_sends_alone(fleet: Fleet) -> None:
    host, names, plan = fleet.hosts["d00"], sorted(fleet.hosts), fleet.promise("r", working(0.3))
    together = private_vectors(host, plan, working(0.3), names)
    alone = np.concatenate([private_vectors(host, plan, working(0.3), [name]) for name in names])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    assert set(np.abs(together[:, -1])) == {0.25}


def test_real_devices_take_part_with_masks_and_refuse_what_simulated_ones_refuse(tmp_path: Path) -> None:
    stores = enrolled(tmp_path / "stores", 6, Budget(40.0, 1e-5))
    fleet = real(stores, settings(adaptive(secure_aggregation__mode="protocol")))
    result = fleet.sum(fleet.promise("round-1", working(1.0)), working(1.0))
    assert isinstance(result, Total)
    assert len(result.survivors) == 6
    stopped = fleet.sum(fleet.promise("round-2", working(math.nan)), working(math.nan))
    assert not isinstance(stopped, Total)
    assert {text.split(":")[0] for _, text in stopped.errors} == {Misbehaviour.__name__}


# --- what is charged ---


def test_the_event_is_that_of_a_fixed_run_of_one_more_coordinate(fleet: Fleet) -> None:
    plan, settings_ = fleet.promise("r", working(0.01)), fleet.plan.train
    same = design(
        kind=NoiseKind.SKELLAM, rounding=Rounding.CONDITIONAL, dimension=DIMENSION + 1, clipping_norm=BOUND,
        noise_multiplier=fleet.plan.noise_multiplier, contributors=settings_.mechanism.contributors, summands=8,
        units=8, max_loss=0.01,
    )  # fmt: skip
    assert charge(plan) == (same.event(1.0),)
    (event,) = charge(plan)
    assert isinstance(event, SkellamEvent)
    scaled = same.scale * BOUND
    assert math.sqrt(event.variance) >= fleet.plan.noise_multiplier * scaled
    assert event.l2 >= scaled, "update and bit, not the update alone"
    claim = account([event], 1e-5, Relation.ZERO_OUT).epsilon
    ideal = account([GaussianEvent(fleet.plan.noise_multiplier)], 1e-5, Relation.ZERO_OUT).epsilon
    assert ideal < claim < 1.1 * ideal, "Rényi accounting and rounding are all that stands between"


@pytest.mark.parametrize("trust", [Trust.LOCAL, Trust.CENTRAL])
def test_continuous_noise_is_charged_by_its_multiplier(tmp_path: Path, trust: Trust) -> None:
    fleet = simulated(tmp_path, settings(adaptive(privacy__trust=str(trust))), 8)
    event = GaussianEvent(fleet.plan.noise_multiplier)
    assert charge(fleet.promise("r", working(7.0))) == (Repeated(event, 1),)


@pytest.mark.parametrize("unit", ["example", "none"])
def test_other_units_are_refused_with_the_way_out(unit: str) -> None:
    with pytest.raises((ConfigError, ValueError), match="needs unit = 'device'"):
        settings(adaptive(privacy__unit=unit))


# --- rounds ---


def run_of(folder: Path, devices: int = 8, **changes: Any) -> Run:
    return opened(folder, settings(adaptive(**changes)), devices)


@pytest.mark.parametrize("trust", list(Trust))
def test_all_planned_rounds_stay_within_the_budget_and_tell_the_norm(tmp_path: Path, trust: Trust) -> None:
    run = run_of(tmp_path, privacy__trust=str(trust), training__rounds=5, drift__enabled=False)
    rows = [run.round() for _ in range(5)]
    rule = AdaptiveClipping(0.5, 0.2, 0.25)
    assert rows[0]["clipping_norm"] == 1.0
    for row, after in pairwise(rows):
        assert after["clipping_norm"] == rule.next_norm(row["clipping_norm"], row["unclipped"])
    assert run.progress.clipping_norm == rule.next_norm(rows[-1]["clipping_norm"], rows[-1]["unclipped"])
    assert 0.9 * 30 < rows[-1]["epsilon"] <= 30
    entries = run.server.ledger.entries(LEDGER_OWNER)
    assert len({entry.event for entry in entries}) == 1, "the same event whatever the norm was"
    assert run.host.ledger.spent("d00", run.server.run_id).epsilon <= 30


def test_a_fixed_norm_stays_and_has_no_fraction(tmp_path: Path) -> None:
    run = run_of(tmp_path, privacy__clipping="fixed", privacy__clipping_norm=0.7)
    rows = [run.round() for _ in range(2)]
    assert [(row["clipping_norm"], row["unclipped"]) for row in rows] == [(0.7, None)] * 2
    assert run.plan.train.mechanism.dimension == DIMENSION


def test_an_aborted_round_leaves_the_norm_and_a_round_after_an_alarm_goes_on_with_it(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.round()
    norm = run.progress.clipping_norm
    assert norm != 1.0
    run.host.drops_out = lambda *_: Kind.MASKED
    aborted = run.round()
    assert (aborted["status"], aborted["clipping_norm"], aborted["unclipped"]) == ("aborted", norm, None)
    assert run.progress.clipping_norm == norm
    run.host.drops_out = lambda *_: None
    assert run.round("drift")["clipping_norm"] == norm


def test_masked_rounds_with_dropouts_end_with_the_same_model_and_norm_as_open_ones(tmp_path: Path) -> None:
    ends = {}
    for mode in ("protocol", "ideal"):
        changes = {"secure_aggregation__mode": mode, "fleet__dropout": 0.08, "fleet__late_dropout": 0.05}
        run = run_of(tmp_path / mode, 16, **changes)
        rows = [run.round() for _ in range(3)]
        ends[mode] = run.progress.weights, [(row["survivors"], row["clipping_norm"], row["unclipped"]) for row in rows]
    np.testing.assert_array_equal(ends["protocol"][0], ends["ideal"][0])
    assert ends["protocol"][1] == ends["ideal"][1]
    assert min(survivors for survivors, _, _ in ends["ideal"][1]) < 16


@pytest.mark.slow
def test_the_norm_that_rounds_find_is_the_median_of_what_devices_compute(tmp_path: Path) -> None:
    """200 devices, steps too small to change the model: the norms of their updates stay what they are."""
    run = run_of(
        tmp_path, 200, privacy__epsilon=200.0, training__rounds=40, training__server_learning_rate=1e-9,
        secure_aggregation__corruption_rate=0.0, drift__enabled=False,
    )  # fmt: skip
    for _ in range(40):
        run.round()
    trainer, names = run.server.trainer, sorted(run.server.devices)
    data = [run.host.rows.training(name, 0) for name in names]
    norms = row_norms(trainer.updates(run.progress.weights, data, [np.random.default_rng(0) for _ in names]))
    assert run.progress.clipping_norm == pytest.approx(np.median(norms), rel=0.1)
    assert not 0.5 < np.median(norms) < 2, "it had a way to go from 1"


# --- groups ---

DISHONEST = ("d03", "d19")
GROUPED = {
    "secure_aggregation__group_size": 8, "secure_aggregation__corruption_rate": 0.0, "drift__enabled": False,
}  # fmt: skip


def reversed_bit(asks: Sequence[Ask], answers: list[Answer]) -> list[Answer]:
    """Dishonest devices add a very negative bit, sixty-four times as long as an honest one."""
    common = {ask.device: ask for ask in asks}
    changed = []
    for answer in answers:
        if answer.device in DISHONEST and common[answer.device].kind == Kind.PLAIN and not answer.error:
            plan = decode(PlainRequest, common[answer.device].common).plan
            honest = unpack(decode(PlainReply, answer.body).packed, plan.bits, plan.dimension).astype(np.int64)
            lie = encoded_bit(plan, -16.0)
            answer = Answer(answer.device, encode(PlainReply(pack(wrapped(honest + lie, plan.bits), plan.bits))))
        changed.append(answer)
    return changed


def encoded_bit(plan: SumPlan, size: float) -> np.ndarray:
    """Integers that decode to `size` in the last coordinate."""
    from fedinfer.privacy.mechanism.rotation import rotate

    mechanism = mechanism_of(plan)
    row = np.zeros((1, mechanism.padded))
    row[0, mechanism.dimension - 1] = size
    return np.rint(rotate(row, plan.rotation_seed, mechanism.padded, mechanism.scale)[0]).astype(np.int64)


def wrapped(values: np.ndarray, bits: int) -> np.ndarray:
    return (values % (1 << bits)).astype(np.uint32)


@pytest.mark.parametrize("robust", ["median", "trimmed_mean", "norm_bounded_mean"])
def test_lies_about_the_bit_drive_the_norm_under_a_plain_mean_and_hardly_under_a_robust_rule(
    tmp_path: Path, robust: str
) -> None:
    moved, trained = {}, {}
    for rule in ("mean", robust):
        for attacked in (False, True):
            changes = GROUPED | {"training__robust": rule, "training__trim": 0.3, "privacy__clipping_norm": 50.0}
            run = run_of(tmp_path / f"{rule}-{attacked}", 56, privacy__epsilon=60.0, **changes)
            if attacked:
                run.through(reversed_bit)
            row = run.round()
            assert row["groups"] == 7
            moved[rule, attacked], trained[rule, attacked] = row["unclipped"], run.progress.weights
    assert moved["mean", True] < 0.2, "nobody is clipped at 50, and the plain mean says nearly all are"
    assert moved[robust, True] > moved["mean", True] + 0.3
    assert moved[robust, False] > 0.7
    change = np.linalg.norm(trained[robust, True] - trained[robust, False])
    assert change < 0.05 * np.linalg.norm(trained[robust, False]), "an outlying bit does not touch the update"


def test_the_fraction_of_several_groups_is_that_of_all_their_devices(tmp_path: Path) -> None:
    run = run_of(tmp_path, 24, **GROUPED, privacy__epsilon=60.0)
    released, sums = run.release()
    assert released is not None
    assert released.means is None
    clipping = clipping_of(run.server.scenario.privacy)
    assert isinstance(clipping, AdaptiveClipping)
    whole = clipping.fraction(float(sums.total[-1]) / len(sums.survivors))
    assert run_of(tmp_path / "again", 24, **GROUPED, privacy__epsilon=60.0).round()["unclipped"] == pytest.approx(
        whole, abs=1e-5
    )


# --- a whole run ---


@pytest.mark.slow
def test_a_whole_run_spends_no_more_than_planned_and_its_record_tells(tmp_path: Path) -> None:
    run = run_of(tmp_path, 16, drift__windows=2)
    record = carry_out(run.server, run.plan)
    assert record["status"] == "completed"
    assert record["privacy"]["clipping"] == "adaptive"
    assert record["privacy"]["epsilon"] <= record["privacy"]["planned_epsilon"] <= 30
    assert all(isinstance(row["unclipped"], float) for row in record["rounds"])
