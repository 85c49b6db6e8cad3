"""Certificates are public: who joins proves that it has the key, for this run, nonce, build and facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedinfer.coordinator.enrolment import Claim, admit, join
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.errors import BadMessage, Misbehaviour, TransportError
from fedinfer.flower.records import build_id
from fedinfer.messages import EnrollReply, EnrollRequest, JoinFacts, JoinReply, Kind
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.secagg.enrolment import (
    NONCE_BYTES,
    Challenge,
    Possession,
    Step,
    Validation,
    prove_possession,
    validation,
    verify_possession,
)
from fedinfer.secagg.keys import IdentityKey, Stage, statement_bytes
from fedinfer.system import SimulatedEntropy, SystemEntropy
from fedinfer.wire import decode, encode
from tests.protocol.fleet import CHALLENGE, SCHEMA, Fleet, enrolled, introduce, real, settings, simulated

THIEF = IdentityKey.generate(SimulatedEntropy("thief"))
OTHERS = {
    "another nonce": replace(CHALLENGE, nonce=b"o" * NONCE_BYTES),
    "another run": replace(CHALLENGE, run_id="other"),
    "another build": replace(CHALLENGE, build="0.0.1+000000000000"),
}


@pytest.fixture(params=["simulated", "real"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Fleet:
    if request.param == "simulated":
        return simulated(tmp_path, settings(), 4)
    return real(enrolled(tmp_path / "stores", 4, Budget(8.0, 1e-5)), settings())


def against(fleet: Fleet) -> Validation:
    host = next(iter(fleet.hosts.values()))
    return validation(host.authority, fleet.revocations, host.known_time())


def left_out(fleet: Fleet, *extra: EnrollReply, challenge: Challenge = CHALLENGE) -> tuple[list[int], dict[str, str]]:
    """Nodes that are believed, and who is not: the fleet lives on nodes 0, 1, ..., the others behind."""
    claims = [Claim(node, reply) for node, reply in enumerate([*introduce(fleet.post), *extra])]
    believed, others = admit(claims[::-1], against(fleet), challenge)
    return [claim.node for claim in believed], dict(others)


def introduced(host: Host, device: str, challenge: Challenge) -> EnrollReply:
    """What a device with this host says to a server with that challenge."""
    host.build, before = challenge.build, host.build
    common = encode(EnrollRequest(challenge.run_id, challenge.nonce))
    answer = DeviceResponder(host).answer([Ask(device, Kind.ENROLL, common)])[0]
    host.build = before
    return decode(EnrollReply, answer.body)


# --- enrolment ---


def test_a_copied_certificate_does_not_disturb_the_rightful_device(fleet: Fleet) -> None:
    """The certificate went to every device of an earlier run; whoever repeats it signs with a key of its own, with
    none, or copies the proof of an earlier run."""
    victim = introduce(fleet.post)[1]
    signed = prove_possession(THIEF, Possession(Step.ENROLL, CHALLENGE, victim.device, victim.certificate))
    old = introduced(fleet.hosts[victim.device], victim.device, OTHERS["another nonce"]).proof
    copies = [replace(victim, proof=proof) for proof in (signed, b"", bytes(64), old)]
    nodes, others = left_out(fleet, *copies)
    assert nodes == [0, 1, 2, 3]
    assert set(others) == {f"{victim.device} on node {node}" for node in (4, 5, 6, 7)}
    assert all(f"no proof that it has the key of device '{victim.device}'" in reason for reason in others.values())


@pytest.mark.parametrize("what", OTHERS)
def test_a_replayed_proof_is_refused(fleet: Fleet, what: str) -> None:
    """Each proof of this start is honest; a server that asked something else believes none of them."""
    nodes, others = left_out(fleet, challenge=OTHERS[what])
    assert nodes == []
    assert len(others) == 4


def test_a_proof_for_another_name_is_refused(fleet: Fleet) -> None:
    """A device that is enrolled itself puts its own valid proof under the certificate of its neighbour."""
    mine, victim = introduce(fleet.post)[:2]
    member = fleet.hosts[mine.device].members[mine.device]
    for_victim = prove_possession(
        member.identity, Possession(Step.ENROLL, CHALLENGE, victim.device, victim.certificate)
    )
    nodes, others = left_out(
        fleet,
        replace(victim, proof=mine.proof),
        replace(victim, proof=for_victim),
        replace(victim, public_key=mine.public_key, proof=for_victim),
    )
    assert nodes == [0, 1, 2, 3]
    assert set(others) == {f"{victim.device} on node {node}" for node in (4, 5, 6)}
    assert "the enrolment authority did not sign" in others[f"{victim.device} on node 6"]


def test_a_proof_of_another_build_is_refused_whatever_the_message_says(fleet: Fleet) -> None:
    """A carrier may write our build into the header of a message; it cannot write it under the signature."""
    device = min(fleet.hosts)
    foreign = introduced(fleet.hosts[device], device, OTHERS["another build"])
    believed, others = admit([Claim(0, foreign)], against(fleet), CHALLENGE)
    assert believed == ()
    assert others[0][0] == f"{device} on node 0"


def test_a_cloned_device_is_left_out_with_its_clone(fleet: Fleet) -> None:
    """Both have the key, nobody can tell which is right; a third who only repeats the certificate is told apart."""
    twin = introduce(fleet.post)[2]
    nodes, others = left_out(fleet, twin, replace(twin, proof=bytes(64)))
    assert nodes == [0, 1, 3]
    assert set(others) == {twin.device, f"{twin.device} on node 5"}
    assert "2 nodes have the key of this device, its store was copied: 4, 2" in others[twin.device]


def test_a_nonce_of_another_length_is_not_answered(fleet: Fleet) -> None:
    device = min(fleet.hosts)
    answer = fleet.post.responders[device].answer([Ask(device, Kind.ENROLL, encode(EnrollRequest("run", b"short")))])[0]
    assert (answer.error, answer.body) == ("BadMessage", b"")
    with pytest.raises(BadMessage, match="32 bytes, got 5"):
        Challenge("run", b"short", "build")


def test_every_start_of_a_run_draws_another_nonce() -> None:
    entropy = SystemEntropy()
    assert Challenge.draw("run", "build", entropy) != Challenge.draw("run", "build", entropy)
    assert Challenge.draw("run", "build", SimulatedEntropy(1)).nonce == SimulatedEntropy(1).take(NONCE_BYTES)


# --- join ---

Change = Callable[[Fleet, str, JoinReply], JoinReply]


def joins(fleet: Fleet, change: Change) -> tuple[dict[str, int], dict[str, str]]:
    """All devices join; what the first one says is changed on its way."""
    first, members = min(fleet.hosts), introduce(fleet.post)

    def on_answer(ask: Ask, answer: Answer) -> list[Answer]:
        if ask.kind != Kind.JOIN or ask.device != first:
            return [answer]
        return [replace(answer, body=encode(change(fleet, first, decode(JoinReply, answer.body))))]

    fleet.post.on_answer = on_answer
    return join(members, CHALLENGE, settings(), SCHEMA, fleet.revocations, b"root", fleet.post, 1.0)


def resigned(fleet: Fleet, signer: str, reply: JoinReply, **changes: Any) -> JoinReply:
    """The answer with a true signature of the device over something else."""
    said = Possession(Step.JOIN, CHALLENGE, signer, encode(reply.facts))
    identity = fleet.hosts[signer].members[signer].identity
    return replace(reply, proof=prove_possession(identity, replace(said, **changes)))


FORGED: dict[str, Change] = {
    "tampered row count": lambda _, __, reply: replace(reply, facts=replace(reply.facts, rows=10**9)),
    "no proof": lambda _, __, reply: replace(reply, proof=b""),
    "proof of enrolment": lambda fleet, device, reply: resigned(fleet, device, reply, step=Step.ENROLL),
    "proof for another name": lambda fleet, device, reply: resigned(fleet, device, reply, device="d99"),
    **{
        f"proof for {what}": lambda fleet, device, reply, other=other: resigned(fleet, device, reply, challenge=other)
        for what, other in OTHERS.items()
    },
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_answer_leaves_out_its_device_and_nobody_else(fleet: Fleet, how: str) -> None:
    first = min(fleet.hosts)
    rows, refused = joins(fleet, FORGED[how])
    assert set(rows) == set(fleet.roster) - {first}
    assert "Misbehaviour: no proof" in refused[first]
    assert "its join answer is not signed" in refused[first]


def test_a_tampered_answer_is_not_read_before_its_proof(fleet: Fleet) -> None:
    """Both are wrong here; the reason names the signature, not the number that nobody signed."""
    _, refused = joins(fleet, lambda _, __, reply: replace(reply, facts=JoinFacts(99, -5)))
    assert "no proof" in refused[min(fleet.hosts)]


def test_what_the_device_itself_signed_is_still_checked(fleet: Fleet) -> None:
    def few(fleet: Fleet, device: str, reply: JoinReply) -> JoinReply:
        few = replace(reply, facts=JoinFacts(1, 16))
        return resigned(fleet, device, few)

    _, refused = joins(fleet, few)
    assert refused[min(fleet.hosts)] == "it verified 1 of 4 certificates and has 16 rows"


def test_an_old_join_answer_is_refused_in_a_later_start(fleet: Fleet) -> None:
    members = introduce(fleet.post)
    kept = dict(fleet.post.answers(Kind.JOIN))
    fleet.post.on_answer = lambda ask, answer: [kept[ask.device] if ask.kind == Kind.JOIN else answer]
    later = replace(CHALLENGE, nonce=b"o" * NONCE_BYTES)
    with pytest.raises(TransportError, match=r"none of 4 devices joined; first reason: Misbehaviour: no proof"):
        join(members, later, settings(), SCHEMA, fleet.revocations, b"root", fleet.post, 1.0)


def test_a_second_request_of_the_run_is_answered_for_its_own_nonce(fleet: Fleet) -> None:
    """A server that starts again draws another nonce; the devices that are in the run already answer that one."""
    later = replace(CHALLENGE, nonce=b"o" * NONCE_BYTES)
    _, refused = join(introduce(fleet.post), later, settings(), SCHEMA, fleet.revocations, b"root", fleet.post, 1.0)
    assert not refused


# --- the signature ---


def test_the_proof_signs_these_bytes() -> None:
    """Known answer, put together by hand: label, then the statement field by field, under Ed25519 (RFC 8032)."""
    said = Possession(Step.JOIN, Challenge("run", b"n" * 32, "0.1.0+0123456789ab"), "d00", b"facts")
    message = (
        b"fedinfer/possession/v1\x00FI\x01\x0a\x00\x00\x00Possession"
        b"\x04\x00\x00\x00join\x03\x00\x00\x00run\x20\x00\x00\x00" + b"n" * 32 + b"\x12\x00\x00\x000.1.0+0123456789ab"
        b"\x03\x00\x00\x00d00\x05\x00\x00\x00facts"
    )
    proof = prove_possession(IdentityKey(bytes(range(32))), said)
    assert proof == Ed25519PrivateKey.from_private_bytes(bytes(range(32))).sign(message)
    verify_possession(IdentityKey(bytes(range(32))).public_bytes, said, proof)
    with pytest.raises(Misbehaviour, match="its join answer"):
        verify_possession(THIEF.public_bytes, said, proof)


def test_no_proof_is_a_signature_of_the_aggregation_and_none_of_those_is_a_proof() -> None:
    said = Possession(Step.JOIN, CHALLENGE, "d00", b"facts")
    statement = THIEF.sign(statement_bytes(Stage.KEYS, "d00", b"c" * 32, b"facts"))
    with pytest.raises(Misbehaviour):
        verify_possession(THIEF.public_bytes, said, statement)
    assert build_id() == CHALLENGE.build
