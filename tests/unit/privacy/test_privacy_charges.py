"""What a plan costs, computed by whoever carries it out, and plans whose price would be a lie."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedinfer.errors import Misbehaviour
from fedinfer.messages import Purpose, SumPlan
from fedinfer.privacy.charges import charge, mechanism_of, relation_of
from fedinfer.privacy.design import design
from fedinfer.privacy.events import GaussianEvent, NonPrivate, PoissonSampled, Repeated
from fedinfer.privacy.mechanism import NoiseKind, Rounding
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
    assert relation_of(Unit.EXAMPLE) is Relation.ADD_REMOVE
    assert relation_of(Unit.DEVICE) is Relation.ZERO_OUT
