"""Who takes part: every node introduces its device.

Two signatures decide who is believed: the authority's in the certificate, which is public, and the device's own over a
fresh nonce, which only the holder of the certified key can make.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedinfer.config import Scenario, to_flat
from fedinfer.errors import BadMessage, Misbehaviour, TransportError, VersionMismatch
from fedinfer.messages import EnrollReply, EnrollRequest, JoinFacts, JoinReply, JoinRequest, Kind
from fedinfer.ports import Answer, Ask, Listener, Nodes, Transport
from fedinfer.schema import Schema
from fedinfer.secagg.enrolment import (
    Challenge,
    Possession,
    Step,
    Validation,
    verify_enrolment,
    verify_possession,
)
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode


@dataclass(frozen=True, slots=True)
class Claim:
    """A node says which device it is.

    Args:
        node: where it lives.
        reply: what it says.
    """

    node: int
    reply: EnrollReply


LeftOut = tuple[str, str]
"""A device or node that does not take part, and why."""


def enrol(
    nodes: Nodes, against: Validation, challenge: Challenge, timeout_seconds: float, emit: Listener
) -> list[EnrollReply]:
    """Ask every node who it is and remember where the devices live that are believed.

    A node of another build, with a certificate that is forged, expired or revoked, without the key of its certificate
    or with a key that another node has too is left out; the event `not_joined` names it and says why. The run starts
    with the others.

    Args:
        nodes: reaches them.
        against: the enrolment authority, who was revoked, and the time.
        challenge: drawn for this start of the run.
        timeout_seconds: longest wait.
        emit: receives the events.

    Raises:
        TransportError: when nobody is left.
    """
    answers = nodes.introduce(encode(EnrollRequest(challenge.run_id, challenge.nonce)), timeout_seconds)
    claims: list[Claim] = []
    left_out: list[LeftOut] = []
    for node, answer in answers:
        said = _introduction(answer)
        if isinstance(said, EnrollReply):
            claims.append(Claim(node, said))
        else:
            left_out.append((f"node {node}", said))
    believed, refused = admit(claims, against, challenge)
    left_out += refused
    for who, reason in left_out:
        emit("not_joined", {"device": who, "reason": reason})
    if not believed:
        raise _nobody(len(answers), left_out)
    nodes.settle({claim.reply.device: claim.node for claim in believed})
    return [claim.reply for claim in believed]


def _introduction(answer: Answer) -> EnrollReply | str:
    """Who the node says it is, or why it cannot be understood."""
    if answer.error:
        return f"{answer.error}: {answer.detail}"
    try:
        return decode(EnrollReply, answer.body)
    except BadMessage as error:
        return f"{type(error).__name__}: {error}"


def _nobody(asked: int, left_out: Sequence[LeftOut]) -> TransportError:
    if not left_out:
        return TransportError("no node is connected", hint="start the devices first")
    who, reason = left_out[0]
    reported = f"none of {asked} nodes can take part; first {who}: {reason}"
    other_build = any(VersionMismatch.__name__ in why for _, why in left_out)
    return TransportError(reported, hint="install the same fedinfer version on both sides" if other_build else "")


def admit(
    claims: Sequence[Claim], against: Validation, challenge: Challenge
) -> tuple[tuple[Claim, ...], tuple[LeftOut, ...]]:
    """Keep the nodes whose certificate counts now and that have its key; a wrong one stops no other.

    Who repeats a certificate without having its key is left out and does not disturb the rightful device. Two nodes
    that both have the key are a copied store, and nobody can say which is the right one: both are left out.

    Args:
        claims: what the nodes said.
        against: the enrolment authority, who was revoked, and the time.
        challenge: what they were asked to answer.

    Returns:
        Claims that are believed, sorted by device, and who is left out.
    """
    believed: dict[DeviceId, list[Claim]] = {}
    left_out: list[LeftOut] = []
    for claim in claims:
        reply = claim.reply
        try:
            verify_enrolment(against, reply.device, reply.public_key, reply.certificate)
            possession = Possession(Step.ENROLL, challenge, reply.device, reply.certificate)
            verify_possession(reply.public_key, possession, reply.proof)
        except Misbehaviour as error:
            left_out.append((f"{reply.device} on node {claim.node}", str(error)))
        else:
            believed.setdefault(reply.device, []).append(claim)
    for device, alike in believed.items():
        if len(alike) > 1:
            nodes = ", ".join(str(claim.node) for claim in alike)
            reason = f"{len(alike)} nodes have the key of this device, its store was copied: {nodes}"
            left_out.append((device, f"{reason}; all are left out until only one has it"))
    alone = [alike[0] for _, alike in sorted(believed.items()) if len(alike) == 1]
    return tuple(alone), tuple(left_out)


def join(
    members: Sequence[EnrollReply],
    challenge: Challenge,
    scenario: Scenario,
    schema: Schema,
    revocations: bytes,
    trusted_root: bytes,
    transport: Transport,
    timeout_seconds: float,
) -> tuple[dict[DeviceId, int], dict[DeviceId, str]]:
    """Send every device the task and everybody's certificates.

    Args:
        members: who was admitted.
        challenge: of this start of the run; what a device says counts when it is signed for it.
        scenario: the task.
        schema: of its rows.
        revocations: the authority's signed list, which devices check too.
        trusted_root: TUF root metadata for devices that have none yet.
        transport: to the devices.
        timeout_seconds: longest wait.

    Returns:
        Training rows of the devices that joined, and the reasons of those that did not.

    Raises:
        TransportError: when nobody joined.
    """
    request = JoinRequest(
        run_id=challenge.run_id,
        nonce=challenge.nonce,
        scenario=json.dumps(to_flat(scenario)),
        schema=json.dumps(schema.to_json()),
        devices=tuple(member.device for member in members),
        public_keys=tuple(member.public_key for member in members),
        certificates=tuple(member.certificate for member in members),
        revocations=revocations,
        trusted_root=trusted_root,
    )
    common = encode(request)
    answers = transport.ask([Ask(member.device, Kind.JOIN, common) for member in members], timeout_seconds)
    rows: dict[DeviceId, int] = {}
    keys = {member.device: member.public_key for member in members}
    refused = dict.fromkeys(keys, "no answer")
    for answer in answers:
        count = _rows_of(answer, keys, challenge)
        if isinstance(count, int):
            rows[answer.device] = count
            del refused[answer.device]
        else:
            refused[answer.device] = count
    if not rows:
        raise TransportError(f"none of {len(members)} devices joined; first reason: {next(iter(refused.values()))}")
    return dict(sorted(rows.items())), refused


def _rows_of(answer: Answer, keys: Mapping[DeviceId, bytes], challenge: Challenge) -> int | str:
    """Training rows of a device that joined and signed their number, or why it did not."""
    if answer.error:
        return f"{answer.error}: {answer.detail}"
    try:
        facts = _proved_facts(answer, keys[answer.device], challenge)
    except (BadMessage, Misbehaviour) as error:
        return f"{type(error).__name__}: {error}"
    if facts.verified != len(keys) or facts.rows < 0:
        return f"it verified {facts.verified} of {len(keys)} certificates and has {facts.rows} rows"
    return facts.rows


def _proved_facts(answer: Answer, public_key: bytes, challenge: Challenge) -> JoinFacts:
    reply = decode(JoinReply, answer.body)
    possession = Possession(Step.JOIN, challenge, answer.device, encode(reply.facts))
    verify_possession(public_key, possession, reply.proof)
    return reply.facts
