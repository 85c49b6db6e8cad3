"""Who takes part: every node introduces its device; the authority's signature decides who is believed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fedinfer.config import Scenario, to_flat
from fedinfer.errors import BadMessage, Misbehaviour, TransportError
from fedinfer.messages import EnrollReply, JoinReply, JoinRequest, Kind
from fedinfer.ports import Answer, Ask, Transport
from fedinfer.schema import Schema
from fedinfer.secagg.enrolment import verify_enrolment
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode


def admit(replies: Sequence[EnrollReply], authority: bytes) -> tuple[EnrollReply, ...]:
    """Keep the devices whose key the authority signed.

    Raises:
        Misbehaviour: when a certificate is wrong; a population with a forged member is not started.
    """
    for reply in replies:
        verify_enrolment(authority, reply.device, reply.public_key, reply.certificate)
    if not replies:
        raise Misbehaviour("nobody enrolled")
    return tuple(sorted(replies, key=lambda reply: reply.device))


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
