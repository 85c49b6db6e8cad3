"""The integer mechanism: what comes back, what one unit can change, and what `design` promises."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fedinfer import wire
from fedinfer.errors import ConfigError, DataError
from fedinfer.privacy.accounting.accountant import account, rdp_epsilon
from fedinfer.privacy.accounting.events import (
    DiscreteGaussianEvent,
    GaussianEvent,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SkellamEvent,
)
from fedinfer.privacy.mechanism.clipping import row_norms
from fedinfer.privacy.mechanism.design import design, design_without_noise, largest_sum
from fedinfer.privacy.mechanism.encoding import decode, encode, to_integers
from fedinfer.privacy.mechanism.mechanism import (
    IntegerMechanism,
    NoiseKind,
    Rounding,
    conditional_bound,
    decoded_sensitivity,
    loss,
    magnitude,
)
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.privacy.mechanism.rotation import rotate, rotate_back
from fedinfer.privacy.mechanism.tables import MAX_VARIANCE
from fedinfer.system import SimulatedEntropy, simulation_rng
from fedinfer.types import Relation, Unit

SEED = b"a public rotation seed"


def stream(*name: object) -> SimulatedStream:
    return SimulatedStream(SimulatedEntropy("mechanism", *map(str, name)))


def designed(**changes: object) -> IntegerMechanism:
    plan: dict[str, object] = {
        "kind": NoiseKind.SKELLAM, "rounding": Rounding.CONDITIONAL, "dimension": 300, "clipping_norm": 0.7,
        "noise_multiplier": 2.0, "contributors": 12, "summands": 20, "units": 20, "max_loss": 0.01,
    }  # fmt: skip
    return design(**(plan | changes))  # type: ignore[arg-type]  # keywords of a test


def unit_rows(n: int, d: int, norm: float) -> np.ndarray:
    rows = simulation_rng("rows", n, d).normal(size=(n, d))
    return (rows * norm / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def ring_sum(encoded: np.ndarray, mechanism: IntegerMechanism) -> np.ndarray:
    return (encoded.astype(np.uint64).sum(axis=0) & ((1 << mechanism.bits) - 1)).astype(np.uint32)


SETTINGS = [
    {},
    {"kind": NoiseKind.DISCRETE_GAUSSIAN},
    {"dimension": 1, "clipping_norm": 3.0},
    {"dimension": 3, "summands": 4, "units": 4, "contributors": 2, "noise_multiplier": 30.0},
    {"dimension": 1024, "summands": 200, "units": 200, "contributors": 120},
    {"dimension": 5000, "noise_multiplier": 0.4},
    {"rounding": Rounding.DITHERED, "dimension": 64, "units": 900, "summands": 4, "contributors": 2},
    {"rounding": Rounding.DITHERED, "kind": NoiseKind.DISCRETE_GAUSSIAN, "dimension": 20, "units": 90},
    {"rounding": Rounding.DITHERED, "dimension": 64, "units": 900, "noise_multiplier": 30.0},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=range(len(SETTINGS)))
def test_the_decoded_sum_is_right_and_its_noise_as_large_as_promised(changes: dict[str, object]) -> None:
    mechanism = designed(**changes)
    n = mechanism.summands
    per_device = mechanism.units // n if mechanism.rounding is Rounding.DITHERED else 1
    rows = unit_rows(n, mechanism.dimension, mechanism.clipping_norm) * np.float32(per_device)
    errors = []
    for trial in range(max(1, 4000 // mechanism.dimension)):
        seed = SEED + bytes([trial % 256, trial // 256])
        encoded = encode(rows, mechanism, seed, stream("noise", trial), stream("round", trial))
        assert (encoded.dtype, encoded.shape) == (np.uint32, (n, mechanism.padded))
        assert int(encoded.max()) < 1 << mechanism.bits
        errors.append(decode(ring_sum(encoded, mechanism), mechanism, seed) - rows.sum(axis=0, dtype=np.float64))
    std = np.concatenate(errors).std()
    promised = mechanism.noise_multiplier * mechanism.clipping_norm
    with_all = promised * math.sqrt(n / mechanism.contributors)
    assert std == pytest.approx(with_all, rel=0.1)
    assert mechanism.contributors * mechanism.share_variance >= (promised * mechanism.scale) ** 2


@pytest.mark.parametrize("changes", SETTINGS, ids=range(len(SETTINGS)))
def test_design_keeps_its_promises(changes: dict[str, object]) -> None:
    mechanism = designed(**changes)
    assert loss(mechanism) <= 0.01
    assert magnitude(mechanism) <= 2 ** (mechanism.bits - 1) - 1
    ideal = Repeated(GaussianEvent(mechanism.noise_multiplier), 20)
    for relation in (Relation.ADD_REMOVE, Relation.REPLACE_ONE):
        gaussian = rdp_epsilon([ideal], 1e-5, relation)
        if gaussian < 20:
            real = account([Repeated(mechanism.event(1.0), 20)], 1e-5, relation).epsilon
            assert real <= 1.0101 * gaussian


@pytest.mark.parametrize(("dimension", "most"), [(64, 16), (1024, 16), (65_536, 20), (1_048_576, 24)])
def test_rings_are_narrow_where_that_is_enough(dimension: int, most: int) -> None:
    """Research table: 16 bits do for 65k and 20 for 1M coordinates at 100 devices and 1.3 %; here every wrap is
    excluded to 2^-30 for the worst sum of updates, which takes up to 4 bits more."""
    mechanism = designed(dimension=dimension, noise_multiplier=10.0, contributors=60, summands=100, units=100)
    assert mechanism.bits <= most


@pytest.mark.parametrize("z", [1.0, 2.0, 10.0])
def test_sampled_rounds_lose_little_too(z: float) -> None:
    mechanism = designed(
        rounding=Rounding.DITHERED, dimension=64, units=400, summands=4, contributors=2, noise_multiplier=z
    )
    for rate in (0.01, 0.1, 0.5):
        ideal = rdp_epsilon([Repeated(PoissonSampled(rate, GaussianEvent(z)), 50)], 1e-5, Relation.ADD_REMOVE)
        real = account([Repeated(mechanism.event(rate), 50)], 1e-5, Relation.ADD_REMOVE).epsilon
        assert real <= 1.01 * ideal


def test_infeasible_rings_say_how_many_bits_they_need() -> None:
    with pytest.raises(ConfigError, match=r"need a ring of \d+ bits, limit 32"):
        designed(noise_multiplier=1e9, max_loss=1e-6)
    with pytest.raises(ConfigError, match="loss must be positive"):
        designed(max_loss=0.0)
    with pytest.raises(ConfigError):
        designed(kind=NoiseKind.NONE, noise_multiplier=0.0)


def test_conditional_rounding_stays_within_its_bound_always() -> None:
    for dimension, scaled in ((1, 1.0), (16, 3.0), (300, 12.0), (300, 500.0)):
        mechanism = replace(designed(dimension=dimension), scale=scaled / 0.7)
        rows = unit_rows(4000 // dimension + 5, dimension, 5.0)  # longer than the clipping norm
        integers = to_integers(rows, mechanism, SEED, stream("bound", dimension, scaled))
        squares = (integers**2).sum(axis=1)
        assert squares.max() <= conditional_bound(mechanism.scale * 0.7, mechanism.padded)
        assert math.sqrt(squares.max()) <= mechanism.l2
        assert np.abs(integers).sum(axis=1).max() <= mechanism.l1


def test_the_bound_holds_even_when_the_rounding_is_hostile() -> None:
    """Rounding words are not trusted: with all of them at their largest every coordinate is rounded up at first."""

    class UpThenFair:
        def __init__(self) -> None:
            self.calls, self.fair = 0, stream("fair")

        def words(self, count: int) -> np.ndarray:
            self.calls += 1
            return np.full(count, 2**64 - 1, np.uint64) if self.calls == 1 else self.fair.words(count)

    mechanism = replace(designed(dimension=256), scale=5.0)
    hostile = UpThenFair()
    integers = to_integers(unit_rows(1, 256, 0.7), mechanism, SEED, hostile)
    assert hostile.calls > 1, "what was rounded up is not within the bound and is rounded again"
    assert (integers**2).sum(axis=1).max() <= conditional_bound(5.0 * 0.7, 256)


def test_a_row_that_nobody_clipped_is_an_error_and_never_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing again does not help it; without an end to that, a device would draw for ever."""
    mechanism = replace(designed(dimension=256), scale=20.0)
    monkeypatch.setattr("fedinfer.privacy.mechanism.encoding.clip_rows", lambda rows, norm: rows)
    with pytest.raises(DataError, match="not clipped"):
        to_integers(unit_rows(3, 256, 1.4), mechanism, SEED, stream("unclipped"))


def test_rounding_is_unbiased() -> None:
    mechanism = replace(designed(dimension=4, rounding=Rounding.DITHERED), scale=1.0)
    rows = np.tile(np.array([[0.3, -0.2, 0.7, 0.05]], np.float32), (200_000, 1))
    mean = to_integers(rows, mechanism, SEED, stream("unbiased")).mean(axis=0)
    exact = rotate(rows[:1].astype(np.float64), SEED, 4)[0]
    assert np.abs(mean - exact).max() < 5 * 0.5 / math.sqrt(200_000)


def test_one_example_moves_a_dithered_sum_by_no_more_than_l2() -> None:
    mechanism = replace(designed(dimension=64, rounding=Rounding.DITHERED, units=500), scale=7.0)
    rng = simulation_rng("examples")
    others = rng.normal(size=(2000, 64)).astype(np.float32) * 3
    example = unit_rows(2000, 64, 0.7)
    without = to_integers(others, mechanism, SEED, stream("same dither"))
    with_it = to_integers(others + example, mechanism, SEED, stream("same dither"))
    moved = with_it - without
    assert np.sqrt((moved**2).sum(axis=1)).max() <= mechanism.l2
    assert np.abs(moved).sum(axis=1).max() <= mechanism.l1
    exact = rotate(example.astype(np.float64), SEED, 64) * 7.0
    assert np.abs(moved - exact).max() < 1 + 1e-5


def test_a_gradient_that_float32_made_longer_is_within_l2_too() -> None:
    """0.1 in float32 is above 0.1: clipped to that, one example moves integers of a fine scale beyond s C + 1."""
    mechanism = IntegerMechanism(
        NoiseKind.NONE, 1, 0.1, 0.0, 32, 1e9, 1, 4, 4, Rounding.DITHERED, Unit.EXAMPLE
    )  # fmt: skip
    clipped, moved = np.array([[float(np.float32(0.1))]]), []
    for seed in range(20):
        with_it, without = (
            to_integers(rows, mechanism, b"r", SimulatedStream(SimulatedEntropy("slack", seed)))
            for rows in (clipped, np.zeros((1, 1)))
        )
        moved.append(abs(int(with_it[0, 0] - without[0, 0])))
    assert 1e9 * 0.1 + 1 < max(moved) <= mechanism.l2


def test_the_event_counts_only_guaranteed_shares() -> None:
    """Dropouts and dishonest devices: noise above `contributors` shares is never claimed."""
    mechanism = designed()
    event = mechanism.event(1.0)
    assert isinstance(event, SkellamEvent)
    assert event.variance == mechanism.contributors * mechanism.share_variance
    assert (event.l2, event.l1) == (mechanism.l2, mechanism.l1)
    fewer = designed(contributors=6)
    assert fewer.share_variance > mechanism.share_variance  # fewer honest devices, more noise from each
    assert fewer.event(1.0).variance / fewer.scale**2 >= (2.0 * 0.7) ** 2
    sampled = mechanism_example().event(0.25)
    assert isinstance(sampled, PoissonSampled)
    assert sampled.rate == 0.25


def mechanism_example() -> IntegerMechanism:
    return designed(rounding=Rounding.DITHERED, dimension=40, units=100)


def test_large_discrete_gaussian_shares_are_counted_in_the_parts_they_are_drawn_in() -> None:
    mechanism = designed(
        kind=NoiseKind.DISCRETE_GAUSSIAN, rounding=Rounding.DITHERED, dimension=64, noise_multiplier=50.0, units=50
    )
    event = mechanism.event(1.0)
    assert isinstance(event, DiscreteGaussianEvent)
    assert event.variance_per_share <= MAX_VARIANCE
    assert event.shares > mechanism.contributors
    assert event.shares * event.variance_per_share == mechanism.contributors * mechanism.share_variance


def test_without_noise_the_sum_never_wraps_and_has_a_sensitivity() -> None:
    for rounding, unit, units in (
        (Rounding.CONDITIONAL, Unit.DEVICE, 50),
        (Rounding.DITHERED, Unit.EXAMPLE, 1000),
        (Rounding.CONDITIONAL, Unit.NONE, 50),
    ):
        mechanism = design_without_noise(
            rounding=rounding, unit=unit, dimension=130, clipping_norm=2.0, summands=50, units=units, max_loss=0.01
        )
        assert largest_sum(mechanism) <= 2 ** (mechanism.bits - 1) - 1
        assert isinstance(mechanism.event(1.0), NonPrivate)
        per_device = 1 if rounding is Rounding.CONDITIONAL else units // 50
        rows = np.tile(unit_rows(1, 130, 2.0 * per_device), (50, 1))  # all aligned: the largest sum there is
        quiet = stream("unused")
        total = ring_sum(encode(rows, mechanism, SEED, quiet, stream("r")), mechanism)
        error = decode(total, mechanism, SEED) - rows.sum(axis=0)
        assert np.abs(error).max() < 50 * 1.1 / mechanism.scale
        if unit is Unit.NONE:
            with pytest.raises(ConfigError, match="no sensitivity"):
                decoded_sensitivity(mechanism)
        else:
            assert 2.0 < decoded_sensitivity(mechanism) <= 2.0 * math.sqrt(1.01)


def test_central_noise_has_a_true_multiplier() -> None:
    mechanism = design_without_noise(
        rounding=Rounding.DITHERED, unit=Unit.EXAMPLE, dimension=33, clipping_norm=1.0, summands=3, units=200,
        max_loss=0.01,
    )  # fmt: skip
    others = simulation_rng("central").normal(size=(500, 33)).astype(np.float32)
    example = unit_rows(500, 33, 1.0)
    worst = 0.0
    for row in range(0, 500, 5):
        seed = SEED + bytes([row // 5])
        pair = np.stack([others[row], others[row] + example[row]])
        sums = []
        for vector in pair:
            encoded = encode(vector, mechanism, seed, stream("unused"), stream("dither", row))
            sums.append(decode(encoded, mechanism, seed).astype(np.float64))
        worst = max(worst, float(np.linalg.norm(sums[1] - sums[0])))
    assert worst <= decoded_sensitivity(mechanism)


def test_rotation_keeps_norms_and_spreads_a_single_spike() -> None:
    rows = np.zeros((2, 4096))
    rows[0, 17], rows[1, :] = 5.0, simulation_rng("rotation").normal(size=4096)
    before = rows.copy()
    turned = rotate(rows.copy(), SEED, 4096)
    assert np.allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(before, axis=1))
    assert np.abs(turned[0]).max() == pytest.approx(5.0 / 64)
    assert np.allclose(rotate_back(turned, SEED), before)
    assert not np.allclose(rotate(before, b"another seed", 4096), rotate(before, SEED, 4096))


def test_batches_encode_to_the_same_bits_as_single_vectors() -> None:
    """No noise share: noise words are drawn in order of rows, so only the rounding of one row is compared."""
    mechanism = designed(rounding=Rounding.DITHERED, dimension=50, units=60)
    rows = unit_rows(6, 50, 0.5)
    together = to_integers(rows, mechanism, SEED, stream("batch"))
    first = to_integers(rows[:1], mechanism, SEED, stream("batch"))
    assert np.array_equal(together[:1], first)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rounding", list(Rounding))
def test_broken_vectors_are_refused(bad: float, rounding: Rounding) -> None:
    mechanism = designed(rounding=rounding, dimension=5)
    vector = np.array([0, 1, bad, 0, 0], np.float32)
    with pytest.raises(DataError):
        encode(vector, mechanism, SEED, stream("n"), stream("r"))


def test_wrong_shapes_are_refused() -> None:
    mechanism = designed(dimension=5)
    with pytest.raises(ConfigError, match="encodes 5"):
        encode(np.zeros(6, np.float32), mechanism, SEED, stream("n"), stream("r"))
    with pytest.raises(ConfigError, match="not in the ring"):
        decode(np.zeros(5, np.uint32), mechanism, SEED)
    with pytest.raises(ConfigError, match="not in the ring"):
        decode(np.full(8, 2**mechanism.bits, np.uint32), mechanism, SEED)


def test_huge_sums_of_examples_are_refused_not_garbled() -> None:
    mechanism = designed(rounding=Rounding.DITHERED, dimension=5)
    with pytest.raises(DataError, match="no exact integer"):
        encode(np.full(5, 1e30, np.float32), mechanism, SEED, stream("n"), stream("r"))


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension": 0},
        {"contributors": 0},
        {"contributors": 21},
        {"clipping_norm": 0.0},
        {"clipping_norm": math.nan},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"units": 0},
    ],
)
def test_senseless_mechanisms_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        designed(**changes)


def test_rounding_and_unit_must_belong_together() -> None:
    mechanism = designed()
    with pytest.raises(ConfigError, match="does not bound"):
        replace(mechanism, unit=Unit.EXAMPLE)
    with pytest.raises(ConfigError, match="protects a unit"):
        replace(mechanism, unit=Unit.NONE)


def test_a_mechanism_travels_and_its_digest_names_every_field() -> None:
    mechanism = designed()
    assert wire.decode(IntegerMechanism, wire.encode(mechanism)) == mechanism
    digests = {mechanism.digest()}
    for field, value in (
        ("kind", NoiseKind.DISCRETE_GAUSSIAN),
        ("dimension", 299),
        ("clipping_norm", 0.71),
        ("noise_multiplier", 2.01),
        ("bits", 20),
        ("scale", 1.0),
        ("contributors", 11),
        ("summands", 21),
        ("units", 21),
    ):
        digests.add(replace(mechanism, **{field: value}).digest())
    assert len(digests) == 10
    broken = wire.encode(mechanism)[:-1]
    with pytest.raises(Exception, match="truncated"):
        wire.decode(IntegerMechanism, broken)


def test_clipped_rows_never_exceed_the_norm_in_double_precision() -> None:
    from fedinfer.privacy.mechanism.clipping import clip_rows

    rows = unit_rows(5000, 37, 1.0) * simulation_rng("lengths").uniform(0.5, 50, (5000, 1)).astype(np.float32)
    clipped = clip_rows(rows, 1.0)
    assert row_norms(clipped).max() <= 1.0
    short = row_norms(rows) <= 1.0
    assert np.array_equal(clipped[short], rows[short])
    assert row_norms(clipped)[~short].min() > 1 - 1e-5
    with pytest.raises(ConfigError):
        clip_rows(rows, 0.0)


@pytest.mark.parametrize(("rounding", "unit"), [(Rounding.CONDITIONAL, Unit.DEVICE), (Rounding.DITHERED, Unit.EXAMPLE)])
def test_without_shares_nothing_is_padded_or_rotated_and_the_worst_sum_fits(rounding: Rounding, unit: Unit) -> None:
    """A rotation would spread what lies in one coordinate of all devices; here the ring has room for it."""
    mechanism = design_without_noise(
        rounding=rounding, unit=unit, dimension=9, clipping_norm=0.5, summands=40, units=40, max_loss=0.01
    )
    assert mechanism.padded == 9 < designed(dimension=9).padded
    rows = np.zeros((40, 9), np.float32)
    rows[:, 4] = -0.5
    integers = to_integers(rows, mechanism, SEED, stream("worst"))
    assert not integers[:, [0, 1, 2, 3, 5, 6, 7, 8]].any()
    encoded = encode(rows, mechanism, SEED, stream("worst"), stream("worst"))
    np.testing.assert_array_equal(encoded, encode(rows, mechanism, b"another", stream("worst"), stream("worst")))
    total = decode(ring_sum(encoded, mechanism), mechanism, SEED)
    np.testing.assert_allclose(total, rows.sum(0), atol=40 / mechanism.scale)


def test_a_ring_that_is_too_narrow_for_every_sum_needs_the_rotation_without_shares_too() -> None:
    """An audit takes the shares out of a mechanism whose ring counts on the rotation."""
    with_shares = designed(dimension=1024, summands=200, units=200, contributors=120)
    silent = replace(with_shares, kind=NoiseKind.NONE, noise_multiplier=0.0)
    assert silent.rotated
    rows = np.zeros((200, 1024), np.float32)
    rows[:, 3] = 0.7
    encoded = encode(rows, silent, SEED, stream("silent"), stream("silent"))
    np.testing.assert_allclose(decode(ring_sum(encoded, silent), silent, SEED), rows.sum(0), atol=200 / silent.scale)
