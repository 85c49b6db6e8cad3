"""Properties of the privacy room, for inputs nobody thought of."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer import wire
from fedinfer.privacy.accounting.accountant import account, rdp_epsilon
from fedinfer.privacy.accounting.events import (
    Composed,
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SkellamEvent,
    event_from_json,
    event_to_json,
    flatten,
)
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Budget, Ledger
from fedinfer.privacy.accounting.ledger_records import Protected
from fedinfer.privacy.mechanism.clipping import clip_rows, row_norms
from fedinfer.privacy.mechanism.design import design, design_without_noise, largest_sum
from fedinfer.privacy.mechanism.encoding import decode, encode, to_integers
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding, loss, magnitude
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.store import open_store
from fedinfer.system import SimulatedEntropy, simulation_rng
from fedinfer.types import Relation, Unit

sizes = st.floats(0.05, 1e4)
noises = st.one_of(
    st.builds(GaussianEvent, sizes),
    st.builds(SkellamEvent, st.floats(1, 1e8), st.floats(0.5, 1e4), st.floats(0.5, 1e6)),
    st.builds(
        DiscreteGaussianEvent,
        st.floats(0.1, 1e7),
        st.integers(1, 500),
        st.floats(0.5, 1e4),
        st.floats(0.5, 1e6),
        st.integers(1, 4096),
    ),
)
singles = st.one_of(noises, st.builds(PoissonSampled, st.floats(1e-4, 1.0), noises))
events = st.recursive(
    st.one_of(singles, st.just(NonPrivate())),
    lambda inner: st.one_of(
        st.builds(Repeated, inner, st.integers(0, 50)),
        st.builds(lambda parts: Composed(tuple(parts)), st.lists(inner, max_size=3)),
    ),
    max_leaves=5,
)
mechanisms = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([NoiseKind.SKELLAM, NoiseKind.DISCRETE_GAUSSIAN]),
        "rounding": st.sampled_from(list(Rounding)),
        "dimension": st.integers(1, 130),
        "clipping_norm": st.floats(1e-4, 1e4),
        "noise_multiplier": st.floats(0.1, 20.0),
        "contributors": st.integers(1, 10),
        "extra": st.integers(0, 6),
        "max_loss": st.sampled_from([0.01, 0.03, 0.1]),
    }
)


def designed(drawn: dict[str, object]) -> IntegerMechanism:
    summands = int(drawn["contributors"]) + int(drawn["extra"])  # type: ignore[call-overload]  # drawn as an integer
    rest = {name: value for name, value in drawn.items() if name != "extra"}
    return design(**rest, summands=summands, units=summands * 3)  # type: ignore[arg-type]  # drawn by name


def stream(seed: int, use: str) -> SimulatedStream:
    return SimulatedStream(SimulatedEntropy("property", seed, use))


@given(events)
def test_events_survive_json(event: Event) -> None:
    assert event_from_json(event_to_json(event)) == event
    assert flatten([event]) == flatten([event_from_json(event_to_json(event))])


@settings(deadline=None, max_examples=40)
@given(st.lists(singles, min_size=1, max_size=3), st.sampled_from(list(Relation)), st.floats(1e-9, 1e-2))
def test_more_events_never_cost_less(parts: list[Event], relation: Relation, delta: float) -> None:
    less, more = rdp_epsilon(parts[:-1], delta, relation), rdp_epsilon(parts, delta, relation)
    assert less <= more * (1 + 1e-12)
    assert rdp_epsilon([*parts, parts[0]], delta, relation) >= more * (1 - 1e-12)


@settings(deadline=None, max_examples=60)
@given(noises, st.floats(1e-4, 0.999), st.floats(1e-9, 1e-2))
def test_relations_and_sampling_are_ordered(noise: GaussianEvent, rate: float, delta: float) -> None:
    add, replace_one = (rdp_epsilon([noise], delta, r) for r in (Relation.ADD_REMOVE, Relation.REPLACE_ONE))
    assert add <= replace_one
    assert rdp_epsilon([noise], delta, Relation.ZERO_OUT) == add
    assert rdp_epsilon([PoissonSampled(rate, noise)], delta, Relation.ADD_REMOVE) <= add
    assert rdp_epsilon([PoissonSampled(rate, noise)], delta, Relation.REPLACE_ONE) <= replace_one
    assert account([noise], delta, Relation.ADD_REMOVE).epsilon <= add


@settings(deadline=None, max_examples=60)
@given(mechanisms)
def test_designs_keep_their_promises(drawn: dict[str, object]) -> None:
    mechanism = designed(drawn)
    assert loss(mechanism) <= float(str(drawn["max_loss"]))
    assert magnitude(mechanism) <= 2 ** (mechanism.bits - 1) - 1
    wanted = mechanism.scale * mechanism.clipping_norm * mechanism.noise_multiplier
    assert mechanism.contributors * mechanism.share_variance >= wanted**2 * (1 - 1e-12)
    assert wire.decode(IntegerMechanism, wire.encode(mechanism)) == mechanism


@settings(deadline=None, max_examples=60)
@given(mechanisms, st.integers(0, 2**30), st.floats(0.01, 30.0))
def test_one_device_changes_the_integers_by_at_most_the_bound(
    drawn: dict[str, object], seed: int, length: float
) -> None:
    mechanism = designed(drawn | {"rounding": Rounding.CONDITIONAL})
    rows = simulation_rng("device", seed).normal(size=(4, mechanism.dimension)).astype(np.float32)
    rows *= np.float32(length * mechanism.clipping_norm)
    integers = to_integers(rows, mechanism, b"seed", stream(seed, "round"))
    assert np.sqrt((integers.astype(float) ** 2).sum(axis=1)).max() <= mechanism.l2
    assert np.abs(integers).sum(axis=1).max() <= mechanism.l1


@settings(deadline=None, max_examples=60)
@given(mechanisms, st.integers(0, 2**30), st.floats(0.05, 1.0), st.floats(0.001, 5.0))
def test_one_example_changes_the_integers_by_at_most_the_bound(
    drawn: dict[str, object], seed: int, coarseness: float, others: float
) -> None:
    mechanism = designed(drawn | {"rounding": Rounding.DITHERED})
    mechanism = replace(mechanism, scale=mechanism.scale * coarseness**4)
    rng, c = simulation_rng("example", seed), mechanism.clipping_norm
    base = (rng.normal(size=(4, mechanism.dimension)) * c * others).astype(np.float32)
    example = rng.normal(size=(4, mechanism.dimension))
    example = clip_rows((example / np.linalg.norm(example, axis=1, keepdims=True) * c).astype(np.float32), c)
    both = [to_integers(rows, mechanism, b"seed", stream(seed, "dither")) for rows in (base, base + example)]
    moved = both[1] - both[0]
    assert np.sqrt((moved.astype(float) ** 2).sum(axis=1)).max() <= mechanism.l2
    assert np.abs(moved).sum(axis=1).max() <= mechanism.l1


@settings(deadline=None, max_examples=60)
@given(mechanisms, st.integers(0, 2**30))
def test_sums_decode_within_noise_and_rounding(drawn: dict[str, object], seed: int) -> None:
    mechanism = designed(drawn)
    n = mechanism.summands
    rows = simulation_rng("sum", seed).normal(size=(n, mechanism.dimension)).astype(np.float32)
    rows = clip_rows(rows, mechanism.clipping_norm)
    ring = encode(rows, mechanism, b"r", stream(seed, "noise"), stream(seed, "round"))
    total = (ring.astype(np.uint64).sum(axis=0) & ((1 << mechanism.bits) - 1)).astype(np.uint32)
    error = decode(total, mechanism, b"r") - rows.sum(axis=0, dtype=np.float64)
    std = math.sqrt(n * mechanism.share_variance + n / 4) / mechanism.scale
    assert np.abs(error).max() < 9 * std + 1e-5 * n * mechanism.clipping_norm


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([(Rounding.CONDITIONAL, Unit.DEVICE), (Rounding.DITHERED, Unit.EXAMPLE)]),
    st.integers(1, 200),
    st.floats(1e-3, 1e3),
    st.integers(1, 50),
    st.integers(1, 20),
)
def test_sums_without_noise_never_wrap(
    which: tuple[Rounding, Unit], dimension: int, norm: float, summands: int, per_device: int
) -> None:
    rounding, unit = which
    units = summands * (per_device if unit is Unit.EXAMPLE else 1)
    mechanism = design_without_noise(
        rounding=rounding, unit=unit, dimension=dimension, clipping_norm=norm, summands=summands, units=units,
        max_loss=0.01,
    )  # fmt: skip
    assert largest_sum(mechanism) <= 2 ** (mechanism.bits - 1) - 1
    row = np.zeros((1, dimension), np.float32)
    row[0, 0] = norm * (1 - 1e-6) * (units // summands)
    integers = to_integers(np.tile(row, (summands, 1)), mechanism, b"s", stream(dimension, "r")).sum(axis=0)
    assert np.abs(integers).max() <= 2 ** (mechanism.bits - 1) - 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**30), st.floats(1e-20, 1e20), st.floats(1e-6, 1e6))
def test_clipping_never_exceeds_the_norm(seed: int, length: float, norm: float) -> None:
    rows = (simulation_rng("clip", seed).normal(size=(3, 17)) * length).astype(np.float32)
    assert row_norms(clip_rows(rows, norm)).max() <= norm


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.floats(2.0, 40.0)), max_size=25),
    st.floats(0.2, 5.0),
)
def test_a_ledger_never_decreases_never_overspends_never_doubles(
    wishes: list[tuple[str, int, float]], epsilon: float
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        connection = open_store(Path(folder) / "l.sqlite", "ledger", LEDGER_MIGRATIONS)
        ledger = Ledger(connection, Protected(Unit.EXAMPLE, Relation.ADD_REMOVE))
        ledger.open_accounts("ab", "t", Budget(epsilon, 1e-5))
        model: dict[str, dict[int, Event]] = {"a": {}, "b": {}}
        for owner, reference, z in wishes:
            before = ledger.spent(owner, "t").epsilon
            event = GaussianEvent(z)
            granted = ledger.reserve([owner], "t", str(reference), [event], "", now)[owner] is None
            fits = account([*model[owner].values(), event], 1e-5, Relation.ADD_REMOVE).epsilon <= epsilon
            assert granted == (fits and reference not in model[owner])
            if granted:
                model[owner][reference] = event
            assert before <= ledger.spent(owner, "t").epsilon <= epsilon
        for owner in "ab":
            expected = account(list(model[owner].values()), 1e-5, Relation.ADD_REMOVE).epsilon
            assert ledger.spent(owner, "t").epsilon == expected
        connection.close()
