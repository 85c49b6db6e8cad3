"""Who takes part: every node introduces its device; the authority's signature decides who is believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from fedinfer.config import Scenario, to_flat
from fedinfer.errors import BadMessage, Misbehaviour, TransportError
from fedinfer.messages import EnrollReply, JoinReply, JoinRequest, Kind
from fedinfer.ports import Answer, Ask, Transport
from fedinfer.schema import Schema
from fedinfer.secagg.enrolment import verify_enrolment
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


def admit(claims: Sequence[Claim], authority: bytes) -> tuple[tuple[Claim, ...], tuple[LeftOut, ...]]:
    """Keep the nodes whose device and key the authority signed; one wrong node does not stop the others.

    Two nodes with a valid certificate of one device are an attack (a certificate is public) or a copied store, and
    nobody can tell which is the right one: both are left out.

    Returns:
        Claims that are believed, sorted by device, and who is left out.
    """
    believed: dict[DeviceId, list[Claim]] = {}
    left_out: list[LeftOut] = []
    for claim in claims:
        reply = claim.reply
        try:
            verify_enrolment(authority, reply.device, reply.public_key, reply.certificate)
        except Misbehaviour as error:
            left_out.append((f"{reply.device} on node {claim.node}", str(error)))
        else:
            believed.setdefault(reply.device, []).append(claim)
    for device, alike in believed.items():
        if len(alike) > 1:
            nodes = ", ".join(str(claim.node) for claim in alike)
            reason = f"{len(alike)} nodes claim to be this device with valid certificates: {nodes}"
            left_out.append((device, f"{reason}; all are left out until only one does"))
    alone = [alike[0] for _, alike in sorted(believed.items()) if len(alike) == 1]
    return tuple(alone), tuple(left_out)


def join(
    members: Sequence[EnrollReply],
    run_id: str,
    scenario: Scenario,
    schema: Schema,
    trusted_root: bytes,
    transport: Transport,
    timeout_seconds: float,
) -> tuple[dict[DeviceId, int], dict[DeviceId, str]]:
    """Tell every device the task and everybody's certificates.

    Returns:
        Training rows of the devices that joined, and the reasons of those that did not.

    Raises:
        TransportError: when nobody joined.
    """
    request = JoinRequest(
        run_id=run_id,
        scenario=json.dumps(to_flat(scenario)),
        schema=json.dumps(schema.to_json()),
        devices=tuple(member.device for member in members),
        public_keys=tuple(member.public_key for member in members),
        certificates=tuple(member.certificate for member in members),
        trusted_root=trusted_root,
    )
    common = encode(request)
    answers = transport.ask([Ask(member.device, Kind.JOIN, common) for member in members], timeout_seconds)
    rows: dict[DeviceId, int] = {}
    refused = {member.device: "no answer" for member in members}
    for answer in answers:
        count = _rows_of(answer, len(members))
        if isinstance(count, int):
            rows[answer.device] = count
            del refused[answer.device]
        else:
            refused[answer.device] = count
    if not rows:
        raise TransportError(f"none of {len(members)} devices joined; first reason: {next(iter(refused.values()))}")
    return dict(sorted(rows.items())), refused


def _rows_of(answer: Answer, members: int) -> int | str:
    """Training rows of a device that joined, or why it did not."""
    if answer.error:
        return f"{answer.error}: {answer.detail}"
    try:
        reply = decode(JoinReply, answer.body)
    except BadMessage as error:
        return f"BadMessage: {error}"
    if reply.verified != members or reply.rows < 0:
        return f"it verified {reply.verified} of {members} certificates and has {reply.rows} rows"
    return reply.rows
