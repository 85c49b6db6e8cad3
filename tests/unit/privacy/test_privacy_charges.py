"""What a plan costs, computed by whoever carries it out, and plans whose price would be a lie."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedinfer.errors import Misbehaviour
from fedinfer.messages import INDEPENDENT, Purpose, ScheduledRound, SumPlan
from fedinfer.privacy.accounting.events import GaussianEvent, NonPrivate, PoissonSampled, Repeated
from fedinfer.privacy.charges import charge, mechanism_of, relation_of, server_charge, strategy_of
from fedinfer.privacy.mechanism.design import design
from fedinfer.privacy.mechanism.mechanism import NoiseKind, Rounding
from fedinfer.types import AggregationMode, Relation, Trust, Unit
from fedinfer.wire import encode

MECHANISM = design(
    kind=NoiseKind.SKELLAM, rounding=Rounding.DITHERED, dimension=10, clipping_norm=1.0, noise_multiplier=3.0,
    contributors=4, summands=6, units=60, max_loss=0.01,
)  # fmt: skip
PLAN = SumPlan(
    run_id="run", round_id="round-1", purpose=Purpose.TRAIN, mode=AggregationMode.PROTOCOL, unit=Unit.EXAMPLE,
    trust=Trust.DISTRIBUTED, cohort=tuple("abcdef"), degree=5, threshold=5, min_survivors=5, bits=MECHANISM.bits,
    dimension=MECHANISM.padded, mechanism=encode(MECHANISM), noise_multiplier=0.0, sampling_rate=0.2, local_steps=1,
    rotation_seed=bytes(32), work_hash=bytes(32),
)  # fmt: skip


def test_distributed_noise_is_charged_as_its_mechanism_says() -> None:
    assert mechanism_of(PLAN) == MECHANISM
    assert charge(PLAN) == (MECHANISM.event(0.2),)


def test_noise_outside_the_ring_is_gaussian() -> None:
    local = replace(PLAN, trust=Trust.LOCAL, noise_multiplier=1.5, local_steps=7)
    assert charge(local) == (Repeated(PoissonSampled(0.2, GaussianEvent(1.5)), 7),)
    central = replace(PLAN, trust=Trust.CENTRAL, noise_multiplier=1.5, sampling_rate=1.0)
    assert charge(central) == (Repeated(GaussianEvent(1.5), 1),)


TURN = ScheduledRound(coefficients=(1.0, 0.5), rounds=9, limit=3, separation=4, index=4)
CORRELATED = replace(PLAN, trust=Trust.CENTRAL, noise_multiplier=1.5, sampling_rate=1.0, scheduled=TURN)


def at(index: int) -> SumPlan:
    return replace(CORRELATED, scheduled=replace(TURN, index=index))


def test_correlated_noise_is_charged_by_the_turn() -> None:
    """Columns 0 and 4 have norm^2 1.25; column 8 is the last row alone; none of them overlap."""
    prices = [charge(at(index))[0].noise_multiplier for index in range(9)]  # type: ignore[union-attr] # Gaussian
    assert prices == pytest.approx([1.5 / 1.25**0.5] * 8 + [1.5])


def test_a_ledger_for_every_unit_pays_at_the_first_round_of_a_turn() -> None:
    for index in range(9):
        assert server_charge(at(index)) == (charge(at(index)) if index in (0, 4, 8) else ())
    assert server_charge(replace(CORRELATED, scheduled=INDEPENDENT)) == (Repeated(GaussianEvent(1.5), 1),)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trust": Trust.LOCAL}, "with local trust"),
        ({"trust": Trust.DISTRIBUTED}, "with distributed trust"),
        ({"unit": Unit.NONE}, "unit none"),
        ({"sampling_rate": 0.5}, "sampling rate 0.5"),
        ({"local_steps": 2}, "2 local steps"),
        ({"scheduled": replace(TURN, index=9)}, "index 9"),
        ({"scheduled": replace(TURN, index=-1)}, "index -1"),
        ({"scheduled": replace(TURN, limit=1)}, "cycle 1 of 1"),
        ({"scheduled": replace(TURN, limit=0)}, "0 participations"),
        ({"scheduled": replace(TURN, separation=0)}, "0 apart"),
        ({"scheduled": replace(TURN, coefficients=(1.0, 1.1))}, "must start with 1, fall"),
        ({"scheduled": replace(TURN, coefficients=(1.0, -0.1))}, "must start with 1, fall"),
        ({"scheduled": replace(TURN, coefficients=(1.0, float("nan")))}, "must start with 1, fall"),
        ({"scheduled": replace(TURN, coefficients=(0.1,))}, "must start with 1, fall"),
        ({"scheduled": replace(TURN, coefficients=(1.0,) * 10)}, "10 coefficients for 9 rounds"),
    ],
)
def test_correlated_noise_that_nobody_proved_has_no_price(changes: dict[str, object], words: str) -> None:
    with pytest.raises(Misbehaviour, match=words):
        charge(replace(CORRELATED, **changes))  # type: ignore[arg-type] # changes are fields


def test_what_may_not_change_between_turns() -> None:
    strategies = {strategy_of(at(index)) for index in range(9)}
    assert len(strategies) == 1
    for changed in (
        replace(CORRELATED, noise_multiplier=1.4),
        replace(CORRELATED, mechanism=encode(replace(MECHANISM, scale=1.0))),
        replace(CORRELATED, scheduled=replace(TURN, separation=5)),
        replace(CORRELATED, scheduled=replace(TURN, rounds=10)),
        replace(CORRELATED, scheduled=replace(TURN, coefficients=(1.0, 0.4))),
    ):
        assert strategy_of(changed) not in strategies


def test_no_unit_is_never_private() -> None:
    assert charge(replace(PLAN, unit=Unit.NONE)) == (NonPrivate(),)


def test_noise_of_more_devices_than_promised_is_refused() -> None:
    """A server that sizes shares for 1,000 devices and sums 5 would have devices believe in noise that is not there."""
    with pytest.raises(Misbehaviour, match="counts on 4 shares, only 3 survivors"):
        charge(replace(PLAN, min_survivors=3))


def test_a_mechanism_for_another_unit_or_ring_is_refused() -> None:
    with pytest.raises(Misbehaviour, match="protects a example"):
        charge(replace(PLAN, unit=Unit.DEVICE))
    with pytest.raises(Misbehaviour, match="the mechanism needs"):
        charge(replace(PLAN, bits=PLAN.bits + 1))


def test_relations() -> None:
    assert relation_of(Unit.EXAMPLE) is Relation.ZERO_OUT
    assert relation_of(Unit.DEVICE) is Relation.ZERO_OUT


def test_noise_that_would_take_days_to_draw_is_refused_before_it_is_drawn() -> None:
    """It fits the ring, and is a sum of more samples than a device draws for one report."""
    endless = replace(MECHANISM, bits=32, scale=2.0**20, noise_multiplier=1000.0)
    plan = replace(PLAN, mechanism=encode(endless), bits=endless.bits, dimension=endless.padded)
    with pytest.raises(Misbehaviour, match=r"one share of noise takes .* samples, this device draws"):
        mechanism_of(plan)
    large = replace(endless, noise_multiplier=0.01)
    assert mechanism_of(replace(plan, mechanism=encode(large))) == large


@pytest.mark.parametrize(
    "changes", [{"scale": 2.0**40, "noise_multiplier": 1e-9}, {"scale": 1.0, "noise_multiplier": 1e12}]
)
def test_a_signal_or_a_share_of_noise_beyond_the_ring_is_refused(changes: dict[str, float]) -> None:
    """Either alone is enough: nobody could decode such a sum."""
    beyond = replace(MECHANISM, bits=32, **changes)
    with pytest.raises(Misbehaviour, match="in a ring of 32 bits"):
        mechanism_of(replace(PLAN, mechanism=encode(beyond), bits=32))
