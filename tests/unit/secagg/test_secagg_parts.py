"""Parameters, keys, states, enrolment, ideal sums and groups, each by itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedinfer import secagg
from fedinfer.coordinator.train import robust
from fedinfer.errors import BadMessage, ConfigError, Misbehaviour
from fedinfer.secagg import GraphParameters, IdentityKey, Stage, choose_graph, keys, shamir
from fedinfer.secagg import groups as hierarchy
from fedinfer.secagg.enrolment import Enrolment, Validation, sign_enrolment, verify_enrolment
from fedinfer.secagg.hypergeometric import corrupt_among, share_of
from fedinfer.secagg.revocation import RevocationList
from fedinfer.system import SimulatedEntropy
from tests.protocol.secagg_play import STAGES, World, make_session, names, play

TEN = names(10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_hash": bytes(31)}, "hashes of 31 and 32"), ({"model_hash": bytes(33)}, "hashes of 33"),
        ({"mechanism_hash": bytes(31)}, "32 and 31 bytes"), ({"mechanism_hash": b""}, "32 and 0 bytes"),
        ({"degree": 0}, "degree 0"), ({"degree": 10}, "degree 10"),
        ({"threshold": 1}, "threshold 1 "), ({"threshold": 11}, "threshold 11"),
        ({"min_survivors": 1}, "min_survivors 1 "), ({"min_survivors": 11}, "min_survivors 11"),
        ({"bits": 0}, "0 bits"), ({"bits": 33}, "33 bits"),
        ({"dimension": 0}, "dimension 0"), ({"dimension": (1 << 27) + 1}, "dimension 134217729"),
        ({"cohort": TEN[:1]}, "cohort of 1 devices"), ({"cohort": (*TEN[:9], TEN[8])}, "not sorted and unique"),
        ({"cohort": (TEN[1], TEN[0], *TEN[2:])}, "not sorted and unique"),
        ({"cohort": ("", *TEN[1:])}, "device name ''"),
        ({"cohort": (*TEN[:9], "e\n")}, "device name"),
    ],
    ids=str,
)  # fmt: skip
def test_a_session_outside_its_ranges_is_none(changes, words):
    graph = {"degree": 9, "threshold": 7}
    with pytest.raises(BadMessage, match=words):
        make_session(10, **(graph | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 2}, {"threshold": 10}, {"min_survivors": 2}, {"min_survivors": 10}, {"bits": 1}, {"bits": 32},
        {"dimension": 1}, {"dimension": 1 << 27},
    ],
    ids=str,
)  # fmt: skip
def test_a_session_at_its_limits_is_one(changes):
    graph = {"degree": 9, "threshold": 7}
    session = make_session(10, **(graph | changes))
    assert {name: getattr(session, name) for name in changes} == changes
    assert len(session.sid) == 32


@pytest.mark.parametrize(("n", "threshold"), [(2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (10, 7), (20, 14)])
def test_small_cohorts_are_complete_graphs(n, threshold):
    assert choose_graph(n, 0.0, 0.0) == GraphParameters(n - 1, threshold)


@pytest.mark.parametrize(
    ("n", "dropout", "corruption", "expected"),
    [
        (40, 0.1, 0.1, (10, 6)),
        (100, 0.1, 0.1, (21, 11)),
        (100, 0.25, 0.2, (43, 21)),
        (500, 0.05, 0.1, (37, 25)),
        (500, 0.1, 0.1, (58, 37)),
        (500, 0.25, 0.1, (118, 63)),
        (1000, 0.1, 0.1, (97, 68)),
    ],
)
def test_drawn_graphs(n, dropout, corruption, expected):
    assert choose_graph(n, dropout, corruption) == GraphParameters(*expected)


@pytest.mark.parametrize(
    ("n", "dropout", "corruption"),
    [
        (1, 0.1, 0.1),
        (0, 0.1, 0.1),
        (1000, 1.0, 0.1),
        (1000, -1.0, 0.1),
        (1000, 0.5, 0.5),
        (10, 0.4, 0.0),
        (10, 0.0, 0.95),
        (4, 0.25, 0.5),
        (10_001, 0.1, 0.1),
    ],
)
def test_infeasible_parameters_are_refused_with_numbers(n, dropout, corruption):
    with pytest.raises(ConfigError) as caught:
        choose_graph(n, dropout, corruption)
    assert str(n) in str(caught.value)


@pytest.mark.parametrize(("n", "dropout", "corruption"), [(21, 0.3, 0.3), (30, 0.25, 0.2)])
def test_a_complete_graph_stands_in_where_devices_would_draw_half_of_all(n, dropout, corruption):
    graph = choose_graph(n, dropout, corruption)
    assert graph.degree == n - 1
    assert 2 * graph.threshold > n + corrupt_among(n, corruption)


@pytest.mark.parametrize("n", [40, 100, 301])
def test_a_quorum_is_more_than_two_thirds_or_all_survivors_that_are_promised(n):
    most = make_session(n, min_survivors=n)
    assert 3 * most.quorum > 2 * n >= 3 * (most.quorum - 1)
    few = make_session(n, min_survivors=n // 2)
    assert few.quorum == few.least


def test_more_corrupt_devices_raise_the_threshold_of_a_complete_graph():
    assert choose_graph(10, 0.0, 0.1).threshold == 7
    assert choose_graph(10, 0.0, 0.5).threshold == 8


@pytest.mark.parametrize(("n", "degree"), [(5, 2), (10, 2), (20, 18), (9, 6)])
def test_small_cohorts_with_anything_but_a_complete_graph_are_no_session(n, degree):
    with pytest.raises(BadMessage, match=f"degree {degree} for {n} devices"):
        make_session(n, degree=degree, threshold=2)


@pytest.mark.parametrize(
    ("n", "rate", "dropped", "corrupt"),
    [(4, 0.1, 0, 1), (9, 0.1, 0, 1), (10, 0.1, 1, 1), (11, 0.1, 1, 2), (100, 0.29, 29, 29), (500, 0.0, 0, 0)],
)
def test_dropouts_are_rounded_down_and_corrupt_devices_up(n, rate, dropped, corrupt):
    assert share_of(n, rate) == dropped
    assert corrupt_among(n, rate) == corrupt


@pytest.mark.parametrize("n", [2, 3, 9, 10, 21, 97, 500])
def test_a_rate_made_from_a_number_counts_that_number(n):
    for corrupt in range(n):
        assert corrupt_among(n, hierarchy.rate_of(corrupt, n)) == corrupt


def test_every_weak_point_gives_the_zero_secret_and_no_other_key_is_weak():
    private = X25519PrivateKey.from_private_bytes(b"\x11" * 32)
    assert len(keys._WEAK_POINTS) == 7
    for point in keys._WEAK_POINTS:
        for public in (point, point[:-1] + bytes([point[-1] | 0x80])):
            assert keys.is_weak(public)
            with pytest.raises(ValueError, match=r"shared key|Error computing"):
                private.exchange(X25519PublicKey.from_public_bytes(public))
            with pytest.raises(Misbehaviour):
                keys.agree(b"\x11" * 32, [public])
    assert not keys.is_weak(keys.public_of(b"\x11" * 32))


def test_signatures_fit_one_stage_device_and_context():
    key = IdentityKey.generate(SimulatedEntropy(1))
    good = (Stage.MASKED, "a", b"context", b"body")
    signature = key.sign(keys.statement_bytes(*good))
    assert keys.verify_signature(key.public_bytes, keys.statement_bytes(*good), signature)
    for at, other in enumerate((Stage.SHARES, "b", b"other", b"another")):
        changed = keys.statement_bytes(*good[:at], other, *good[at + 1 :])
        assert not keys.verify_signature(key.public_bytes, changed, signature)
    assert not keys.verify_signature(b"short", b"", signature)


def test_identity_keys_hide_their_private_half():
    key = IdentityKey.generate(SimulatedEntropy(2))
    assert key.private_bytes.hex() not in repr(key)
    assert repr(key.private_bytes) not in repr(key)
    assert IdentityKey(key.private_bytes) == key
    with pytest.raises(BadMessage):
        IdentityKey(b"short")


@pytest.mark.parametrize("stage", STAGES[1:])
def test_states_round_trip_and_hide_their_secrets(stage):
    world = World(make_session(6))
    play(world, until=stage)
    for name, stored in world.states.items():
        state = secagg.decode_state(stored)
        assert secagg.encode_state(state) == stored
        text = repr(state)
        for secret in (*world.secrets[name], world.signing[name].private_bytes):
            assert repr(secret)[2:-1] not in text
            assert secret.hex() not in text


def test_a_device_forgets_what_it_no_longer_needs():
    world = World(make_session(6))
    play(world, until=Stage.SURVIVORS)
    stored = world.states["device-0000"]
    assert world.secrets["device-0000"][0] not in stored
    assert world.secrets["device-0000"][1] not in stored
    world = World(make_session(6))
    play(world)
    stored = world.states["device-0000"]
    assert world.signing["device-0000"].private_bytes not in stored
    assert isinstance(secagg.decode_state(stored), secagg.Finished)


def test_unknown_states_are_refused():
    with pytest.raises(BadMessage):
        secagg.decode_state(b"")
    stored = secagg.encode_state(secagg.Finished(b"s" * 32, "a")).replace(b"Finished", b"Finishes")
    with pytest.raises(BadMessage, match="Finishes"):
        secagg.decode_state(stored)


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (np.zeros(36, np.uint32), r"\(36,\)"),
        (np.zeros((37, 1), np.uint32), r"\(37, 1\)"),
        (np.zeros(37, np.int64), "int64"),
        (np.full(37, 1 << 20, np.uint32), "1048576"),
    ],
)
def test_a_device_does_not_mask_a_vector_that_does_not_fit(vector, reason):
    world = World(make_session(5))
    _, requests = play(world, until=Stage.MASKED)
    world.vectors["device-0000"] = vector
    with pytest.raises(BadMessage, match=reason):
        world.answer("device-0000", requests["device-0000"])


def test_a_device_answers_only_for_its_own_cohort():
    with pytest.raises(Misbehaviour, match="not in the cohort"):
        secagg.answer_keys(make_session(4), IdentityKey.generate(SimulatedEntropy(1)), "other", SimulatedEntropy(2))


def test_the_server_begins_only_with_enrolled_devices():
    world = World(make_session(4))
    roster = {name: key for name, key in world.roster.items() if name != "device-0002"}
    with pytest.raises(ConfigError, match="1 of 4 devices are not enrolled, first device-0002"):
        secagg.begin(world.session, roster)


def test_enrolment_certificates():
    authority, other = (IdentityKey.generate(SimulatedEntropy("ca", i)) for i in range(2))
    public = IdentityKey.generate(SimulatedEntropy("device")).public_bytes
    certificate = sign_enrolment(authority, Enrolment("a", public, 0, 10))
    good, bad = (Validation(key.public_bytes, RevocationList(1, 0, 100, ()), 5) for key in (authority, other))
    verify_enrolment(good, "a", public, certificate)
    for wrong in (
        (bad, "a", public, certificate),
        (good, "b", public, certificate),
        (good, "a", other.public_bytes, certificate),
        (good, "a", public, certificate[:-1]),
    ):
        with pytest.raises(Misbehaviour):
            verify_enrolment(*wrong)


def test_ideal_sums():
    vectors = [np.array([1, 2, 3], np.uint32), np.array([7, 7, 0xFFFFFFFF], np.uint32)]
    assert secagg.ideal_sum(vectors, 3).tolist() == [0, 1, 2]
    assert vectors[0].tolist() == [1, 2, 3]
    assert secagg.ideal_sum(vectors, 32).tolist() == [8, 9, 2]
    for bad in ([], [vectors[0], np.zeros(2, np.uint32)], [np.zeros(3, np.int64)]):
        with pytest.raises(BadMessage):
            secagg.ideal_sum(bad, 8)


def test_shares_are_uniform_over_the_field():
    """Chi-square over 64 bins of 32,768 shares of one fixed secret: within 6 standard deviations of its mean."""
    shares = np.concatenate(
        [
            shamir.share(b"\0" * 32, np.arange(1, 9), 3, SimulatedEntropy("uniform", i).take(32)).ravel()
            for i in range(256)
        ]
    )
    counts = np.bincount(shares * 64 // shamir.PRIME, minlength=64)
    statistic = float((((counts - shares.size / 64) ** 2) / (shares.size / 64)).sum())
    assert abs(statistic - 63) < 6 * np.sqrt(2 * 63)


def test_lagrange_weights_equal_the_textbook_formula():
    points = (3, 65535, 17, 40000, 5)
    weights = shamir._weights(points)
    for i, x in enumerate(points):
        expected = 1
        for j, other in enumerate(points):
            if i != j:
                expected = expected * other * pow(other - x, -1, shamir.PRIME) % shamir.PRIME
        assert weights[i] == expected


MEANS = np.array([[1, 1], [2, 2], [3, 3], [4, -400], [500, 5]], np.float32)


def test_robust_rules_ignore_spoiled_groups():
    assert robust.median(MEANS).tolist() == [3, 2]
    assert robust.trimmed_mean(MEANS, 1).tolist() == [3, 2]
    np.testing.assert_allclose(robust.trimmed_mean(MEANS, 0), MEANS.mean(axis=0), rtol=1e-6)
    bounded = robust.norm_bounded_mean(MEANS, 2.0)
    assert np.linalg.norm(bounded) <= 2.0
    assert bounded.dtype == np.float32
    small = np.array([[0.1, 0.2], [0.3, 0.0]], np.float32)
    np.testing.assert_allclose(robust.norm_bounded_mean(small, 2.0), small.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_robust_rules_stay_among_the_honest_groups(spoiled):
    rng = np.random.default_rng(spoiled)
    honest = rng.normal(size=(5 - spoiled, 20)).astype(np.float32)
    evil = rng.normal(scale=1e6, size=(spoiled, 20)).astype(np.float32)
    both = np.concatenate([honest, evil])
    for combined in (robust.median(both), robust.trimmed_mean(both, 2)):
        assert (combined >= honest.min(axis=0) - 1e-6).all()
        assert (combined <= honest.max(axis=0) + 1e-6).all()


def test_robust_rules_refuse_nonsense():
    for call in (
        lambda: robust.trimmed_mean(MEANS, 3),
        lambda: robust.trimmed_mean(MEANS, -1),
        lambda: robust.norm_bounded_mean(MEANS, 0.0),
        lambda: robust.median(MEANS[0]),
        lambda: robust.median(MEANS[:0]),
        lambda: robust.median(np.array([[np.nan]], np.float32)),
        lambda: hierarchy.random_groups(["a", "a"], 1, b""),
        lambda: hierarchy.random_groups(["a", "b"], 3, b""),
        lambda: hierarchy.random_groups(["a", "b"], 0, b""),
    ):
        with pytest.raises(ConfigError):
            call()


def test_groups_summed_securely_and_added_equal_one_ideal_sum():
    devices = [f"device-{i:04d}" for i in range(18)]
    groups = hierarchy.random_groups(devices, 3, b"round 1")
    totals, vectors = [], []
    for number, cohort in enumerate(groups):
        world = World(make_session(6, cohort=cohort, round_id=f"1/{number}", degree=5, threshold=5), seed=number)
        state, _ = play(world)
        assert isinstance(state, secagg.Done)
        totals.append(state.total)
        vectors += world.vectors.values()
    np.testing.assert_array_equal(secagg.ideal_sum(totals, 20), secagg.ideal_sum(vectors, 20))


def test_the_room_needs_no_heavy_package():
    code = (
        "import sys, fedinfer.secagg, fedinfer.secagg.groups, fedinfer.secagg.enrolment;"
        "print([m for m in ('torch', 'scipy', 'dp_accounting', 'pydantic', 'opacus', 'flwr') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("threshold", [2, 5])
def test_shares_below_the_threshold_are_uniform_and_independent_of_each_other_and_of_the_secret(threshold):
    """Whole coefficients, not a few of their bits: what t - 1 holders see has the law of noise, whatever the secret."""
    times, points = 500, np.arange(1, threshold + 1)
    for secret in (b"\0" * 32, b"\xff" * 32):
        seen = np.array(
            [
                shamir.share(secret, points, threshold, SimulatedEntropy("hidden", threshold, i).take(32))[:-1]
                for i in range(times)
            ]
        )  # (times, t - 1, limbs)
        values = seen.transpose(1, 0, 2).reshape(threshold - 1, -1).astype(float)
        count = values.shape[1]
        for row in values:
            buckets = np.bincount((row * 16 // shamir.PRIME).astype(int), minlength=16)
            assert ((buckets - count / 16) ** 2 / (count / 16)).sum() < 45  # chi-square of 15 degrees: 1e-4
        together = np.atleast_2d(np.corrcoef(values))
        assert np.abs(together - np.eye(threshold - 1)).max() < 5 / np.sqrt(count)


def test_coefficients_take_every_value_of_the_field_equally_often():
    """Two million of 65537 values: about 30 each; a value that cannot occur would be known of every share."""
    drawn = shamir._field_elements(b"k" * 32, 2_000_000).astype(np.int64)
    counts = np.bincount(drawn, minlength=shamir.PRIME)
    assert counts.size == shamir.PRIME
    assert counts.min() > 0
    mean = drawn.size / shamir.PRIME
    statistic = float(((counts - mean) ** 2 / mean).sum())
    assert abs(statistic - (shamir.PRIME - 1)) < 6 * np.sqrt(2 * (shamir.PRIME - 1))


@pytest.mark.parametrize("low", range(19))
def test_two_encodings_of_one_point_are_the_same_key(low):
    """2^255 - 19 + u is read as u, and the top bit is not read (RFC 7748, section 5)."""
    field = 2**255 - 19
    spellings = [low, field + low, low + 2**255, field + low + 2**255]
    assert {keys.decoded_point(value.to_bytes(32, "little")) for value in spellings} == {low}
    assert keys.decoded_point((field - 1).to_bytes(32, "little")) == field - 1
