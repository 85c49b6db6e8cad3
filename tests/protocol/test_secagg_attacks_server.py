"""A malicious server, one attack per test: what it tries, who refuses, and what it lacks afterwards.

A server reads a device's vector only with BOTH of its secrets: the self-mask secret and the mask key. `Loot` counts the
shares of each that it has gathered; `missing` says how many lack.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedinfer import secagg, wire
from fedinfer.errors import BadMessage, Misbehaviour, ProtocolAbort, TooFewSurvivors
from fedinfer.secagg import IdentityKey, Stage, StageRequest
from fedinfer.secagg import key_list as key_lists
from fedinfer.secagg.bounds import log2_failure
from fedinfer.secagg.derivations import TAG_BYTES, pair_mask_seed, self_mask_seed
from fedinfer.secagg.graph import from_bitmap, to_bitmap
from fedinfer.secagg.hypergeometric import corrupt_among
from fedinfer.secagg.key_list import Public, read_list, write_list
from fedinfer.secagg.keys import public_of, seal
from fedinfer.secagg.masks import add_masks
from fedinfer.secagg.messages import (
    BOX_BYTES,
    Acknowledgements,
    Inbox,
    KeyList,
    KeysBody,
    MaskedBody,
    MaskedRequest,
    SurvivorSets,
    UnmaskRequest,
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


def opening(world, sets, signatures):
    """Common part of an unmask question, with these signatures."""
    ordered = sorted(signatures)
    signed = b"".join(signatures[name] for name in ordered)
    return wire.encode(UnmaskRequest(world.session.sid, sets, bitmap(world, ordered), signed))


def tags_for(world, name, survivors):
    """The acknowledgements that belong to one device; a device's own tags are recorded at the masked stage."""
    place, cohort = world.places[name], world.session.cohort
    dealers = [cohort[j] for j in place.dealers if cohort[j] in survivors]
    return wire.encode(
        Acknowledgements(b"".join(world.tags.get(dealer, {}).get(name, bytes(TAG_BYTES)) for dealer in dealers))
    )


def unmask(world, views, signatures, extra=None):
    """Unmask stage: every device sees its own view, with all signatures that exist over that view.

    Args:
        world: the devices.
        views: encoded survivor sets by device.
        signatures: of honest devices, each over its own view.
        extra: signatures of corrupt devices by view.
    """
    requests = {}
    for name, sets in views.items():
        fitting = {other: signature for other, signature in signatures.items() if views.get(other) == sets}
        fitting |= (extra or {}).get(sets, {})
        alive = set(survivors_of(world, sets))
        requests[name] = StageRequest(Stage.UNMASK, opening(world, sets, fitting), tags_for(world, name, alive))
    return collect(world, requests)


def survivors_of(world, sets):
    cohort = world.session.cohort
    return [cohort[j] for j in from_bitmap(wire.decode(SurvivorSets, sets).survivors, len(cohort))]


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
    """More than half of all devices and the corrupt ones together must sign: no two different sets get there."""
    world = World(make_session(n))
    play(world, until=Stage.SURVIVORS)
    corrupt = names(n)[-corrupt_count:]
    first, second, views = split_views(world, corrupt)
    signatures, _ = sign(world, views)
    extra = {
        sets: {name: sealed_signature(world, name, wire.decode(SurvivorSets, sets)) for name in corrupt}
        for sets in (first, second)
    }
    loot = Loot(world)
    answers, refused = unmask(world, views, signatures, extra)
    assert len({views[name] for name in answers}) <= 1
    assert all("signed these survivor sets" in str(error) for error in refused.values())
    for name, answer in answers.items():
        loot.take_answer(name, answer, survivors_of(world, views[name]))
    for name in corrupt:
        loot.take_corrupt(name)
    assert max(loot.missing(TARGET)) > 0
    assert not all(loot.rebuild(TARGET))


@pytest.mark.parametrize(
    ("n", "corrupt", "degree", "threshold", "least"), [(10, 2, 9, 6, 8), (10, 4, 9, 7, 9), (60, 22, 40, 20, 40)]
)
def test_server_proposes_a_quorum_that_two_survivor_sets_can_reach(n, corrupt, degree, threshold, least):
    """Honest devices part in halves, corrupt ones sign both: so many signatures are no proof that there is one set."""
    session = make_session(n, degree=degree, threshold=threshold, min_survivors=least)
    assert 2 * session.quorum <= n + corrupt
    with pytest.raises(Misbehaviour, match="can then sign two different survivor sets"):
        secagg.check_session(session, 2, 0.1, corrupt / n)
    just_enough = corrupt_among(n, (2 * session.quorum - n - 1) / n)
    if session.is_complete:
        secagg.check_session(session, 2, 0.1, just_enough / n)  # with one corrupt device fewer no two sets reach it


def test_one_signature_less_than_the_quorum_opens_nothing():
    world = World(make_session(30))
    state, _ = play(world, until=Stage.SURVIVORS)
    sets, quorum = state.summed.request, world.session.quorum
    signatures, _ = sign(world, dict.fromkeys(names(30), sets))
    some = dict(list(signatures.items())[: quorum - 1])
    for fitting in (some, some | {names(30)[quorum]: some[names(30)[0]]}, some | {TARGET: bytes(64)}):
        request = StageRequest(Stage.UNMASK, opening(world, sets, fitting), tags_for(world, TARGET, set(names(30))))
        _, refused = collect(world, {TARGET: request})
        assert f"{quorum} are needed" in str(refused[TARGET])
    assert 2 * quorum > 30 + 3


def sealed_signature(world, name, body):
    return wire.decode(secagg.keys.Signed, world.resign(name, Stage.SURVIVORS, body)).signature


def change_list(listed, world, name, public, signature, holders=None):
    """The list with another entry for one device."""
    keyed = read_list(world.session, listed)
    at = world.session.cohort.index(name)
    keyed[at] = Public(public, keyed[at].holders if holders is None else holders, signature)
    return write_list(world.session, listed.members, keyed)


def own_public(seed):
    take = SimulatedEntropy(seed).take
    return public_of(take(32)) + public_of(take(32)) + IdentityKey(take(32)).public_bytes + take(32)


def test_server_substitutes_its_own_keys():
    world = World(make_session(10))
    _, requests = play(world, until=Stage.SHARES)
    listed = wire.decode(KeyList, requests[TARGET].common)
    public = own_public("server")
    server = IdentityKey.generate(SimulatedEntropy("server identity"))
    reply = seal(server, Stage.KEYS, TARGET, world.session.sid, KeysBody(world.session.sid, public, b""))
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


def test_server_forges_a_member_that_a_device_shares_nothing_with():
    """A forged member would count among the survivors although it masks nothing; every signature is checked."""
    world = World(make_session(40))
    _, requests = play(world, until=Stage.SHARES)
    stranger = next(
        name for name in names(40)[1:] if name not in world.chosen[TARGET] and TARGET not in world.chosen[name]
    )
    listed = wire.decode(KeyList, requests[TARGET].common)
    forged = change_list(listed, world, stranger, own_public("forged"), bytes(64))
    answers, refused = collect(world, dict.fromkeys(names(40), StageRequest(Stage.SHARES, wire.encode(forged))))
    assert not answers
    assert f"the keys shown for {stranger} are not signed" in str(refused[TARGET])


def test_server_shows_different_key_lists_to_different_devices():
    """A corrupt device signs two key messages; each half of the devices sees another list: neither opens anything."""
    n, corrupt = 10, "device-0009"
    world = World(make_session(n))
    _, requests = play(world, until=Stage.SHARES)
    first = wire.decode(KeyList, requests[TARGET].common)
    public = own_public("second")
    signature = wire.decode(
        secagg.keys.Signed, world.resign(corrupt, Stage.KEYS, KeysBody(world.session.sid, public, b""))
    ).signature
    second = change_list(first, world, corrupt, public, signature)
    lists = {name: first if i % 2 == 0 else second for i, name in enumerate(names(n)[:-1])}
    answers, refused = collect(
        world, {name: StageRequest(Stage.SHARES, wire.encode(listed)) for name, listed in lists.items()}
    )
    assert not refused  # both lists are well signed
    everybody = bitmap(world, names(n))
    asks = {
        name: StageRequest(
            Stage.MASKED,
            wire.encode(MaskedRequest(world.session.sid, world.places[name].key_list, everybody)),
            wire.encode(Inbox(bytes(BOX_BYTES * 9))),
        )
        for name in lists
    }
    _, refused = collect(world, asks)
    assert not refused
    views = {
        name: wire.encode(SurvivorSets(world.session.sid, world.places[name].key_list, everybody, bytes(2)))
        for name in lists
    }
    signatures, refused = sign(world, views)
    assert not refused
    answers, refused = unmask(world, views, signatures)
    assert not answers
    assert {str(error).split()[0] for error in refused.values()} == {"4", "5"}  # of 7 that are needed
    together = {
        name: StageRequest(Stage.UNMASK, opening(world, views[name], signatures), tags_for(world, name, set(names(n))))
        for name in lists
    }
    answers, refused = collect(world, together)  # signatures over the other list do not count
    assert not answers
    assert {str(error).split()[0] for error in refused.values()} == {"4", "5"}


def test_server_shows_different_sharers_to_different_devices():
    """One device masks among other sharers than the rest: its holders open nothing of it, whatever the quorum says."""
    world = World(make_session(10))
    lost = "device-0009"
    _, requests = play(world, lost={lost: Stage.SHARES}, until=Stage.MASKED)
    common = wire.decode(MaskedRequest, requests[TARGET].common)
    fewer = replace(common, sharers=bitmap(world, names(10)[:8]))
    boxes = wire.decode(Inbox, requests[TARGET].own).boxes[: BOX_BYTES * 7]
    changed = dict(requests) | {TARGET: StageRequest(Stage.MASKED, wire.encode(fewer), wire.encode(Inbox(boxes)))}
    answers, refused = collect(world, changed)
    assert not refused
    sets = sets_for(world, names(10)[:9], [])
    signatures, refused = sign(world, dict.fromkeys(names(10)[:9], sets))
    assert set(refused) == {TARGET}
    assert "not the sharers" in str(refused[TARGET])
    answers, refused = unmask(world, dict.fromkeys(signatures, sets), signatures)
    assert not refused  # the other eight are a quorum and agree
    loot = Loot(world)
    for name, answer in answers.items():
        loot.take_answer(name, answer, names(10)[:9])
    assert loot.missing(TARGET) == (7, 7)  # each of its holders withheld its share
    assert loot.missing("device-0001") == (0, 7)


def with_sharers(world, requests, name, sharers):
    common = wire.decode(MaskedRequest, requests[name].common)
    return StageRequest(Stage.MASKED, wire.encode(replace(common, sharers=sharers)), requests[name].own)


def test_server_shrinks_or_pads_the_sharers():
    world = World(make_session(10, min_survivors=8))
    _, requests = play(world, lost={"device-0009": Stage.KEYS}, until=Stage.MASKED)
    before = dict(world.states)
    tries = {
        "7 devices shared keys, 8 are needed": names(10)[:7],
        "not among the sharers": names(10)[1:9],
        "never sent keys": names(10),
    }
    for reason, sharers in tries.items():
        with pytest.raises(ProtocolAbort, match=reason):
            world.answer(TARGET, with_sharers(world, requests, TARGET, bitmap(world, sharers)))
    assert world.states == before


def test_server_speaks_of_a_key_list_that_it_did_not_show():
    """At each stage after the keys the server repeats the list that it means; a device knows the one it checked."""
    world = World(make_session(10))
    _, requests = play(world, until=Stage.MASKED)
    common = wire.decode(MaskedRequest, requests[TARGET].common)
    other = replace(common, key_list=bytes(32))
    before = dict(world.states)
    with pytest.raises(Misbehaviour, match="another key list"):
        world.answer(TARGET, StageRequest(Stage.MASKED, wire.encode(other), requests[TARGET].own))
    assert world.states == before
    world = World(make_session(10))
    _, requests = play(world, until=Stage.SURVIVORS)
    sets = wire.decode(SurvivorSets, requests[TARGET].common)
    with pytest.raises(Misbehaviour, match="another key list"):
        world.answer(TARGET, StageRequest(Stage.SURVIVORS, wire.encode(replace(sets, key_list=bytes(32)))))


def test_server_leaves_out_the_holders_that_a_device_drew():
    """With its own choice out of the way a device could be hidden among nobody; it counts its holders at each stage."""
    world = World(make_session(40, degree=12, threshold=10, min_survivors=25))
    _, requests = play(world, until=Stage.SHARES)
    keyed = read_list(world.session, wire.decode(KeyList, requests[TARGET].common))
    drawn = sorted(world.chosen[TARGET])
    kept = {j: public for j, public in keyed.items() if names(40)[j] not in drawn[:3]}
    small = write_list(world.session, bitmap(world, [names(40)[j] for j in kept]), kept)
    with pytest.raises(TooFewSurvivors, match="9 of 9 share holders sent keys, 10"):
        world.answer(TARGET, StageRequest(Stage.SHARES, wire.encode(small)))
    _, requests = play(world, until=Stage.MASKED)
    sharers = bitmap(world, [name for name in names(40) if name not in drawn[:3]])
    with pytest.raises(TooFewSurvivors, match="9 of 12 share holders shared keys, 10"):
        world.answer(TARGET, with_sharers(world, requests, TARGET, sharers))


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
    other = opening(world, other, {})
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
    place, digest = world.places[TARGET], world.digests[TARGET]
    mask_key = world.secrets[TARGET][1]
    publics = state.ground.publics
    secrets = secagg.keys.agree(mask_key, [publics[j].mask_key for j in place.partners])
    seeds = [
        pair_mask_seed(secret, place.scope, digest, 0, j) for j, secret in zip(place.partners, secrets, strict=True)
    ]
    add_masks(opened, [], seeds)  # device 0 adds all of them
    assert np.count_nonzero(opened == world.vectors[TARGET]) <= 1
    add_masks(opened, [], [self_mask_seed(world.secrets[TARGET][0], place.scope, digest, 0)])
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
    keyed = read_list(world.session, listed)
    small = write_list(
        world.session, bitmap(world, names(10)[:kept]), {j: public for j, public in keyed.items() if j < kept}
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
    assert all(isinstance(error, Misbehaviour) and "not the sharers" in str(error) for error in refused.values())


@pytest.mark.parametrize("n", [40, 60])
def test_server_pads_the_survivor_set_where_devices_draw_their_holders(n):
    """A device that never shared anything is no partner of most; still all of them notice, not only its partners."""
    ghost = "device-0007"
    world = World(make_session(n))
    play(world, lost={ghost: Stage.SHARES}, until=Stage.SURVIVORS)
    sharers = [name for name in names(n) if name != ghost]
    signatures, refused = sign(world, dict.fromkeys(sharers, sets_for(world, names(n), [])))
    assert not signatures
    assert all("not the sharers" in str(error) for error in refused.values())


def test_server_names_survivors_that_never_sent_keys():
    world = World(make_session(10, min_survivors=7))
    play(world, lost={"device-0009": Stage.KEYS}, until=Stage.SURVIVORS)
    signatures, refused = sign(world, dict.fromkeys(names(9), sets_for(world, names(10), [])))
    assert not signatures
    assert all("not the sharers" in str(error) for error in refused.values())


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
    with pytest.raises(Misbehaviour, match="owner's min_survivors 30 bound"):
        secagg.check_session(make_session(40, min_survivors=29), 30, 0.1, 0.1)
    with pytest.raises(Misbehaviour, match=r"corruption_rate 0\.1 bound.*quorum of 5"):
        secagg.check_session(make_session(10, degree=9, threshold=5), 2, 0.1, 0.1)
    for n in (3, 4, 10, 20, 21, 40, 100, 300):
        secagg.check_session(make_session(n, min_survivors=max(2, n - n // 10)), 2, 0.1, 0.1)


def test_server_proposes_a_sum_that_may_hold_one_honest_vector():
    """Two devices of which one may be corrupt: the sum is the other's vector."""
    with pytest.raises(Misbehaviour, match="one honest vector"):
        secagg.check_session(make_session(2), 2, 0.0, 0.1)
    secagg.check_session(make_session(2), 2, 0.0, 0.0)
    with pytest.raises(Misbehaviour, match="one honest vector"):
        secagg.check_session(make_session(5, degree=4, threshold=4), 2, 0.0, 0.5)


def is_refused(proposal, corrupt_rate: float) -> bool:
    """By a device whose owner counts on so many corrupt devices."""
    try:
        secagg.check_session(proposal, 2, 0.0, corrupt_rate)
    except Misbehaviour:
        return True
    return False


@pytest.mark.parametrize(("n", "corrupt_rate"), [(500, 0.1), (300, 0.2), (100, 0.25)])
def test_server_promises_few_survivors_to_cut_a_target_off(n: int, corrupt_rate: float):
    """The accepted least numbers of survivors are an interval up to n: no small one slips through below it."""
    graph, corrupt = secagg.choose_graph(n, 0.1, corrupt_rate), corrupt_among(n, corrupt_rate)
    accepted = [
        least
        for least in range(2, n + 1)
        if not is_refused(
            make_session(n, degree=graph.degree, threshold=graph.threshold, min_survivors=least), corrupt_rate
        )
    ]
    assert accepted == list(range(accepted[0], n + 1))
    assert (n + corrupt) // 2 < accepted[0] <= n - n // 10
    assert all(log2_failure(n, graph.degree, graph.threshold, corrupt, least) <= -40 for least in accepted)


def test_server_changes_whom_a_device_drew():
    """The choice is signed with the keys: nobody else can make it."""
    world = World(make_session(40))
    _, requests = play(world, until=Stage.SHARES)
    listed = wire.decode(KeyList, requests[TARGET].common)
    victim = read_list(world.session, listed)[3]
    friends = bitmap(world, names(40)[-world.session.degree :])
    changed = change_list(listed, world, names(40)[3], victim.public, victim.signature, friends)
    _, refused = collect(world, dict.fromkeys(names(40), StageRequest(Stage.SHARES, wire.encode(changed))))
    assert len(refused) == 40
    assert "does not hold the keys" in str(refused[names(40)[3]])
    assert "not signed by its enrolled identity" in str(refused[TARGET])


def test_server_surrounds_a_target_by_grinding_the_graph():
    """Whatever list the server shows, a device's holders are those that it drew before, less who is left out."""
    world = World(make_session(40, degree=12, threshold=2, min_survivors=10))
    _, requests = play(world, until=Stage.SHARES)
    keyed = read_list(world.session, wire.decode(KeyList, requests[TARGET].common))
    drawn = {names(40).index(name) for name in world.chosen[TARGET]}
    before = world.states[TARGET]
    rng = np.random.default_rng(1)
    for _ in range(40):
        kept = {0, *rng.choice(np.arange(1, 40), 25, replace=False).tolist()}
        shown = write_list(
            world.session,
            bitmap(world, [names(40)[j] for j in kept]),
            {j: public for j, public in keyed.items() if j in kept},
        )
        world.states[TARGET] = before  # as if it had not been asked
        world.answer(TARGET, StageRequest(Stage.SHARES, wire.encode(shown)))
        assert set(world.places[TARGET].holders) == drawn & kept


COPIES = {
    "equal bytes": lambda key: key,
    "top bit": lambda key: key[:-1] + bytes([key[-1] | 0x80]),
    "point of order 2 added": lambda key: pow(int.from_bytes(key, "little"), -1, 2**255 - 19).to_bytes(32, "little"),
}


def copied_list(world, copier, victim, form, *, box=False):
    """A list in which a corrupt device has signed an honest one's mask (or box) key as its own."""
    _, requests = play(world, until=Stage.SHARES)
    listed = wire.decode(KeyList, requests[TARGET].common)
    keyed = read_list(world.session, listed)
    position = world.session.cohort.index
    own, copied = keyed[position(copier)].public, keyed[position(victim)].public
    public = own[:32] + COPIES[form](copied[32:64]) + own[64:] if box else COPIES[form](copied[:32]) + own[32:]
    body = KeysBody(world.session.sid, public, keyed[position(copier)].holders)
    signature = wire.decode(secagg.keys.Signed, world.resign(copier, Stage.KEYS, body)).signature
    return change_list(listed, world, copier, public, signature)


@pytest.mark.parametrize("form", COPIES)
@pytest.mark.parametrize(("n", "box"), [(4, False), (4, True), (30, False)])
def test_server_shows_a_copied_key(n, form, box):
    """Every honest device refuses the list and names both devices; nothing else has left it by then."""
    world = World(make_session(n))
    copier, victim = names(n)[-1], names(n)[1]
    listed = copied_list(world, copier, victim, form, box=box)
    honest = names(n)[:-1]
    _, refused = collect(world, dict.fromkeys(honest, StageRequest(Stage.SHARES, wire.encode(listed))))
    asked = honest
    if form == "point of order 2 added":  # seen by whoever has a secret with both; the others share no mask with one
        asked = [name for name in honest if name != victim and {copier, victim} <= related(world, name)]
        assert asked
    assert set(asked) <= set(refused)
    assert all(
        copier in str(refused[name]) and victim in str(refused[name]) and "the same" in str(refused[name])
        for name in asked
    )


def related(world, name):
    return world.chosen[name] | {other for other in world.chosen if name in world.chosen[other]}


def test_a_copied_mask_key_cancels_no_mask(monkeypatch):
    """Even a device that did not look for copies keeps its vector: the two masks come from different seeds."""
    monkeypatch.setattr(key_lists, "decoded_twins", lambda keyed: ())
    world, n = World(make_session(4, bits=32)), 4
    copier, victim, target = names(n)[-1], names(n)[0], names(n)[1]
    listed = wire.encode(copied_list(world, copier, victim, "equal bytes"))
    monkeypatch.setattr(secagg.device, "check_secrets", lambda *_: None)
    _, refused = collect(world, dict.fromkeys(names(n)[:-1], StageRequest(Stage.SHARES, listed)))
    assert not refused
    place, everybody = world.places[target], bitmap(world, names(n))
    common = wire.encode(MaskedRequest(world.session.sid, place.key_list, everybody))
    masked = body_of(
        MaskedBody, world.answer(target, StageRequest(Stage.MASKED, common, wire.encode(Inbox(bytes(BOX_BYTES * 3)))))
    )
    vector = unpack(masked.vector, 32, world.session.dimension).copy()
    digest = world.digests[target]
    add_masks(vector, [], [self_mask_seed(world.secrets[target][0], place.scope, digest, 1)])  # a survivor's is opened
    third = secagg.keys.agree(
        world.secrets[names(n)[2]][1], [read_list(world.session, wire.decode(KeyList, listed))[1].mask_key]
    )
    add_masks(vector, [], [pair_mask_seed(third[0], place.scope, digest, 1, 2)])  # and the key of one that dropped
    assert np.count_nonzero(vector == world.vectors[target]) <= 1
    secret = secagg.keys.agree(
        world.secrets[victim][1], [read_list(world.session, wire.decode(KeyList, listed))[1].mask_key]
    )
    assert pair_mask_seed(secret[0], place.scope, digest, 0, 1) != pair_mask_seed(secret[0], place.scope, digest, 1, 3)


FIELDS = {
    "run_id": "other",
    "round_id": "2",
    "purpose": "drift",
    "model_hash": b"x" * 32,
    "cohort": names(31)[1:],
    "degree": 22,
    "threshold": 8,
    "min_survivors": 25,
    "bits": 21,
    "dimension": 38,
    "mechanism_hash": b"x" * 32,
}


@pytest.mark.parametrize("field", FIELDS)
def test_server_swaps_the_model_or_any_promise_under_the_same_session_id(field):
    """The id is a hash of everything promised, so another promise is another session to every device."""
    session = make_session(30)
    swapped = replace(session, **{field: FIELDS[field]})
    assert swapped.sid != session.sid
    promised, other = World(session), World(swapped)
    play(promised, until=Stage.SHARES)
    _, requests = play(other, until=Stage.SHARES)
    name = "device-0001"
    with pytest.raises(BadMessage, match="another session"):
        promised.answer(name, requests[name])


def test_all_fields_are_bound():
    assert set(FIELDS) == set(secagg.Session.__dataclass_fields__)
