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
from fedinfer.secagg.graph import draw_holders
from fedinfer.secagg.keys import cleared_point, decoded_point
from fedinfer.secagg.masks import add_masks, ring_dtype
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
    assert {path.stem for path in FOLDER.glob("*.json")} == set(made)
    for name, make in made.items():
        text = json.dumps(make(), indent=1, sort_keys=True) + "\n"
        assert text == (FOLDER / f"{name}.json").read_text(), name


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


def test_streams():
    case = load("streams")
    for bits in (16, 20):
        vector = np.zeros(70_000, ring_dtype(bits))
        add_masks(vector, [bytes.fromhex(case["seed"])], [])
        assert vector[:8].tolist() == case[f"first_words_{bits}"]
        assert int(vector[69_999]) == case[f"word_69999_{bits}"]


@pytest.mark.parametrize("case", load("graphs"), ids=lambda c: f"{c['size']}-{c['degree']}")
def test_drawn_holders(case):
    for position, holders in case["holders"].items():
        drawn = draw_holders(int(position), case["size"], case["degree"], bytes.fromhex(case["seed"]))
        assert drawn.hex() == holders


def test_encodings_of_one_key_are_told_to_be_one():
    """RFC 7748, section 5: the top bit is ignored, values are reduced; scalars clear points of small order."""
    key, top, torsion, nine, unreduced, nine_top = load("points")
    assert key["u"] == top["u"] != torsion["u"]
    assert key["cleared"] == top["cleared"] == torsion["cleared"]
    assert nine["u"] == unreduced["u"] == nine_top["u"] == "9"
    assert len({case["cleared"] for case in (nine, unreduced, nine_top)}) == 1
    assert nine["cleared"] != key["cleared"]
    for case in (key, top, torsion, nine, unreduced, nine_top):
        assert str(decoded_point(bytes.fromhex(case["key"]))) == case["u"]
        assert cleared_point(bytes.fromhex(case["key"])).hex() == case["cleared"]


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
