"""Rules of a device whose loss nothing else shows: each test offers everything but the one thing that a rule asks for.

The enemy never lacks signatures, boxes or sizes here, so that only the rule under test can refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from fedinfer.errors import Misbehaviour
from fedinfer.secagg import Stage, check_session, key_list
from fedinfer.secagg import device as answers
from tests.protocol import secagg_forge as forge
from tests.protocol.knowledge import Knowledge, Recorder, released
from tests.protocol.secagg_enemy import Attempt, Enemy, Owner
from tests.protocol.secagg_forge import Listing, Sets
from tests.protocol.secagg_play import make_session, names

SIZE = 7
WEAK_POINTS = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (forge.CURVE_PRIME - 1).to_bytes(32, "little"),
    forge.CURVE_PRIME.to_bytes(32, "little"),
    (forge.CURVE_PRIME + 1).to_bytes(32, "little"),
]
"""Points of small order (order 1, 2, 4, 8 on curve and twist): everybody knows the secret that they give, zero."""


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    watching = Recorder()
    watching.install(monkeypatch)
    return watching


def meet(recorder: Recorder, corrupt: Iterable[str] = (), **changes: Any) -> Attempt:
    """A complete graph of seven whose honest devices have published."""
    bad = frozenset(corrupt)
    enemy = Enemy(names(SIZE), bad, Owner(2, 0.1, 0.15), recorder)
    values: dict[str, Any] = {"degree": SIZE - 1, "threshold": 5, "dimension": 3, "bits": 16}
    attempt = Attempt(enemy, make_session(SIZE, **(values | changes)))
    attempt.ask_keys()
    return attempt


def masked(attempt: Attempt) -> Listing:
    """Everybody shares and masks."""
    listing = attempt.list_keys()
    attempt.show(listing, attempt.honest)
    attempt.deliver(listing, listing.members, attempt.honest)
    assert attempt.enemy.refusals == []
    return listing


def sets_of(listing: Listing, dropped: Iterable[int] = ()) -> Sets:
    gone, everybody = frozenset(dropped), frozenset(listing.members)
    return Sets(listing, everybody, everybody - gone, gone)


def opened(attempt: Attempt) -> int:
    return attempt.enemy.accepted[str(Stage.UNMASK)]


def test_no_pair_mask_follows_from_public_values(recorder: Recorder) -> None:
    """All self masks are open, as after every session; what each device added for its partners still hides it."""
    attempt = meet(recorder)
    sets = sets_of(masked(attempt))
    attempt.sign(sets, attempt.honest)
    attempt.open(sets, attempt.honest)
    assert opened(attempt) == SIZE
    knowledge = Knowledge(recorder)
    hidden = [sum(not knowledge.knows(seed) for seed in row.seeds) for row in recorder.masked]
    assert hidden == [SIZE - 1] * SIZE  # everything but its own mask, which was opened
    assert [len(rows) for rows in released(recorder.masked, knowledge)] == [SIZE]


def test_every_pair_mask_is_another(recorder: Recorder) -> None:
    """One seed in two pairs would cancel where it should not, or be known to a third device."""
    attempt = meet(recorder)
    masked(attempt)
    where: dict[bytes, set[str]] = {}
    for row in recorder.masked:
        for seed in row.seeds:
            where.setdefault(seed, set()).add(row.device)
    pairs = [tuple(sorted(devices)) for devices in where.values() if len(devices) == 2]
    assert len(pairs) == len(set(pairs)) == SIZE * (SIZE - 1) // 2
    assert sorted(len(devices) for devices in where.values()) == [1] * SIZE + [2] * len(pairs)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_device_opens_with_just_enough_witnesses_and_not_with_one_fewer(recorder: Recorder, lacking: int) -> None:
    attempt = meet(recorder)
    sets = sets_of(masked(attempt))
    attempt.sign(sets, attempt.honest)
    signed = {at: signature for (_, at), signature in attempt.signatures.items()}
    for name in attempt.honest:
        at = sets.listing.position(name)
        use = sorted(signed)[: forge.witnesses_needed(attempt.session) - lacking]
        tags = {j: attempt.tags[sets.listing.digest, j, at] for j in sets.listing.dealers(at)}
        attempt.enemy.ask(name, forge.unmask_request(sets, at, {j: signed[j] for j in use}, tags))
    assert opened(attempt) == (0 if lacking else SIZE)


def test_what_is_no_signature_over_these_sets_is_no_witness(recorder: Recorder) -> None:
    """One signature too few, and in its place: another device's, one over other sets, one of another stage."""
    for at in range(3):
        attempt = meet(recorder, round_id=f"{at}")
        listing = masked(attempt)
        sets, other = sets_of(listing), sets_of(listing, [6])
        attempt.sign(sets, attempt.honest[:-1])
        attempt.sign(other, [])
        signed = {at: signature for (_, at), signature in attempt.signatures.items()}
        use = {j: signed[j] for j in list(signed)[: forge.witnesses_needed(attempt.session) - 1]}
        spare = [j for j in range(SIZE) if j not in use]
        wrong = [signed[spare[0]], use[0], listing.messages[spare[1]].signature][at]
        use[spare[-1]] = wrong
        attempt.enemy.ask(attempt.honest[0], forge.unmask_request(sets, 0, use, {}))
        assert opened(attempt) == 0


@pytest.mark.parametrize("where", ["dropped", "nowhere"])
def test_a_device_that_sent_its_vector_signs_only_as_a_survivor(recorder: Recorder, where: str) -> None:
    attempt = meet(recorder)
    listing = masked(attempt)
    for name in attempt.honest:
        at = listing.position(name)
        everybody = frozenset(listing.members)
        gone = frozenset({at}) if where == "dropped" else frozenset()
        together = everybody if where == "dropped" else everybody - {at}
        attempt.sign(Sets(listing, together, everybody - {at}, gone), [name])
    assert attempt.signatures == {}


def test_a_device_opens_no_other_sets_than_it_signed(recorder: Recorder) -> None:
    """Five of seven sign the second sets: enough to open them, but not for the two that signed the first."""
    attempt = meet(recorder)
    listing = masked(attempt)
    first, second = sets_of(listing), sets_of(listing, [6])
    attempt.sign(first, names(SIZE)[4:6])
    attempt.sign(second, names(SIZE)[:4])
    signed = {at: signature for (_, at), signature in attempt.signatures.items()}
    victim = attempt.honest[4]
    for at in (4, 5):  # as if those two had signed both: the rule under test must not lean on the count
        key = attempt.enemy.devices[names(SIZE)[at]]
        signed[at] = forge.forge_signature(second, listing.messages[at], forge.signing_of(key.sessions, key.name))
    attempt.enemy.ask(victim, forge.unmask_request(second, 4, signed, {}))
    assert opened(attempt) == 0
    attempt.enemy.ask(names(SIZE)[0], forge.unmask_request(second, 0, signed, {}))
    assert opened(attempt) == 1  # who signed them does open, so nothing else was missing


@pytest.mark.parametrize("place", ["mask_key", "box_key"])
@pytest.mark.parametrize("top", [0, 0x80])
@pytest.mark.parametrize("point", WEAK_POINTS, ids=lambda point: point.hex()[:8])
def test_a_key_list_with_a_weak_key_is_refused(recorder: Recorder, place: str, top: int, point: bytes) -> None:
    """Anybody could open boxes sealed for a point of small order, whose shares belong to one device alone."""
    attempt = meet(recorder, [names(SIZE)[3]])
    encoded = point[:-1] + bytes([point[-1] | top])
    attempt.publish(names(SIZE)[3], **{place: encoded})
    attempt.show(attempt.list_keys(), attempt.honest)
    assert attempt.boxes == {}
    assert len(attempt.enemy.refusals) == SIZE - 1


def test_a_copied_key_gives_every_pair_another_mask(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> None:
    """Also where nobody notices the copy: the seed is bound to both devices, not to their keys alone."""
    monkeypatch.setattr(key_list, "decoded_twins", lambda keyed: iter(()))
    monkeypatch.setattr(answers, "check_secrets", lambda *_: None)
    attempt = meet(recorder, [names(SIZE)[6]])
    attempt.publish(names(SIZE)[6], mask_key=attempt.messages[names(SIZE)[0]][0].mask_key)
    masked(attempt)
    for row in recorder.masked:
        assert len(row.seeds) == SIZE
        assert set(row.seeds.values()) <= {1, -1}


def test_masks_of_devices_with_other_sharers_never_cancel(recorder: Recorder) -> None:
    attempt = meet(recorder)
    listing = attempt.list_keys()
    attempt.show(listing, attempt.honest)
    attempt.deliver(listing, listing.members, attempt.honest[:3])
    attempt.deliver(listing, listing.members[:-1], attempt.honest[3:6])
    first, second = ({s for row in recorder.masked[at : at + 3] for s in row.seeds} for at in (0, 3))
    assert len(recorder.masked) == 6
    assert not first & second


@pytest.mark.parametrize("left_out", [(6,), (0,), (5, 6)])
def test_a_device_masks_with_enough_sharers_that_include_itself(recorder: Recorder, left_out: tuple[int, ...]) -> None:
    """Seven, of whom six are promised and five rebuild a secret: the promise refuses, not the threshold."""
    attempt = meet(recorder, min_survivors=6)
    listing = attempt.list_keys()
    attempt.show(listing, attempt.honest)
    attempt.deliver(listing, set(listing.members) - set(left_out), [names(SIZE)[0]])
    assert len(recorder.masked) == (1 if left_out == (6,) else 0)


WRONG_SETS = {
    "fewer than promised": (range(5), range(5, 7)),
    "one is both": (range(7), [6]),
    "a sharer is left out": (range(6), []),
    "fine": (range(6), [6]),
}


@pytest.mark.parametrize("what", WRONG_SETS)
def test_a_device_signs_only_sets_that_part_its_sharers(recorder: Recorder, what: str) -> None:
    attempt = meet(recorder, min_survivors=6)
    listing = masked(attempt)
    survivors, dropped = (frozenset(part) for part in WRONG_SETS[what])
    attempt.sign(Sets(listing, frozenset(listing.members), survivors, dropped), [names(SIZE)[0]])
    assert len(attempt.signatures) == (1 if what == "fine" else 0)


def test_keys_that_no_enrolled_identity_signed_are_refused_by_all(recorder: Recorder) -> None:
    """The server signs keys of its own in the name of an honest device."""
    attempt = meet(recorder)
    victim = names(SIZE)[2]
    stranger, attempt.enemy.identities[victim] = (
        attempt.enemy.identities[victim],
        attempt.enemy.identities[names(SIZE)[1]],
    )
    attempt.publish(victim)
    attempt.enemy.identities[victim] = stranger
    attempt.show(attempt.list_keys(), attempt.honest)
    assert attempt.boxes == {}


@pytest.mark.parametrize(
    ("n", "threshold", "rate", "accepted"),
    [
        (7, 5, 2 / 7, True),  # two signatures of five of nine would need ten
        (7, 5, 3 / 7, False),  # ten of ten
        (7, 5, 0.29, False),  # three of seven, rounded up
        (3, 3, 1 / 3, True),
        (3, 3, 2 / 3, False),  # one honest vector alone
        (2, 2, 0.1, False),  # a rate above zero counts on somebody
    ],
)
def test_a_device_counts_all_corrupt_devices_at_the_boundary(
    n: int, threshold: int, rate: float, accepted: bool
) -> None:
    session = make_session(n, degree=n - 1, threshold=threshold)
    if accepted:
        check_session(session, 2, 0.1, rate)
    else:
        with pytest.raises(Misbehaviour, match="corruption_rate"):
            check_session(session, 2, 0.1, rate)
