"""A malicious server, one attack per test: what it tries, who refuses, and what it lacks afterwards.

A server reads a device's vector only with BOTH of its secrets: the self-mask seed and the mask key. `Loot` counts the
shares of each that it has gathered; `missing` says how many lack.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fedinfer import secagg, wire
from fedinfer.errors import BadMessage, Misbehaviour, ProtocolAbort, TooFewSurvivors
from fedinfer.secagg import IdentityKey, Stage, StageRequest
from fedinfer.secagg.graph import from_bitmap, neighbour_table, to_bitmap
from fedinfer.secagg.keys import public_of, seal
from fedinfer.secagg.masks import add_masks, pair_mask_seed
from fedinfer.secagg.messages import (
    BOX_BYTES,
    Inbox,
    KeyList,
    KeysBody,
    MaskedBody,
    MaskedRequest,
    SharesBody,
    SurvivorSets,
    Witnesses,
    split,
)
from fedinfer.secagg.packing import unpack
from fedinfer.system import SimulatedEntropy
from tests.protocol.secagg_play import Loot, World, body_of, make_session, names, play

TARGET = "device-0000"


def bitmap(world, chosen):
    cohort = world.session.cohort
    return to_bitmap(np.array(sorted(cohort.index(name) for name in chosen), np.int64), len(cohort))


def sets_for(world, survivors, dropped):
    place = next(iter(world.places.values()))
    return wire.encode(
        SurvivorSets(world.session.sid, place.key_list, bitmap(world, survivors), bitmap(world, dropped))
    )


def collect(world, requests):
    """Answers that devices give to crafted requests, and the errors of the rest."""
    answers, refused = {}, {}
    for name, request in requests.items():
        try:
            answers[name] = world.answer(name, request)
        except ProtocolAbort as error:
            refused[name] = error
    return answers, refused


def sign(world, views):
    """Survivors stage with a view of its own for every device; returns signatures by device."""
    requests = {name: StageRequest(Stage.SURVIVORS, sets) for name, sets in views.items()}
    answers, refused = collect(world, requests)
    return {name: wire.decode(secagg.keys.Signed, reply).signature for name, reply in answers.items()}, refused


def witnesses(world, signatures):
    ordered = sorted(signatures)
    return wire.encode(Witnesses(bitmap(world, ordered), b"".join(signatures[name] for name in ordered)))


def unmask(world, views, signatures):
    """Unmask stage: every device sees its own view, with all signatures that exist over that view."""
    requests = {}
    for name, sets in views.items():
        fitting = {other: signature for other, signature in signatures.items() if views.get(other) == sets}
        requests[name] = StageRequest(Stage.UNMASK, sets, witnesses(world, fitting))
    return collect(world, requests)


@pytest.mark.parametrize("n", [10, 30])
def test_server_puts_one_device_in_both_lists(n):
    world = World(make_session(n))
    state, _ = play(world, until=Stage.SURVIVORS)
    honest = state.summed.request
    both = sets_for(world, names(n), [TARGET])
    before = dict(world.states)
    _, refused = sign(world, dict.fromkeys(names(n), both))
    assert set(refused) == set(names(n))
    assert all(isinstance(error, Misbehaviour) and TARGET in str(error) for error in refused.values())
    assert world.states == before
    # Now sign honestly, and try at the last moment.
    signatures, _ = sign(world, dict.fromkeys(names(n), honest))
    answers, refused = unmask(world, dict.fromkeys(names(n), both), signatures)
    assert not answers
    assert all(isinstance(error, Misbehaviour) for error in refused.values())
    assert Loot(world).missing(TARGET) == (world.session.threshold, world.session.threshold)


def split_views(world, corrupt):
    """Two consistent views: the target survived, the target dropped. Honest devices see one, corrupt ones sign both."""
    everybody = world.session.cohort
    with_target = sets_for(world, everybody, [])
    without = sets_for(world, [name for name in everybody if name != TARGET], [TARGET])
    honest = [name for name in everybody if name not in corrupt]
    views = {name: with_target if i % 2 == 0 else without for i, name in enumerate(honest)}
    views[TARGET] = with_target
    return with_target, without, views


def test_server_shows_different_survivor_sets_to_different_devices():
    world = World(make_session(10))
    play(world, until=Stage.SURVIVORS)
    _, _, views = split_views(world, [])
    signatures, refused = sign(world, views)
    assert not refused  # each view is consistent in itself
    answers, refused = unmask(world, views, signatures)
    assert not answers
    assert all("signed these survivor sets" in str(error) for error in refused.values())
    assert Loot(world).missing(TARGET) == (7, 7)


@pytest.mark.parametrize(("n", "corrupt_count"), [(10, 3), (16, 5), (30, 3)])
def test_server_shows_different_survivor_sets_with_corrupt_devices_signing_both(n, corrupt_count):
    world = World(make_session(n))
    play(world, until=Stage.SURVIVORS)
    corrupt = names(n)[-corrupt_count:]
    first, second, views = split_views(world, corrupt)
    signatures, _ = sign(world, views)
    loot = Loot(world)
    for sets, survivors in ((first, names(n)), (second, names(n)[1:])):
        body = wire.decode(SurvivorSets, sets)
        extra = {name: sealed_signature(world, name, body) for name in corrupt}
        for name, view in views.items():
            if view == sets:
                fitting = {other: s for other, s in signatures.items() if views[other] == sets} | extra
                request = StageRequest(Stage.UNMASK, sets, witnesses(world, fitting))
                answers, _ = collect(world, {name: request})
                for answer in answers.values():
                    loot.take_answer(name, answer, survivors)
    for name in corrupt:
        loot.take_corrupt(name)
    lacking = loot.missing(TARGET)
    assert max(lacking) > 0
    assert not all(loot.rebuild(TARGET))


def sealed_signature(world, name, body):
    return wire.decode(secagg.keys.Signed, world.resign(name, Stage.SURVIVORS, body)).signature


def change_list(listed, world, name, public, signature):
    members = from_bitmap(listed.members, len(world.session.cohort)).tolist()
    at = members.index(world.session.cohort.index(name))
    publics, signatures = bytearray(listed.publics), bytearray(listed.signatures)
    publics[at * 128 : (at + 1) * 128] = public
    signatures[at * 64 : (at + 1) * 64] = signature
    return replace(listed, publics=bytes(publics), signatures=bytes(signatures))


def own_public(seed):
    take = SimulatedEntropy(seed).take
    return public_of(take(32)) + public_of(take(32)) + IdentityKey(take(32)).public_bytes + take(32)


def test_server_substitutes_its_own_keys():
    world = World(make_session(10))
    _, requests = play(world, until=Stage.SHARES)
    listed = wire.decode(KeyList, requests[TARGET].common)
    public = own_public("server")
    server = IdentityKey.generate(SimulatedEntropy("server identity"))
    reply = seal(server, Stage.KEYS, TARGET, world.session.sid, KeysBody(world.session.sid, public))
    signature = wire.decode(secagg.keys.Signed, reply).signature
    forged = wire.encode(change_list(listed, world, TARGET, public, signature))
    answers, refused = collect(world, {name: StageRequest(Stage.SHARES, forged) for name in names(10)})
    assert not answers  # no share of anybody left a device
    assert "does not hold the keys" in str(refused[TARGET])
    assert all("not signed by its enrolled identity" in str(refused[name]) for name in names(10)[1:])
    assert all(isinstance(error, Misbehaviour) for error in refused.values())


def test_server_invents_a_device_that_is_not_enrolled():
    world = World(make_session(10))
    _, requests = play(world, until=Stage.SHARES)
    pinned = {name: key for name, key in world.roster.items() if name != "device-0009"}
    state = secagg.decode_state(world.states[TARGET])
    with pytest.raises(Misbehaviour, match="not enrolled"):
        secagg.answer_shares(state, requests[TARGET].common, b"", pinned, SimulatedEntropy(1))


def test_server_shows_different_key_lists_to_different_devices():
    """A corrupt device signs two key messages; each half of the devices sees another list."""
    n, corrupt = 10, "device-0009"
    world = World(make_session(n))
    _, requests = play(world, until=Stage.SHARES)
    first = wire.decode(KeyList, requests[TARGET].common)
    public = own_public("second")
    signature = wire.decode(
        secagg.keys.Signed, world.resign(corrupt, Stage.KEYS, KeysBody(world.session.sid, public))
    ).signature
    second = change_list(first, world, corrupt, public, signature)
    lists = {name: first if i % 2 == 0 else second for i, name in enumerate(names(n)[:-1])}
    answers, refused = collect(
        world, {name: StageRequest(Stage.SHARES, wire.encode(listed)) for name, listed in lists.items()}
    )
    assert not refused  # both lists are well signed
    boxes = {name: split(body_of(SharesBody, reply).boxes, BOX_BYTES, 9, "boxes") for name, reply in answers.items()}
    asks = {}
    for name in lists:
        place, me = world.places[name], world.session.cohort.index(name)
        dealers = [j for j in place.near if world.session.cohort[j] in lists]
        mine = [boxes[world.session.cohort[j]][world.places[world.session.cohort[j]].near.index(me)] for j in dealers]
        inbox = Inbox(to_bitmap(np.array(dealers, np.int64), n), b"".join(mine))
        common = wire.encode(MaskedRequest(world.session.sid, place.key_list))
        asks[name] = StageRequest(Stage.MASKED, common, wire.encode(inbox))
    answers, refused = collect(world, asks)
    assert not answers  # no masked vector left a device
    assert all(isinstance(error, TooFewSurvivors) and "boxes opened" in str(error) for error in refused.values())


def test_server_asks_unmask_twice():
    world = World(make_session(10))
    gone = "device-0003"
    _, requests = play(world, lost={gone: Stage.MASKED}, until=Stage.UNMASK)
    loot = Loot(world)
    first = world.answer_all(requests)
    for name, reply in first.items():
        loot.take_answer(name, reply, [other for other in names(10) if other != gone])
    # The same question again, and the opposite question: the target is said to have dropped now.
    other = sets_for(
        world, [name for name in names(10) if name not in (TARGET, "device-0003")], [TARGET, "device-0003"]
    )
    for request in (requests[TARGET], StageRequest(Stage.UNMASK, other, requests[TARGET].own)):
        _, refused = collect(world, dict.fromkeys(first, request))
        assert set(refused) == set(first)
        assert all(isinstance(error, Misbehaviour) and "Finished" in str(error) for error in refused.values())
    assert loot.missing(TARGET) == (0, 7)
    assert loot.rebuild(TARGET) == (True, False)


@pytest.mark.parametrize("stage", [Stage.SHARES, Stage.MASKED, Stage.SURVIVORS])
def test_server_asks_any_stage_twice(stage):
    world = World(make_session(5))
    _, requests = play(world, until=stage)
    world.answer_all(requests)
    _, refused = collect(world, requests)
    assert set(refused) == set(requests)
    assert all(isinstance(error, Misbehaviour) for error in refused.values())


def test_server_calls_a_survivor_dropped_although_it_holds_its_vector():
    """Consistent towards everybody, so it is answered; the self mask still covers the vector."""
    world = World(make_session(10, bits=32))
    vectors = {}

    def keep(stage, replies):
        if stage is Stage.MASKED:
            vectors[TARGET] = unpack(body_of(MaskedBody, replies.pop(TARGET)).vector, 32, world.session.dimension)
        return replies

    state, requests = play(world, tamper=keep, until=Stage.UNMASK)
    loot, survivors = Loot(world), names(10)[1:]
    for name, reply in world.answer_all(requests).items():
        loot.take_answer(name, reply, survivors)
    assert loot.rebuild(TARGET) == (False, True)
    assert loot.missing(TARGET) == (7, 0)  # no share at all of the self-mask seed
    opened = vectors[TARGET].copy()
    place = world.places[TARGET]
    mask_key = world.secrets[TARGET][1]
    publics = state.ground.publics
    secrets = secagg.keys.agree(mask_key, [publics[j][:32] for j in place.near])
    add_masks(opened, [], [pair_mask_seed(secret, place.key_list) for secret in secrets])  # device 0 adds all of them
    assert np.count_nonzero(opened == world.vectors[TARGET]) <= 1
    add_masks(opened, [], [secagg.masks.self_mask_seed(world.secrets[TARGET][0], place.key_list)])
    np.testing.assert_array_equal(opened, world.vectors[TARGET])  # exactly that is what it lacks


@pytest.mark.parametrize("stage", [Stage.SHARES, Stage.MASKED, Stage.SURVIVORS, Stage.UNMASK])
def test_server_replays_an_old_round(stage):
    old, new = World(make_session(6, round_id="1")), World(make_session(6, round_id="2"))
    _, stale = play(old, until=stage)
    play(new, until=stage)
    before = dict(new.states)
    answers, refused = collect(new, stale)
    assert not answers
    assert all(isinstance(error, BadMessage) and "another session" in str(error) for error in refused.values())
    assert new.states == before


def test_server_replays_a_whole_session():
    session = make_session(6)
    used = {session.sid}
    with pytest.raises(Misbehaviour, match="answers a session once"):
        secagg.refuse_second_use(session, used)
    secagg.refuse_second_use(replace(session, round_id="2"), used)


def test_server_shrinks_the_cohort_in_the_key_list():
    world = World(make_session(10, min_survivors=9))
    _, requests = play(world, until=Stage.SHARES)
    listed = wire.decode(KeyList, requests[TARGET].common)
    kept = 8
    small = replace(
        listed,
        members=bitmap(world, names(10)[:kept]),
        publics=listed.publics[: 128 * kept],
        signatures=listed.signatures[: 64 * kept],
    )
    with pytest.raises(TooFewSurvivors, match="8 devices sent keys, 9 are needed"):
        world.answer(TARGET, StageRequest(Stage.SHARES, wire.encode(small)))


def test_server_shrinks_the_cohort_in_the_survivor_set():
    world = World(make_session(10, min_survivors=9))
    play(world, until=Stage.SURVIVORS)
    few = sets_for(world, names(10)[:8], names(10)[8:])
    signatures, refused = sign(world, dict.fromkeys(names(10), few))
    assert not signatures
    assert all(isinstance(error, TooFewSurvivors) and "8 survivors, 9" in str(error) for error in refused.values())
    assert Loot(world).missing(TARGET) == (7, 7)


def test_server_pads_the_survivor_set_with_devices_that_shared_nothing():
    """Two devices never sent shares; counting them would hide that only 8 vectors are in the sum."""
    world = World(make_session(10, min_survivors=8))
    lost = {"device-0008": Stage.SHARES, "device-0009": Stage.SHARES}
    play(world, lost=lost, until=Stage.SURVIVORS)
    padded = sets_for(world, names(10), [])
    signatures, refused = sign(world, dict.fromkeys(names(10)[:8], padded))
    assert not signatures
    assert all(isinstance(error, Misbehaviour) and "delivered" in str(error) for error in refused.values())


@pytest.mark.parametrize("n", [40, 60, 100])
def test_server_pads_the_survivor_set_in_a_ring(n):
    """Only the neighbours of the invented survivor notice; without their answers the sum cannot be opened by anybody.

    No mask key is ever revealed (nobody is said to have dropped), so every mask of the sum must go by self-mask seeds
    alone, and a sum without open masks must hold all devices of the connected ring.
    """
    ghost = "device-0007"
    world = World(make_session(n))
    state, _ = play(world, lost={ghost: Stage.SHARES}, until=Stage.SURVIVORS)
    sharers = [name for name in names(n) if name != ghost]
    padded = sets_for(world, names(n), [])
    signatures, refused = sign(world, dict.fromkeys(sharers, padded))
    position = world.session.cohort.index(ghost)
    assert set(refused) == set(state.ground.names(state.ground.near[position].tolist()))
    answers, _ = unmask(world, dict.fromkeys(signatures, padded), signatures)
    loot = Loot(world)
    for name, answer in answers.items():
        loot.take_answer(name, answer, names(n))
    assert not loot.keys
    closed = [name for name in sharers if loot.missing(name)[0] > 0]
    assert set(refused) <= set(closed)
    reached, fresh = {ghost}, {0} if position else {1}
    ring = {j: set(near.tolist()) - {position} for j, near in state.ground.near.items() if j != position}
    while fresh:
        reached |= set(state.ground.names(fresh))
        fresh = {i for j in fresh for i in ring[j]} - {world.session.cohort.index(name) for name in reached}
    assert reached == set(names(n))  # one connected ring: no part of it sums to something free of masks


def test_server_names_survivors_that_never_sent_keys():
    world = World(make_session(10, min_survivors=7))
    play(world, lost={"device-0009": Stage.KEYS}, until=Stage.SURVIVORS)
    signatures, refused = sign(world, dict.fromkeys(names(9), sets_for(world, names(10), [])))
    assert not signatures
    assert all("never sent keys" in str(error) for error in refused.values())


def test_server_leaves_a_neighbour_out_of_both_lists():
    world = World(make_session(10))
    play(world, until=Stage.SURVIVORS)
    signatures, refused = sign(world, dict.fromkeys(names(9), sets_for(world, names(9), [])))
    assert not signatures
    assert all(isinstance(error, Misbehaviour) for error in refused.values())


def test_server_proposes_less_protection_than_the_device_wants():
    weak = make_session(40, degree=4, threshold=2)
    with pytest.raises(Misbehaviour, match="degree 4 and threshold 2"):
        secagg.check_session(weak, 2, 0.1, 0.1)
    with pytest.raises(Misbehaviour, match="sum over 2 devices"):
        secagg.check_session(make_session(40), 30, 0.1, 0.1)
    with pytest.raises(Misbehaviour, match="threshold 5"):
        secagg.check_session(make_session(10, degree=9, threshold=5), 2, 0.1, 0.1)
    for n in (2, 4, 10, 20, 21, 40, 100, 300):
        secagg.check_session(make_session(n, min_survivors=max(2, n - n // 10)), 2, 0.1, 0.1)


def is_refused(proposal, corrupt_rate: float) -> bool:
    """By a device whose owner counts on so many corrupt devices."""
    try:
        secagg.check_session(proposal, 2, 0.1, corrupt_rate)
    except Misbehaviour:
        return True
    return False


@pytest.mark.parametrize(("n", "corrupt_rate"), [(500, 0.1), (500, 0.2), (300, 0.25)])
def test_server_leaves_honest_devices_out_to_surround_a_target(n: int, corrupt_rate: float):
    """A device accepts a least number of members only where too many corrupt neighbours stay too unlikely."""
    graph, corrupt = secagg.choose_graph(n, 0.1, corrupt_rate, "semi_malicious"), int(corrupt_rate * n)
    accepted, proposed = [], range(graph.degree + 2, n, 5)
    for least in proposed:
        others = least - 1  # all corrupt devices stay, everybody who is left out is honest
        ways = sum(
            math.comb(corrupt, x) * math.comb(others - corrupt, graph.degree - x)
            for x in range(2 * graph.threshold - graph.degree, min(corrupt, graph.degree) + 1)
        )
        proposal = make_session(n, degree=graph.degree, threshold=graph.threshold, min_survivors=least)
        if is_refused(proposal, corrupt_rate):
            continue
        accepted.append(least)
        assert proposal.least == least
        assert ways * n << 30 <= math.comb(others, graph.degree)
    assert proposed[0] < accepted[0] < 0.9 * n
    assert accepted == [least for least in proposed if least >= accepted[0]]


def test_server_surrounds_a_target_by_choosing_neighbours():
    """Boxes from devices that are not the target's own computed neighbours are refused."""
    world = World(make_session(40))
    _, requests = play(world, until=Stage.MASKED)
    place = world.places[TARGET]
    strangers = [j for j in range(1, 40) if j not in place.near][: len(place.near)]
    inbox = Inbox(to_bitmap(np.array(strangers, np.int64), 40), bytes(84 * len(strangers)))
    with pytest.raises(Misbehaviour, match="not neighbours"):
        world.answer(TARGET, StageRequest(Stage.MASKED, requests[TARGET].common, wire.encode(inbox)))


def test_server_surrounds_a_target_by_grinding_the_graph():
    """4,000 key lists tried with a quarter of the devices corrupt: no graph gives threshold corrupt neighbours."""
    graph = secagg.choose_graph(200, 0.05, 0.25, "semi_malicious")
    members = np.arange(200)
    worst = 0
    for attempt in range(4_000):
        key_list = attempt.to_bytes(32, "little")
        near = secagg.graph.own_neighbours(0, members, graph.degree, key_list)
        worst = max(worst, int((near >= 150).sum()))
    assert worst < graph.threshold  # what it needs to rebuild the target's mask key alone
    assert 2 * graph.threshold > graph.degree + worst  # what it needs to get both secrets with the honest ones' help


def test_server_cannot_choose_the_graph():
    """The graph hangs on every signed key message: another message of one device gives unrelated neighbours."""
    first, second = World(make_session(40)), World(make_session(40))
    _, requests = play(first, until=Stage.SHARES)
    second.seed = 1  # other keys, same identities
    _, other = play(second, until=Stage.SHARES)
    first.answer(TARGET, requests[TARGET])
    second.answer(TARGET, other[TARGET])
    assert requests[TARGET].own == b""
    assert first.places[TARGET].near != second.places[TARGET].near
    table = neighbour_table(np.arange(40), first.session.degree, first.places[TARGET].key_list)
    assert tuple(table[0].tolist()) == first.places[TARGET].near


FIELDS = {
    "run_id": "other",
    "round_id": "2",
    "purpose": "drift",
    "model_hash": b"x" * 32,
    "cohort": names(11)[1:],
    "degree": 8,
    "threshold": 8,
    "min_survivors": 3,
    "bits": 21,
    "dimension": 38,
    "mechanism_hash": b"x" * 32,
}


@pytest.mark.parametrize("field", FIELDS)
def test_server_swaps_the_model_or_any_promise_under_the_same_session_id(field):
    """The id is a hash of everything promised, so another promise is another session to every device."""
    session = make_session(10)
    changes = {field: FIELDS[field]} | ({"threshold": 6} if field == "degree" else {})
    swapped = replace(session, **changes)
    assert swapped.sid != session.sid
    promised, other = World(session), World(swapped)
    play(promised, until=Stage.SHARES)
    _, requests = play(other, until=Stage.SHARES)
    name = "device-0001"
    with pytest.raises(BadMessage, match="another session"):
        promised.answer(name, requests[name])


def test_all_fields_are_bound():
    assert set(FIELDS) == set(secagg.Session.__dataclass_fields__)
