"""Makes the known-answer vectors of secure aggregation; run from the repository root:

python tests/vectors/secagg/generate.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer import secagg, wire
from fedinfer.errors import FedInferError
from fedinfer.secagg import IdentityKey, Session, Stage, derivations, shamir
from fedinfer.secagg.graph import draw_holders
from fedinfer.secagg.keys import cleared_point, decoded_point, public_of
from fedinfer.secagg.masks import add_masks, ring_dtype
from fedinfer.secagg.packing import pack, unpack
from fedinfer.system import SimulatedEntropy

FOLDER = Path(__file__).parent
Case = dict[str, Any]


def main() -> None:
    for name, make in FILES.items():
        text = json.dumps(make(), indent=1, sort_keys=True)
        (FOLDER / f"{name}.json").write_text(text + "\n")


def refusal(call: Callable[[], object]) -> str:
    """The error that a bad case must meet."""
    try:
        call()
    except FedInferError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("a bad case was accepted")


def packing() -> list[Case]:
    cases: list[Case] = []
    for bits, dimension in ((1, 9), (7, 8), (12, 5), (16, 3), (20, 17), (24, 16), (31, 2), (32, 11)):
        rng = np.random.default_rng(bits)
        vector = rng.integers(0, 1 << bits, dimension, dtype=np.uint32)
        data = pack(vector.astype(ring_dtype(bits)), bits)
        cases.append({"bits": bits, "values": vector.tolist(), "packed": data.hex(), "error": ""})
        for bad in (data + b"\0", data[:-1], b""):
            cases.append(bad_packing(bits, dimension, bad))
        if dimension % 8:
            cases.append(bad_packing(bits, dimension, b"\xff" * len(data)))
    return cases


def bad_packing(bits: int, dimension: int, data: bytes) -> Case:
    error = refusal(lambda: unpack(data, bits, dimension))
    return {"bits": bits, "values": [0] * dimension, "packed": data.hex(), "error": error}


def sharing() -> list[Case]:
    cases: list[Case] = []
    for holders, threshold in ((2, 2), (4, 3), (10, 7), (20, 14), (33, 22)):
        take = SimulatedEntropy("sharing", holders).take
        secret, seed = take(32), take(32)
        points = np.arange(1, 3 * holders, 3)[:holders]
        shares = shamir.share(secret, points, threshold, seed)
        rows = [row.tobytes().hex() for row in shamir.pack(shares)]
        case = {"secret": secret.hex(), "seed": seed.hex(), "points": points.tolist(), "threshold": threshold}
        cases.append(case | {"shares": rows, "wrong": [], "found": True})
        for wrong in ((holders - threshold) // 2, (holders - threshold) // 2 + 1):
            spoiled = [spoil(row) if at < wrong else row for at, row in enumerate(rows)]
            cases.append(
                case | {"shares": spoiled, "wrong": list(range(wrong)), "found": wrong <= (holders - threshold) // 2}
            )
    return cases


def spoil(row: str) -> str:
    data = bytearray.fromhex(row)
    data[0] ^= 1 + data[1] % 255
    return data.hex()


def streams() -> Case:
    secret, result = SimulatedEntropy("streams").take(32), {}
    for bits in (16, 20):
        vector = np.zeros(70_000, ring_dtype(bits))
        add_masks(vector, [secret], [])
        result[f"first_words_{bits}"] = vector[:8].tolist()
        result[f"word_69999_{bits}"] = int(vector[69_999])  # beyond the first 256 KiB of a 32-bit stream
    return result | {"seed": secret.hex()}


def derived() -> Case:
    """Every row of the table of derivations for one set of values."""
    take = SimulatedEntropy("derivations").take
    secret, sid, key_list, sharers, share = take(32), take(32), take(32), take(32), take(34)
    scope = derivations.Scope(sid, key_list, ("a", "bc", "d" * 64))
    values = {
        "session": derivations.session_id(b"encoded session"),
        "commitment": derivations.commitment(sid, 1, "bc", secret),
        "key list": derivations.key_list_hash(sid, b"encoded list"),
        "sharers": derivations.sharers_hash(sid, key_list, b"\x05"),
        "self mask": derivations.self_mask_seed(secret, scope, sharers, 1),
        "pair mask": derivations.pair_mask_seed(secret, scope, sharers, 2, 0),
        "box": derivations.box_key(secret, scope, 2, 0),
        "acknowledgement key": derivations.tag_key(secret, scope, 2, 0),
        "acknowledgement": derivations.tag(secret, scope, sharers, 2, 0),
        "share": derivations.share_digest(scope, 2, 0, derivations.Secret.MASK_KEY, share),
    }
    given = {"secret": secret, "sid": sid, "key_list": key_list, "sharers": sharers, "share": share}
    return {
        "cohort": list(scope.cohort),
        "given": {name: value.hex() for name, value in given.items()},
        "values": {name: value.hex() for name, value in values.items()},
    }


def graphs() -> list[Case]:
    cases = []
    for size, degree in ((4, 3), (23, 6), (40, 12), (500, 58)):
        seed = SimulatedEntropy("graph", size).take(32)
        drawn = {str(position): draw_holders(position, size, degree, seed).hex() for position in (0, size - 1)}
        cases.append({"seed": seed.hex(), "size": size, "degree": degree, "holders": drawn})
    return cases


def points() -> list[Case]:
    """Encodings of X25519 keys: what is decoded, and the secret with a fixed scalar, equal for keys that are one."""
    key = int.from_bytes(public_of(b"\x11" * 32), "little")
    prime = 2**255 - 19
    encodings = (key, key | 1 << 255, pow(key, -1, prime), 9, 9 + prime, 9 | 1 << 255)
    rows = [value.to_bytes(32, "little") for value in encodings]
    return [{"key": row.hex(), "u": str(decoded_point(row)), "cleared": cleared_point(row).hex()} for row in rows]


SESSION: dict[str, Any] = {
    "run_id": "run",
    "round_id": "7",
    "purpose": "train",
    "model_hash": "11" * 32,
    "cohort": [f"device-{i}" for i in range(4)],
    "degree": 3,
    "threshold": 3,
    "min_survivors": 3,
    "bits": 18,
    "dimension": 5,
    "mechanism_hash": "22" * 32,
}
BAD_SESSIONS: list[dict[str, Any]] = [
    {"cohort": ["device-0"]},
    {"cohort": ["device-1", "device-0", "device-2", "device-3"]},
    {"cohort": ["device-0", "device-0", "device-2", "device-3"]},
    {"cohort": ["", "device-0", "device-2", "device-3"]},
    {"cohort": ["a" * 65, "device-0", "device-2", "device-3"]},
    {"cohort": ["a\n", "device-0", "device-2", "device-3"]},
    {"cohort": ["device-0", "device-1", "device-2", "é"]},
    {"degree": 0},
    {"degree": 1},
    {"degree": 2},
    {"degree": 4},
    {"threshold": 1},
    {"threshold": 5},
    {"min_survivors": 1},
    {"min_survivors": 5},
    {"bits": 0},
    {"bits": 33},
    {"dimension": 0},
    {"dimension": (1 << 27) + 1},
    {"model_hash": "11" * 31},
    {"mechanism_hash": ""},
]


def make_session(values: dict[str, Any]) -> Session:
    binary = {name: bytes.fromhex(values[name]) for name in ("model_hash", "mechanism_hash")}
    return Session(**(values | binary | {"cohort": tuple(values["cohort"])}))


def sessions() -> list[Case]:
    good = make_session(SESSION)
    cases = [{"session": SESSION, "encoded": wire.encode(good).hex(), "sid": good.sid.hex(), "error": ""}]
    for changes in BAD_SESSIONS:
        values = SESSION | changes
        cases.append({"session": values, "error": refusal(lambda values=values: make_session(values))})
    return cases


def whole_session() -> Case:
    """Four devices, one lost before its masked vector: every byte on the wire, and answers that are refused."""
    session = make_session(SESSION)
    identities = {name: IdentityKey.generate(SimulatedEntropy("identity", name)) for name in session.cohort}
    roster = {name: key.public_bytes for name, key in identities.items()}
    vectors = {name: np.arange(5, dtype=np.uint32) * 1000 + i for i, name in enumerate(session.cohort)}
    state, requests = secagg.begin(session, roster)
    states: dict[str, Any] = {}
    transcript, bad = [], []
    while requests:
        stage = next(iter(requests.values())).stage
        asked = {name: r for name, r in requests.items() if not (name == "device-2" and stage is Stage.MASKED)}
        replies = {
            name: answer(states, session, identities, roster, vectors[name], name, request)
            for name, request in asked.items()
        }
        transcript.append(
            {
                "stage": stage,
                "requests": {name: [r.common.hex(), r.own.hex()] for name, r in sorted(requests.items())},
                "replies": {name: reply.hex() for name, reply in sorted(replies.items())},
            }
        )
        bad += bad_answers(state, stage, replies)
        state, requests = secagg.step(state, replies)
    assert isinstance(state, secagg.Done)
    return {
        "session": SESSION,
        "roster": {name: key.hex() for name, key in roster.items()},
        "vectors": {name: vector.tolist() for name, vector in vectors.items()},
        "transcript": transcript,
        "survivors": list(state.survivors),
        "total": state.total.tolist(),
        "bad_answers": bad,
    }


def answer(
    states: dict[str, Any],
    session: Session,
    identities: dict[str, IdentityKey],
    roster: dict[str, bytes],
    vector: Any,
    name: str,
    request: secagg.StageRequest,
) -> bytes:
    entropy = SimulatedEntropy("device", name, str(request.stage))
    common, own = request.common, request.own
    match request.stage:
        case Stage.KEYS:
            states[name], reply = secagg.answer_keys(session, identities[name], name, entropy)
        case Stage.SHARES:
            states[name], reply = secagg.answer_shares(states[name], common, own, roster, entropy)
        case Stage.MASKED:
            states[name], reply = secagg.answer_masked(states[name], common, own, vector)
        case Stage.SURVIVORS:
            states[name], reply = secagg.answer_survivors(states[name], common, own)
        case Stage.UNMASK:
            states[name], reply = secagg.answer_unmask(states[name], common, own)
    return reply


def bad_answers(state: Any, stage: Stage, replies: dict[str, bytes]) -> list[Case]:
    """Answers of device-1 that the server refuses at this stage, and what it says."""
    good = replies["device-1"]
    changed = {
        "last byte": good[:-1] + bytes([good[-1] ^ 1]),
        "middle byte": good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :],
        "truncated": good[:-1],
        "one byte more": good + b"\0",
        "version": good[:2] + b"\x02" + good[3:],
        "another device's": replies["device-0"],
        "empty": b"",
    }
    cases = []
    for what, reply in changed.items():
        after, _ = secagg.step(state, replies | {"device-1": reply})
        cases.append({"stage": stage, "what": what, "reply": reply.hex(), "blamed": [list(b) for b in after.blamed]})
    return cases


FILES: dict[str, Callable[[], Any]] = {
    "packing": packing,
    "sharing": sharing,
    "streams": streams,
    "derivations": derived,
    "points": points,
    "graphs": graphs,
    "sessions": sessions,
    "whole_session": whole_session,
}

if __name__ == "__main__":
    main()
