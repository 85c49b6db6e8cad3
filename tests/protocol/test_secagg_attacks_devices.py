"""Malicious devices, one attack per test: the server names them, and the others' sum stays exact where it can."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedinfer import secagg, wire
from fedinfer.errors import BadShare, TooFewSurvivors
from fedinfer.secagg import Aborted, Done, IdentityKey, Stage
from fedinfer.secagg.derivations import commitment
from fedinfer.secagg.graph import to_bitmap
from fedinfer.secagg.keys import Signed, seal
from fedinfer.secagg.messages import KeysBody, MaskedBody, SharesBody, UnmaskBody
from fedinfer.secagg.packing import pack
from fedinfer.system import SimulatedEntropy
from tests.protocol.secagg_play import STAGES, World, body_of, make_session, names, play

CHEAT = "device-0001"


def cheating(world, stage, kind, change):
    """A tamper hook: CHEAT's body of one stage goes through `change`, correctly signed again."""

    def tamper(at, replies):
        if at is stage and CHEAT in replies:
            replies[CHEAT] = world.resign(CHEAT, stage, change(body_of(kind, replies[CHEAT])))
        return replies

    return tamper


def flip(data, at=0):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def expect_exact(world, state, survivors):
    assert isinstance(state, Done), state
    assert state.survivors == tuple(survivors)
    np.testing.assert_array_equal(state.total, world.ideal(survivors))


def blamed(state):
    return {name for name, _ in state.blamed}


@pytest.mark.parametrize("n", [10, 30])
def test_device_sends_wrong_shares_and_is_blamed_by_name(n):
    world = World(make_session(n))
    tamper = cheating(world, Stage.UNMASK, UnmaskBody, lambda body: replace(body, shares=flip(body.shares)))
    state, _ = play(world, tamper=tamper)
    expect_exact(world, state, names(n))
    assert blamed(state) == {CHEAT}
    assert "is not the one that was sent to it" in state.blamed[0][1]


def test_too_many_wrong_shares_end_the_round_with_numbers():
    world = World(make_session(10))
    liars = names(10)[:4]

    def tamper(stage, replies):
        if stage is Stage.UNMASK:
            for name in liars:
                body = body_of(UnmaskBody, replies[name])
                replies[name] = world.resign(name, stage, replace(body, shares=bytes(len(body.shares))))
        return replies

    state, _ = play(world, tamper=tamper)
    assert isinstance(state, Aborted)
    assert blamed(state) == set(liars)
    assert "6 good shares" in state.reason
    assert "7 are needed" in state.reason


def deal_badly(world, holders_spoiled):
    """CHEAT deals shares that lie on no polynomial to some holders, with digests that fit what it dealt."""

    def spoil(dealt):
        dealt[:holders_spoiled] = (dealt[:holders_spoiled] + 1) % secagg.shamir.PRIME
        return dealt

    return deal(world, spoil, lambda secret: secret)


def deal(world, spoil, exchange):
    """CHEAT deals shares of another secret, and changes them."""
    honest, share = world.answer, secagg.shamir.share

    def changed(secret, points, threshold, seed):
        return spoil(share(exchange(secret), points, threshold, seed))

    def answer(name, request):
        with pytest.MonkeyPatch.context() as patch:
            if name == CHEAT and request.stage is Stage.SHARES:
                patch.setattr(secagg.shamir, "share", changed)
            return honest(name, request)

    world.answer = answer
    return world


def test_dealer_of_a_few_bad_shares_is_blamed_and_the_round_finishes():
    world = deal_badly(World(make_session(15)), 2)  # 15 shares, 11 needed: two wrong ones can be corrected
    state, _ = play(world)
    expect_exact(world, state, names(15))
    assert blamed(state) == {CHEAT}


def test_dealer_of_many_bad_shares_is_blamed_and_the_round_ends():
    world = deal_badly(World(make_session(15)), 8)
    state, _ = play(world)
    assert isinstance(state, Aborted)
    assert state.dealers == (CHEAT,)
    assert blamed(state) == {CHEAT}
    error = state.error()
    assert isinstance(error, BadShare)
    assert CHEAT in str(error)


@pytest.mark.parametrize("lost", [{}, {CHEAT: Stage.MASKED}])
def test_dealer_of_good_shares_of_no_secret_is_blamed_and_the_round_ends(lost):
    """Every limb is 65536, which no 16 bits can be: the shares lie on polynomials, and there is nothing to rebuild."""
    world = deal(
        World(make_session(15)), lambda dealt: (dealt - 1) % secagg.shamir.PRIME, lambda secret: bytes(len(secret))
    )
    state, _ = play(world, lost=lost)
    assert isinstance(state, Aborted)
    assert state.dealers == (CHEAT,)
    assert blamed(state) == {CHEAT}
    assert isinstance(state.error(), BadShare)


def test_dealer_of_bad_shares_that_drops_out_is_blamed_for_its_mask_key():
    world = deal_badly(World(make_session(15)), 2)
    state, _ = play(world, lost={CHEAT: Stage.MASKED})
    expect_exact(world, state, [name for name in names(15) if name != CHEAT])
    assert blamed(state) == {CHEAT}


def test_device_publishes_a_wrong_commitment():
    world = World(make_session(10))
    other = commitment(world.session.sid, 1, CHEAT, b"x" * 32)
    world = with_public(world, lambda public: public[:96] + other)
    state, _ = play(world)
    assert isinstance(state, Aborted)
    assert state.dealers == (CHEAT,)
    assert isinstance(state.error(), BadShare)


def with_public(world, change):
    """CHEAT publishes changed keys, correctly signed, and believes in them itself."""
    honest = world.answer

    def answer(name, request):
        reply = honest(name, request)
        if name == CHEAT and request.stage is Stage.KEYS:
            body = body_of(KeysBody, reply)
            reply = world.resign(name, Stage.KEYS, replace(body, public=change(body.public)))
            signed = wire.decode(Signed, reply)
            state = replace(
                secagg.decode_state(world.states[name]), public=change(body.public), signature=signed.signature
            )
            world.states[name] = secagg.encode_state(state)
        return reply

    world.answer = answer
    return world


def test_device_publishes_a_mask_key_that_is_not_its_own_and_drops_out():
    world = World(make_session(10))
    stolen = secagg.keys.public_of(b"s" * 32)
    world = with_public(world, lambda public: stolen + public[32:])
    state, _ = play(world, lost={CHEAT: Stage.MASKED})
    assert isinstance(state, Aborted)
    assert state.dealers == (CHEAT,)


@pytest.mark.parametrize("start", [0, 32], ids=["mask key", "box key"])
def test_device_publishes_a_key_of_small_order(start):
    """The server leaves it out: the others would refuse a list with it, and the round would end for everybody."""
    world = with_public(World(make_session(10)), lambda public: public[:start] + bytes(32) + public[start + 32 :])
    state, _ = play(world)
    expect_exact(world, state, [name for name in names(10) if name != CHEAT])
    assert blamed(state) == {CHEAT}
    assert "small order" in state.blamed[0][1]


def masked_of(change):
    def tampered(world):
        return cheating(world, Stage.MASKED, MaskedBody, lambda body: replace(body, vector=change(body.vector)))

    return tampered


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda vector: vector + b"\0", "101 bytes, expected 100"),
        (lambda vector: vector * 1000, "bytes"),
        (lambda vector: vector[:-1], "99 bytes, expected 100"),
        (lambda vector: b"", "0 bytes, expected 100"),
        (lambda vector: b"\xff" * len(vector), "beyond its dimension"),
    ],
    ids=["one byte more", "oversized", "one byte less", "empty", "values where none belong"],
)
def test_device_sends_an_out_of_range_or_oversized_vector(change, reason):
    world = World(make_session(10))
    state, _ = play(world, tamper=masked_of(change)(world))
    expect_exact(world, state, [name for name in names(10) if name != CHEAT])
    assert blamed(state) == {CHEAT}
    assert reason in state.blamed[0][1]


def test_every_well_formed_vector_is_in_the_ring():
    """What bit packing can say has b bits, so an out-of-range value cannot be sent at all; the sum just wraps."""
    world = World(make_session(10, dimension=40))
    top = pack(np.full(40, (1 << 20) - 1, np.uint32), 20)
    state, _ = play(world, tamper=masked_of(lambda vector: top)(world))
    assert isinstance(state, Done)
    assert int(state.total.max()) < 1 << 20


@pytest.mark.parametrize("stage", STAGES)
def test_device_takes_another_devices_identity(stage):
    """CHEAT, correctly enrolled, answers in the name of its victim, who is silent."""
    world, victim = World(make_session(10)), "device-0002"

    def tamper(at, replies):
        if at is stage:
            replies[victim] = forge(at, replies[victim])
        return replies

    def forge(at, reply):
        body = wire.decode(Signed, reply).body
        context = world.context(CHEAT, at)
        key = world.identities[CHEAT] if at is Stage.KEYS else world.signing[CHEAT]
        message = secagg.keys.statement_bytes(at, victim, context, body)
        return wire.encode(Signed(body, key.sign(message)))

    state, _ = play(world, tamper=tamper)
    kept = names(10) if stage in (Stage.SURVIVORS, Stage.UNMASK) else [name for name in names(10) if name != victim]
    expect_exact(world, state, kept)
    assert state.blamed == ((victim, f"{stage}: the signature is not {victim}'s for this session"),)


@pytest.mark.parametrize("stage", STAGES)
def test_device_sends_another_devices_answer_as_its_own(stage):
    world = World(make_session(10))

    def tamper(at, replies):
        if at is stage:
            replies[CHEAT] = replies["device-0002"]
        return replies

    state, _ = play(world, tamper=tamper)
    assert isinstance(state, Done)
    assert blamed(state) == {CHEAT}


def test_device_that_is_not_enrolled_is_refused():
    world = World(make_session(10))
    stranger = IdentityKey.generate(SimulatedEntropy("stranger"))

    def tamper(stage, replies):
        if stage is Stage.KEYS:
            body = body_of(KeysBody, replies[CHEAT])
            replies[CHEAT] = seal(stranger, stage, CHEAT, world.session.sid, body)
        return replies

    state, _ = play(world, tamper=tamper)
    expect_exact(world, state, [name for name in names(10) if name != CHEAT])
    assert blamed(state) == {CHEAT}


def test_device_sends_boxes_that_do_not_open():
    world = World(make_session(10))
    tamper = cheating(world, Stage.SHARES, SharesBody, lambda body: replace(body, boxes=flip(flip(body.boxes), 84 * 3)))
    state, _ = play(world, tamper=tamper)
    expect_exact(world, state, names(10))
    assert blamed(state) == {CHEAT}
    assert len(state.blamed) == 2
    assert all("do not open" in reason for _, reason in state.blamed)


def test_device_sends_only_boxes_that_do_not_open():
    """Nobody holds its secret, so its mask can never be removed: the session ends before anything is opened."""
    world = World(make_session(10))
    tamper = cheating(world, Stage.SHARES, SharesBody, lambda body: replace(body, boxes=bytes(len(body.boxes))))
    state, _ = play(world, tamper=tamper)
    assert isinstance(state, Aborted)
    assert state.stage is Stage.MASKED
    assert CHEAT in state.reason
    assert blamed(state) == {CHEAT}
    assert isinstance(state.error(), TooFewSurvivors)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: replace(body, boxes=body.boxes[:-1]),
        lambda body: replace(body, boxes=b""),
        lambda body: replace(body, digests=body.digests + b"\0"),
        lambda body: replace(body, digests=b""),
    ],
)
def test_device_sends_too_few_or_too_many_shares(change):
    world = World(make_session(10))
    state, _ = play(world, tamper=cheating(world, Stage.SHARES, SharesBody, change))
    expect_exact(world, state, [name for name in names(10) if name != CHEAT])
    assert blamed(state) == {CHEAT}


def test_device_reveals_shares_of_devices_that_dealt_it_none():
    world = World(make_session(30))

    def invent(body):
        everybody = to_bitmap(np.arange(30), 30)
        return replace(body, dealers=everybody, shares=bytes(34 * 30))

    state, _ = play(world, tamper=cheating(world, Stage.UNMASK, UnmaskBody, invent))
    expect_exact(world, state, names(30))
    assert blamed(state) == {CHEAT}


@pytest.mark.parametrize("n", [10, 30])
def test_device_acknowledges_other_sharers_and_is_named(n):
    """Its holders withhold their shares, so the sum stays shut; the abort names it."""
    world = World(make_session(n))
    tamper = cheating(world, Stage.MASKED, MaskedBody, lambda body: replace(body, tags=bytes(len(body.tags))))
    state, _ = play(world, tamper=tamper)
    assert isinstance(state, Aborted)
    assert state.stage is Stage.UNMASK
    assert blamed(state) == {CHEAT}
    assert "acknowledgement does not fit" in state.blamed[0][1]
    assert f"good shares of {CHEAT}" in state.reason


def test_device_spoils_a_few_acknowledgements_and_the_round_finishes():
    world = World(make_session(10))
    tamper = cheating(world, Stage.MASKED, MaskedBody, lambda body: replace(body, tags=flip(body.tags)))
    state, _ = play(world, tamper=tamper)
    expect_exact(world, state, names(10))
    assert blamed(state) == {CHEAT}


@pytest.mark.parametrize("change", [lambda tags: tags[:-1], lambda tags: tags + bytes(16), lambda tags: b""])
def test_device_sends_too_few_or_too_many_acknowledgements(change):
    world = World(make_session(10))
    tamper = cheating(world, Stage.MASKED, MaskedBody, lambda body: replace(body, tags=change(body.tags)))
    state, _ = play(world, tamper=tamper)
    expect_exact(world, state, [name for name in names(10) if name != CHEAT])
    assert blamed(state) == {CHEAT}


def choose(world, change):
    """CHEAT publishes another choice of holders, correctly signed, and is not asked to live with it."""
    return cheating(world, Stage.KEYS, KeysBody, lambda body: replace(body, holders=change(body.holders)))


@pytest.mark.parametrize(
    "change",
    [
        lambda holders: b"",
        lambda holders: holders + b"\0",
        lambda holders: b"\xff" * len(holders),
        lambda holders: bytes(len(holders)),
        lambda holders: bytes([holders[0] | 2]) + holders[1:],  # itself
    ],
    ids=["nobody", "too long", "everybody and more", "nobody of the cohort", "itself"],
)
def test_device_chooses_holders_that_it_may_not(change):
    world = World(make_session(30))
    state, _ = play(world, tamper=choose(world, change))
    expect_exact(world, state, [name for name in names(30) if name != CHEAT])
    assert blamed(state) == {CHEAT}


P = 2**255 - 19


def other_encodings(key):
    """Other bytes with which X25519 gives the same secrets: top bit set, and the sum with the point of order 2."""
    value = int.from_bytes(key, "little")
    return {
        "equal bytes": key,
        "top bit": (value | 1 << 255).to_bytes(32, "little"),
        "point of order 2 added": pow(value % P, -1, P).to_bytes(32, "little"),
    }


@pytest.mark.parametrize("form", ["equal bytes", "top bit", "point of order 2 added"])
@pytest.mark.parametrize("key", ["mask", "box", "mask as box"])
def test_copied_keys_are_left_out_and_both_devices_named(form, key):
    """However the copy is written down, it gives everybody the same secret."""
    world, victim = World(make_session(10, min_survivors=7)), "device-0002"
    private = secagg.keys.agree(b"\x77" * 32, [secagg.keys.public_of(b"\x11" * 32)])
    same = other_encodings(secagg.keys.public_of(b"\x11" * 32))[form]
    assert secagg.keys.agree(b"\x77" * 32, [same]) == private

    def tamper(stage, replies):
        if stage is Stage.KEYS:
            victims = body_of(KeysBody, replies[victim]).public
            copied = other_encodings(victims[32:64] if key == "box" else victims[:32])[form]
            body = body_of(KeysBody, replies[CHEAT])
            public = copied + body.public[32:] if key == "mask" else body.public[:32] + copied + body.public[64:]
            replies[CHEAT] = world.resign(CHEAT, stage, replace(body, public=public))
        return replies

    state, _ = play(world, tamper=tamper)
    expect_exact(world, state, [name for name in names(10) if name not in (CHEAT, victim)])
    assert blamed(state) == {CHEAT, victim}
    assert all("mask or box key is also that of" in reason for _, reason in state.blamed)


def test_device_publishes_one_key_twice():
    world = with_public(World(make_session(10)), lambda public: public[:32] + public[:32] + public[64:])
    state, _ = play(world)
    expect_exact(world, state, [name for name in names(10) if name != CHEAT])
    assert blamed(state) == {CHEAT}


def test_device_complains_about_everybody():
    """It only loses its own word: complaints about strangers are ignored, the others hold enough shares."""
    world = World(make_session(10))
    everybody = to_bitmap(np.arange(10), 10)
    tamper = cheating(world, Stage.MASKED, MaskedBody, lambda body: replace(body, unopened=everybody))
    state, _ = play(world, tamper=tamper)
    expect_exact(world, state, names(10))


@pytest.mark.parametrize("garbage", [b"", b"FI", b"\0" * 1000, b"FI\x01" + b"\xff" * 200, b"FI\x02"])
@pytest.mark.parametrize("stage", STAGES)
def test_device_sends_garbage(stage, garbage):
    world = World(make_session(10))

    def tamper(at, replies):
        if at is stage:
            replies[CHEAT] = garbage
        return replies

    state, _ = play(world, tamper=tamper)
    assert isinstance(state, Done)
    assert blamed(state) == {CHEAT}
    np.testing.assert_array_equal(state.total, world.ideal(state.survivors))
