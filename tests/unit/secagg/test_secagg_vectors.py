"""Known answers, good and bad; and making them again changes nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from fedinfer import secagg, wire
from fedinfer.errors import BadMessage
from fedinfer.secagg import shamir
from fedinfer.secagg.graph import own_neighbours, ring_order
from fedinfer.secagg.hypergeometric import search_ring
from fedinfer.secagg.keys import commit, derive
from fedinfer.secagg.masks import add_masks, pair_mask_seed, ring_dtype, self_mask_seed
from fedinfer.secagg.packing import pack, unpack

FOLDER = Path(__file__).parents[2] / "vectors" / "secagg"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def generator():
    spec = importlib.util.spec_from_file_location("secagg_vector_generator", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_making_the_vectors_again_gives_no_difference():
    made = generator().FILES
    assert {path.stem for path in FOLDER.glob("*.json")} == {*made, "published"}
    for name, make in made.items():
        text = json.dumps(make(), indent=1, sort_keys=True) + "\n"
        assert text == (FOLDER / f"{name}.json").read_text(), name


PUBLISHED = load("published")


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda c: f"{c['n']}-{c['corruption']}-{c['dropout']}-{c['server']}")
def test_published_graph_parameters(case):
    """Degree as published (0: infeasible), threshold not above the published one, as the publisher's test asks."""
    raised = case["server"] == "semi_malicious"
    ring = search_ring(case["n"], case["dropout"], case["corruption"], raised=raised)
    if case["degree"] == 0:
        assert ring is None
    else:
        assert ring.degree == case["degree"]
        assert ring.threshold <= case["threshold_at_most"]


@pytest.mark.parametrize("case", load("packing"), ids=lambda c: f"{c['bits']}x{len(c['values'])}-{len(c['packed'])}")
def test_packing(case):
    data, bits, values = bytes.fromhex(case["packed"]), case["bits"], np.array(case["values"], np.uint32)
    if case["error"]:
        with pytest.raises(BadMessage) as caught:
            unpack(data, bits, len(values))
        assert case["error"] == f"BadMessage: {caught.value}"
    else:
        assert pack(values.astype(ring_dtype(bits)), bits) == data
        assert unpack(data, bits, len(values)).tolist() == case["values"]


@pytest.mark.parametrize(
    "case", load("sharing"), ids=lambda c: f"{c['threshold']}of{len(c['points'])}-{len(c['wrong'])}"
)
def test_sharing(case):
    secret, points, threshold = bytes.fromhex(case["secret"]), np.array(case["points"]), case["threshold"]
    rows = shamir.unpack(np.frombuffer(bytes.fromhex("".join(case["shares"])), np.uint8).reshape(-1, 34))
    if not case["wrong"]:
        made = shamir.share(secret, points, threshold, bytes.fromhex(case["seed"]))
        assert [row.tobytes().hex() for row in shamir.pack(made)] == case["shares"]
        assert shamir.combine(rows[-threshold:], points[-threshold:]) == secret
        return
    assert shamir.combine(rows[:threshold], points[:threshold]) != secret
    good = shamir.correct(rows, points, threshold)
    if case["found"]:
        assert np.flatnonzero(~good).tolist() == case["wrong"]
        assert shamir.combine(rows[good][:threshold], points[good][:threshold]) == secret
    else:
        assert good is None or shamir.combine(rows[good][:threshold], points[good][:threshold]) != secret


def test_streams_and_derived_keys():
    case = load("streams")
    secret, key_list = bytes.fromhex(case["secret"]), bytes.fromhex(case["key_list"])
    assert self_mask_seed(secret, key_list).hex() == case["self_seed"]
    assert pair_mask_seed(secret, key_list).hex() == case["pair_seed"]
    assert derive(secret, "box", key_list).hex() == case["box_key"]
    assert commit(key_list, "device-0001", secret).hex() == case["commitment"]
    for bits in (16, 20):
        vector = np.zeros(70_000, ring_dtype(bits))
        add_masks(vector, [secret], [])
        assert vector[:8].tolist() == case[f"first_words_{bits}"]
        assert int(vector[69_999]) == case[f"word_69999_{bits}"]


@pytest.mark.parametrize("case", load("graphs"), ids=lambda c: f"{len(c['members'])}-{c['degree']}")
def test_graphs(case):
    key_list, members = bytes.fromhex(case["key_list"]), np.array(case["members"])
    assert ring_order(members, key_list).tolist() == case["order"]
    for member, near in zip(case["members"], case["neighbours"], strict=True):
        assert own_neighbours(member, members, case["degree"], key_list).tolist() == near


@pytest.mark.parametrize("case", load("sessions"))
def test_sessions(case):
    make = generator().make_session
    if case["error"]:
        with pytest.raises(BadMessage) as caught:
            make(case["session"])
        assert case["error"] == f"BadMessage: {caught.value}"
    else:
        session = make(case["session"])
        assert session.sid.hex() == case["sid"]
        assert wire.encode(session).hex() == case["encoded"]


def test_recorded_session_is_accepted_byte_by_byte():
    """The server, fed with the recorded answers alone, asks the recorded questions and finds the recorded sum."""
    case = load("whole_session")
    session = generator().make_session(case["session"])
    roster = {name: bytes.fromhex(key) for name, key in case["roster"].items()}
    state, requests = secagg.begin(session, roster)
    bad = case["bad_answers"]
    for entry in case["transcript"]:
        asked = {name: [request.common.hex(), request.own.hex()] for name, request in requests.items()}
        assert asked == entry["requests"]
        replies = {name: bytes.fromhex(reply) for name, reply in entry["replies"].items()}
        for wrong in (wrong for wrong in bad if wrong["stage"] == entry["stage"]):
            after, _ = secagg.step(state, replies | {"device-1": bytes.fromhex(wrong["reply"])})
            assert [list(blame) for blame in after.blamed] == wrong["blamed"]
            assert [who for who, _ in wrong["blamed"]] == ["device-1"]
        state, requests = secagg.step(state, replies)
    assert isinstance(state, secagg.Done)
    assert list(state.survivors) == case["survivors"]
    assert state.total.tolist() == case["total"]
    expected = sum(np.array(case["vectors"][name], np.uint64) for name in case["survivors"])
    assert state.total.tolist() == (expected % (1 << session.bits)).tolist()
