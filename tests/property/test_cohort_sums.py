"""A cohort added up where it is gives the integers of its devices one by one, for every model, unit and trust."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedinfer.coordinator.aggregate.secure_sum import AbortedSum, Total, private_sums
from fedinfer.device.aggregate import cohort
from fedinfer.messages import FitWork, Kind, PlainRequest
from fedinfer.privacy import SimulatedStream, encode, encode_sum
from fedinfer.privacy.mechanism.design import design, design_without_noise
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding
from fedinfer.secagg import ideal_sum
from fedinfer.simulation.local_nodes import LocalNodes
from fedinfer.system import SimulatedEntropy, simulation_rng
from fedinfer.training import load_trainer
from fedinfer.types import AggregationMode, Unit
from fedinfer.wire import encode as encode_message
from tests.protocol import fleet as fleets

COMMON = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROTECTED = [(unit, trust) for unit in ("device", "example") for trust in ("local", "distributed", "central")]


@st.composite
def scenarios(draw: st.DrawFn) -> str:
    unit, trust = draw(st.sampled_from([*PROTECTED, ("none", "central")]))
    clipping = draw(st.sampled_from(["fixed", "adaptive"])) if unit == "device" else "fixed"
    rate = draw(st.sampled_from([0.3, 1.0])) if unit == "example" else 1.0
    return f"""
    model.kind = "{draw(st.sampled_from(["logistic", "mlp"]))}"
    model.hidden = [{draw(st.integers(1, 9))}]
    training.batch_size = {draw(st.integers(1, 20))}
    training.local_epochs = {draw(st.integers(1, 2))}
    training.momentum = {draw(st.sampled_from([0.0, 0.5]))}
    training.proximal = {draw(st.sampled_from([0.0, 0.1]))}
    training.sampling_rate = {rate}
    privacy.unit = "{unit}"
    privacy.trust = "{trust}"
    privacy.clipping = "{clipping}"
    privacy.epsilon = 50.0
    fleet.dropout = {draw(st.sampled_from([0.0, 0.3]))}
    scenario.seed = {draw(st.integers(0, 99))}
    secure_aggregation.mode = "ideal"
    """


def sums(text: str) -> tuple[Total | AbortedSum, Total | AbortedSum, fleets.Fleet]:
    """One sum twice, each on devices of its own: answer by answer, and where the devices are."""
    scenario = fleets.settings(text)
    trainer = load_trainer(scenario.model, fleets.SCHEMA, scenario.training, scenario.scenario.seed)
    work = encode_message(FitWork(trainer.initial(), 0, 1.0))
    with tempfile.TemporaryDirectory() as name:
        alone, together = (
            fleets.simulated(Path(name) / part, scenario, dimension=trainer.dimension) for part in ("alone", "together")
        )
        nodes = LocalNodes(together.post, next(iter(together.post.responders.values())))
        one_by_one = alone.sum(alone.promise("round-1", work), work)
        together_sum = private_sums((together.promise("round-1", work),), work, together.roster, nodes, 1.0)[0]
        assert all(alone.ledger(device) == together.ledger(device) for device in alone.roster)
    return one_by_one, together_sum, together


@COMMON
@given(scenarios())
def test_sums_are_the_same_to_the_bit(text: str) -> None:
    alone, together, fleet = sums(text)
    assert (alone.survivors, alone.refused, alone.errors) == (together.survivors, together.refused, together.errors)
    assert type(alone) is type(together)
    assert isinstance(alone, Total) or "fleet.dropout = 0.3" in text
    if isinstance(alone, Total) and isinstance(together, Total):
        np.testing.assert_array_equal(alone.ring, together.ring)
        assert alone.traffic == together.traffic
    assert not fleet.post.answers(Kind.PLAIN)  # nobody packed a vector


def mechanisms() -> list[IntegerMechanism]:
    """Single and double precision, with and without shares of noise, narrow and wide."""
    shared = {"clipping_norm": 1.0, "summands": 40, "units": 40, "max_loss": 0.01}
    plain = [
        design_without_noise(rounding=Rounding.CONDITIONAL, unit=Unit.DEVICE, dimension=dimension, **shared)
        for dimension in (1, 2, 5, 300)
    ]
    sums_of_rows = design_without_noise(rounding=Rounding.DITHERED, unit=Unit.EXAMPLE, dimension=70, **shared)
    noisy = [
        design(kind=kind, rounding=Rounding.CONDITIONAL, dimension=33, noise_multiplier=2.0, contributors=20, **shared)
        for kind in (NoiseKind.SKELLAM, NoiseKind.DISCRETE_GAUSSIAN)
    ]
    fine = replace(plain[3], scale=2.0**20, bits=32)
    return [*plain, sums_of_rows, *noisy, fine]


@pytest.mark.parametrize("at", range(8))
def test_a_sum_of_encodings_is_that_of_the_encodings_one_by_one(at: int) -> None:
    mechanism = mechanisms()[at]
    rows = simulation_rng("rows", at).normal(size=(37, mechanism.dimension)) * 3
    vectors = rows if mechanism.rounding is Rounding.DITHERED else rows.astype(np.float32)

    def stream(row: int) -> SimulatedStream:
        return SimulatedStream(SimulatedEntropy("row", row))

    together = encode_sum(vectors, mechanism, b"seed", [lambda row=row: stream(row) for row in range(37)])
    alone = [encode(vector, mechanism, b"seed", own, own) for row, vector in enumerate(vectors) if (own := stream(row))]
    np.testing.assert_array_equal(together, ideal_sum(alone, mechanism.bits))


def test_groups_of_devices_add_up_to_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = []
    for numbers in (cohort._GROUP_NUMBERS, 3 * fleets.DIMENSION):
        monkeypatch.setattr(cohort, "_GROUP_NUMBERS", numbers)
        fleet = fleets.simulated(tmp_path / str(numbers), fleets.settings('secure_aggregation.mode = "ideal"'))
        nodes = LocalNodes(fleet.post, next(iter(fleet.post.responders.values())))
        plan = fleet.promise("round-1", fleets.work())
        found.append(private_sums((plan,), fleets.work(), fleet.roster, nodes, 1.0)[0])
    assert all(isinstance(total, Total) for total in found)
    np.testing.assert_array_equal(found[0].ring, found[1].ring)


def test_refusals_are_those_of_single_devices(tmp_path: Path) -> None:
    """Other work than was promised, a device that is not in the cohort, and a round that was answered before."""
    fleet = fleets.simulated(tmp_path, fleets.settings('secure_aggregation.mode = "ideal"'))
    responder = next(iter(fleet.post.responders.values()))
    plan, work = fleet.promise("round-1", fleets.work()), fleets.work()
    false = responder.add_up(encode_message(PlainRequest(plan, fleets.work(1))), plan.cohort)
    assert not false.survivors
    assert {answer.error for answer in false.refusals} == {"Misbehaviour"}
    assert not fleet.ledger("d00")
    smaller = replace(plan, cohort=plan.cohort[1:])
    some = responder.add_up(encode_message(PlainRequest(smaller, work)), plan.cohort)
    assert some.survivors == plan.cohort[1:]
    assert [(answer.device, answer.error) for answer in some.refusals] == [(plan.cohort[0], "Misbehaviour")]
    again = responder.add_up(encode_message(PlainRequest(plan, work)), plan.cohort)
    assert again.survivors == plan.cohort[:1]
    assert all("started before" in answer.detail for answer in again.refusals)


def test_only_ideal_sums_are_made_where_the_devices_are(tmp_path: Path) -> None:
    fleet = fleets.simulated(tmp_path, fleets.settings('secure_aggregation.mode = "protocol"'))
    nodes = LocalNodes(fleet.post, next(iter(fleet.post.responders.values())))
    plan = fleet.promise("round-1", fleets.work())
    assert plan.mode is AggregationMode.PROTOCOL
    total = private_sums((plan,), fleets.work(), fleet.roster, nodes, 1.0)[0]
    assert isinstance(total, Total)
    assert len(fleet.post.answers(Kind.MASKED)) == len(fleet.roster)


def test_many_large_integers_of_single_precision_add_up_exactly() -> None:
    """More rows than a block holds, each near the largest integer: in one float32 sum the last bits would be lost."""
    mechanism = replace(mechanisms()[2], scale=65_535.0, bits=32)
    vectors = np.zeros((1000, 5), np.float32)
    vectors[:, 0] = np.linspace(0.99, 1.0, 1000)

    def stream(row: int) -> SimulatedStream:
        return SimulatedStream(SimulatedEntropy("row", row))

    together = encode_sum(vectors, mechanism, b"seed", [lambda row=row: stream(row) for row in range(1000)])
    alone = [encode(vector, mechanism, b"seed", own, own) for row, vector in enumerate(vectors) if (own := stream(row))]
    np.testing.assert_array_equal(together, ideal_sum(alone, 32))
