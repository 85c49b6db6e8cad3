"""The known answers against a second, plain implementation that has no line of the product."""

from __future__ import annotations

import pytest

from fedinfer import wire
from fedinfer.secagg import shamir
from fedinfer.secagg.graph import from_bitmap
from fedinfer.secagg.keys import Signed, Stage
from fedinfer.secagg.messages import (
    Acknowledgements,
    Inbox,
    KeyList,
    KeysBody,
    MaskedBody,
    MaskedRequest,
    SharesBody,
    SurvivorSets,
    UnmaskBody,
    UnmaskRequest,
    split,
)
from fedinfer.system import SimulatedEntropy
from tests.protocol.secagg_play import World, make_session, play
from tests.reference import secagg as plain
from tests.unit.secagg.test_secagg_vectors import load

N, LOST = 4, "device-2"


def test_every_derivation():
    case = load("derivations")
    given = {name: bytes.fromhex(value) for name, value in case["given"].items()}
    secret, sid, key_list, sharers = (given[name] for name in ("secret", "sid", "key_list", "sharers"))
    a, bc, d = (plain.party(i, name) for i, name in enumerate(case["cohort"]))
    found = {
        "session": plain.sha("session", b"encoded session"),
        "commitment": plain.sha("commitment", sid, bc, secret),
        "key list": plain.sha("key list", sid, b"encoded list"),
        "sharers": plain.sha("sharers", sid, key_list, b"\x05"),
        "self mask": plain.hkdf(secret, "self mask", sid, key_list, sharers, bc),
        "pair mask": plain.hkdf(secret, "pair mask", sid, key_list, sharers, a, d),
        "box": plain.hkdf(secret, "box", sid, key_list, d, a),
        "acknowledgement key": plain.hkdf(secret, "acknowledgement key", sid, key_list, d, a),
        "acknowledgement": plain.hmac.digest(
            secret, plain.bind("acknowledgement", sid, key_list, sharers, d, a), "sha256"
        )[:16],
        "share": plain.sha("share", sid, key_list, d, a, b"mask key", given["share"])[:16],
    }
    assert {name: value.hex() for name, value in found.items()} == case["values"]


@pytest.mark.parametrize("case", [case for case in load("sharing") if not case["wrong"]], ids=lambda c: c["threshold"])
def test_sharing(case):
    secret, points = bytes.fromhex(case["secret"]), case["points"]
    rows = plain.share(secret, points, case["threshold"], bytes.fromhex(case["seed"]))
    assert [plain.pack_share(row).hex() for row in rows] == case["shares"]
    assert [plain.unpack_share(bytes.fromhex(data)) for data in case["shares"]] == rows
    assert plain.combine(rows[-case["threshold"] :], points[-case["threshold"] :]) == secret


@pytest.mark.parametrize("case", [case for case in load("packing") if not case["error"]], ids=lambda c: c["bits"])
def test_packing(case):
    data = bytes.fromhex(case["packed"])
    assert plain.unpack_vector(data, case["bits"], len(case["values"])) == case["values"]


class Record:
    """The recorded session: requests and unverified bodies by stage and device, and every device's secrets."""

    def __init__(self) -> None:
        self.case = load("whole_session")
        self.names = self.case["session"]["cohort"]
        self.sid = plain.sha("session", bytes.fromhex(load("sessions")[0]["encoded"]))
        self.stages = {entry["stage"]: entry for entry in self.case["transcript"]}
        self.key_list = plain.sha("key list", self.sid, self.common("shares"))
        self.sharers = plain.sha(
            "sharers", self.sid, self.key_list, wire.decode(MaskedRequest, self.common("masked")).sharers
        )
        self.secrets = {}
        for name in self.names:
            take = SimulatedEntropy("device", name, "keys").take
            self.secrets[name] = [take(32) for _ in range(4)]  # self-mask secret, mask, box and signing key

    def common(self, stage):
        return bytes.fromhex(next(iter(self.stages[stage]["requests"].values()))[0])

    def own(self, stage, name):
        return bytes.fromhex(self.stages[stage]["requests"][name][1])

    def signed(self, stage, name):
        return wire.decode(Signed, bytes.fromhex(self.stages[stage]["replies"][name]))

    def body(self, kind, stage, name):
        return wire.decode(kind, self.signed(stage, name).body)

    def party(self, name):
        return plain.party(self.names.index(name), name)

    def secret(self, kind, one, other):
        """X25519 of the mask (1) or box (2) keys of two devices."""
        return plain.exchange(self.secrets[one][kind], plain.x25519_public(self.secrets[other][kind]))

    def pair_seed(self, one, other):
        adds, subtracts = (self.party(name) for name in sorted([one, other]))
        return plain.hkdf(
            self.secret(1, one, other), "pair mask", self.sid, self.key_list, self.sharers, adds, subtracts
        )

    def self_seed(self, name, secret):
        return plain.hkdf(secret, "self mask", self.sid, self.key_list, self.sharers, self.party(name))

    def dealt(self, dealer):
        """Packed pairs of shares by holder, as the reference deals them."""
        mine = self.secrets[dealer]
        seed = SimulatedEntropy("device", dealer, "shares").take(32)
        rows = plain.share(mine[0] + mine[1], range(1, N + 1), self.case["session"]["threshold"], seed)
        return {
            name: plain.pack_share(row[:16]) + plain.pack_share(row[16:])
            for name, row in zip(self.names, rows, strict=True)
        }


RECORD = Record()


def test_the_recorded_keys_are_the_devices_own():
    listed = wire.decode(KeyList, RECORD.common("shares"))
    rows = split(listed.publics, 128, N, "keys")
    for name, row in zip(RECORD.names, rows, strict=True):
        secret, mask, box, signing = RECORD.secrets[name]
        committed = plain.sha("commitment", RECORD.sid, RECORD.party(name), secret)
        assert row == plain.x25519_public(mask) + plain.x25519_public(box) + plain.ed25519_public(signing) + committed
        assert RECORD.body(KeysBody, "keys", name).holders == b""
        assert RECORD.body(KeysBody, "keys", name).sid == RECORD.sid


def test_every_recorded_answer_is_signed_for_its_stage_and_context():
    contexts = {
        "keys": RECORD.sid, "shares": RECORD.key_list,
        "masked": RECORD.sharers, "survivors": RECORD.sharers, "unmask": RECORD.sharers,
    }  # fmt: skip
    for stage, context in contexts.items():
        for name in RECORD.stages[stage]["replies"]:
            signed = RECORD.signed(stage, name)
            key = bytes.fromhex(RECORD.case["roster"][name])
            if stage != "keys":
                key = plain.ed25519_public(RECORD.secrets[name][3])
            plain.verify(key, stage, name, context, signed.body, signed.signature)


def test_the_recorded_boxes_hold_the_recorded_shares():
    for dealer in RECORD.names:
        body, dealt = RECORD.body(SharesBody, "shares", dealer), RECORD.dealt(dealer)
        others = [name for name in RECORD.names if name != dealer]
        for holder, box in zip(others, split(body.boxes, 84, N - 1, "boxes"), strict=True):
            values = (RECORD.sid, RECORD.key_list, RECORD.party(dealer), RECORD.party(holder))
            key = plain.hkdf(RECORD.secret(2, dealer, holder), "box", *values)
            assert plain.open_box(key, box, plain.bind("box", *values)) == dealt[holder]
        digests = b"".join(
            plain.sha("share", RECORD.sid, RECORD.key_list, RECORD.party(dealer), RECORD.party(holder), which, half)[
                :16
            ]
            for holder, pair in dealt.items()
            for which, half in ((b"self-mask secret", pair[:34]), (b"mask key", pair[34:]))
        )
        assert body.digests == digests
        assert RECORD.own("masked", dealer) == wire.encode(
            Inbox(b"".join(
                split(RECORD.body(SharesBody, "shares", other).boxes, 84, N - 1, "boxes")[
                    [name for name in RECORD.names if name != other].index(dealer)
                ]
                for other in others
            ))
        )  # fmt: skip


def test_the_recorded_vectors_are_masked_as_the_reference_masks():
    bits, dimension = RECORD.case["session"]["bits"], RECORD.case["session"]["dimension"]
    for name in RECORD.case["survivors"]:
        body = RECORD.body(MaskedBody, "masked", name)
        masks = [(1, RECORD.self_seed(name, RECORD.secrets[name][0]))]
        masks += [(1 if name < other else -1, RECORD.pair_seed(name, other)) for other in RECORD.names if other != name]
        vector = list(RECORD.case["vectors"][name])
        for sign, seed in masks:
            vector = [v + sign * m for v, m in zip(vector, plain.stream_of(seed, bits, dimension), strict=True)]
        assert plain.unpack_vector(body.vector, bits, dimension) == [value % (1 << bits) for value in vector]
        assert body.tags == b"".join(tag(name, other) for other in RECORD.names if other != name)


def test_a_fresh_session_is_masked_as_the_reference_masks():
    """The product itself, with keys that are in no record."""
    world = World(make_session(N, bits=20, dimension=7), seed=5)
    _, sharing = play(world, until=Stage.SHARES)
    _, masking = play(world, until=Stage.MASKED)
    cohort, secrets = world.session.cohort, world.secrets
    sid = plain.sha("session", wire.encode(world.session))
    key_list = plain.sha("key list", sid, sharing[cohort[0]].common)
    sharers = plain.sha("sharers", sid, key_list, wire.decode(MaskedRequest, masking[cohort[0]].common).sharers)
    parties = [plain.party(j, name) for j, name in enumerate(cohort)]
    replies = world.answer_all(masking)
    for me, name in enumerate(cohort):
        masks = [(1, plain.hkdf(secrets[name][0], "self mask", sid, key_list, sharers, parties[me]))]
        for other in range(N):
            if other != me:
                shared = plain.exchange(secrets[name][1], plain.x25519_public(secrets[cohort[other]][1]))
                pair = parties[min(me, other)], parties[max(me, other)]
                masks.append((1 if me < other else -1, plain.hkdf(shared, "pair mask", sid, key_list, sharers, *pair)))
        vector = world.vectors[name].tolist()
        for sign, seed in masks:
            vector = [v + sign * m for v, m in zip(vector, plain.stream_of(seed, 20, 7), strict=True)]
        body = wire.decode(MaskedBody, wire.decode(Signed, replies[name]).body)
        assert plain.unpack_vector(body.vector, 20, 7) == [value % (1 << 20) for value in vector]


def tag(dealer, holder):
    values = (RECORD.sid, RECORD.key_list, RECORD.party(dealer), RECORD.party(holder))
    key = plain.hkdf(RECORD.secret(2, dealer, holder), "acknowledgement key", *values)
    message = plain.bind("acknowledgement", *values[:2], RECORD.sharers, *values[2:])
    return plain.hmac.digest(key, message, "sha256")[:16]


def test_the_recorded_shares_open_the_recorded_sum():
    session, survivors = RECORD.case["session"], RECORD.case["survivors"]
    sets = wire.decode(UnmaskRequest, RECORD.common("unmask")).sets
    assert [RECORD.names[j] for j in from_bitmap(wire.decode(SurvivorSets, sets).survivors, N)] == survivors
    rows = {name: {} for name in RECORD.names}
    for holder in survivors:
        body = RECORD.body(UnmaskBody, "unmask", holder)
        dealers = [RECORD.names[j] for j in from_bitmap(body.dealers, N)]
        for dealer, data in zip(dealers, split(body.shares, shamir.SHARE_BYTES, len(dealers), "shares"), strict=True):
            rows[dealer][RECORD.names.index(holder) + 1] = plain.unpack_share(data)
        tags = b"".join(tag(dealer, holder) for dealer in survivors if dealer != holder)
        assert RECORD.own("unmask", holder) == wire.encode(Acknowledgements(tags))
    bits, dimension = session["bits"], session["dimension"]
    total = [0] * dimension
    for name in survivors:
        vector = plain.unpack_vector(RECORD.body(MaskedBody, "masked", name).vector, bits, dimension)
        total = [t + v for t, v in zip(total, vector, strict=True)]

    def add(sign, seed):
        return [t + sign * m for t, m in zip(total, plain.stream_of(seed, bits, dimension), strict=True)]

    for name in RECORD.names:
        points = list(rows[name])[: session["threshold"]]
        secret = plain.combine([rows[name][x] for x in points], points)
        assert secret == RECORD.secrets[name][0 if name in survivors else 1]
        if name in survivors:
            total = add(-1, RECORD.self_seed(name, secret))
        else:
            for other in survivors:
                total = add(-1 if other < name else 1, RECORD.pair_seed(name, other))
    assert [value % (1 << bits) for value in total] == RECORD.case["total"]
