"""What simulated devices of one process share: each still gets what it would have computed alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer import secagg
from fedinfer.errors import Misbehaviour
from fedinfer.secagg import IdentityKey, PairSecrets, Stage, keys
from fedinfer.secagg.keys import agree, public_of
from fedinfer.secagg.messages import KeyList
from fedinfer.system import SimulatedEntropy
from fedinfer.wire import decode, encode
from tests.protocol.secagg_play import World, make_session, play

PRIVATES = [bytes([number]) * 32 for number in range(1, 7)]
PUBLICS = [public_of(private) for private in PRIVATES]
SMALL_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
OTHER_FORMS = [public[:-1] + bytes([public[-1] | 0x80]) for public in PUBLICS]
"""The same points with the bit set that X25519 ignores."""


def test_each_pair_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[bytes] = []

    def counting(private: bytes, publics: list[bytes]) -> list[bytes]:
        computed.extend(publics)
        return agree(private, publics)

    monkeypatch.setattr(keys, "agree", counting)
    shared = PairSecrets()
    for me, private in enumerate(PRIVATES):
        others = [public for place, public in enumerate(PUBLICS) if place != me]
        assert shared.agree(private, others) == agree(private, others)
    assert len(computed) == len(PRIVATES) * (len(PRIVATES) - 1) // 2
    assert not shared._waiting, "no secret stays behind"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(range(6)),
            st.lists(st.sampled_from([*PUBLICS, *OTHER_FORMS, bytes([9]) * 32]), max_size=6),
        ),
        max_size=8,
    )
)
def test_whatever_keys_are_shown_the_secrets_are_those_of_the_key_agreement(
    asked: list[tuple[int, list[bytes]]],
) -> None:
    """Keys that nobody has, keys in another form, keys shown twice, and its own key."""
    shared = PairSecrets()
    for me, publics in asked:
        assert shared.agree(PRIVATES[me], publics) == agree(PRIVATES[me], publics)


def test_a_point_of_small_order_is_refused_and_leaves_nothing() -> None:
    shared = PairSecrets()
    for _ in range(2):
        with pytest.raises(Misbehaviour, match="gives no secret"):
            shared.agree(PRIVATES[0], [PUBLICS[1], SMALL_ORDER])
    assert not shared._waiting


@pytest.mark.parametrize("size", [10, 24])
def test_a_session_gives_the_same_messages_with_shared_work(size: int) -> None:
    """To the byte: what is sent does not tell whether the other end did the work."""
    found = []
    for shared in (PairSecrets().agree, agree):
        world = World(make_session(size))
        _, requests = play(world, until=Stage.SHARES)
        answers = {}
        for place, (name, request) in enumerate(requests.items()):
            entropy = SimulatedEntropy(7, "shares", str(place))
            state = secagg.decode_state(world.states[name])
            answers[name] = secagg.answer_shares(state, request.common, request.own, world.roster, entropy, shared)
        found.append((world, answers))
    (one, with_shared), (other, alone) = found
    assert one.roster == other.roster, "worlds of one seed are alike"
    assert with_shared == alone


def test_a_list_is_judged_by_what_each_device_has_pinned() -> None:
    """The last judgement is kept, but not for a device that knows other identities."""
    world = World(make_session(10))
    _, requests = play(world, until=Stage.SHARES)
    first, second, stranger = list(requests)[:3]
    common = requests[first].common

    def answer(name: str, pinned: dict[str, bytes], shown: bytes = common) -> None:
        secagg.answer_shares(secagg.decode_state(world.states[name]), shown, b"", pinned, SimulatedEntropy(1, name))

    everybody = dict(world.roster)
    answer(first, everybody)
    with pytest.raises(Misbehaviour, match=f"{stranger} is in the key list but not enrolled"):
        answer(second, {name: key for name, key in everybody.items() if name != stranger})
    other = everybody | {stranger: IdentityKey.generate(SimulatedEntropy(2, "other")).public_bytes}
    with pytest.raises(Misbehaviour, match=f"the keys shown for {stranger} are not signed"):
        answer(second, other)
    answer(second, everybody)
    answer(stranger, other)  # its own keys are those that it sent; it need not have pinned itself
    listed = decode(KeyList, common)
    damaged = encode(replace(listed, signatures=listed.signatures[:-1] + bytes([listed.signatures[-1] ^ 1])))
    with pytest.raises(Misbehaviour, match="are not signed by its enrolled identity"):
        answer(first, everybody, damaged)
