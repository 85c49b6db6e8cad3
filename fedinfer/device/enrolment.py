"""Enrolment: who this device is, and whom it believes. Certificates are checked against the pinned authority.

Both answers carry a proof that the device has the key of its certificate, made for the server's nonce. A roster is
believed only together with a revocation list of the authority that has not ended and is no older than the last one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from fedinfer.config import Scenario, from_flat
from fedinfer.device.host import Host, JoinedTask
from fedinfer.device.inference import follow_watch
from fedinfer.device.validity import believe
from fedinfer.errors import BadMessage, Misbehaviour
from fedinfer.inference import root_version
from fedinfer.messages import EnrollReply, EnrollRequest, JoinFacts, JoinReply, JoinRequest
from fedinfer.ports import Answer, Ask
from fedinfer.privacy import ANY_TASK, protected_of
from fedinfer.schema import Schema
from fedinfer.secagg import Challenge, Possession, Step, Validation, prove_possession, validation, verify_enrolment
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode


def answer_enroll(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Introduce the devices of this process: name, key, certificate and proof.

    Args:
        host: wiring of this process.
        asks: with one common part, an encoded `EnrollRequest`.

    Returns:
        One encoded `EnrollReply` per ask, in order.

    Raises:
        BadMessage: the common part cannot be decoded.
    """
    request = decode(EnrollRequest, asks[0].common)
    challenge = Challenge(request.run_id, request.nonce, host.build)
    return [Answer(ask.device, encode(_introduction(host, challenge, ask.device))) for ask in asks]


def answer_join(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Take in the task once per process: scenario, schema, and every certificate that the authority signed.

    The trusted root of the model repository is pinned on first use, for all later runs; a device that was shipped with
    one keeps its own. A second request of the same start of a run changes nothing; a server that was started again asks
    anew, with the devices that are there then, and for the same scenario.

    Args:
        host: wiring of this process; keeps the task.
        asks: with one common part, an encoded `JoinRequest`.

    Returns:
        One encoded `JoinReply` per ask, in order.

    Raises:
        BadMessage: the common part cannot be decoded.
        ConfigError: the scenario or the schema is not valid, or an earlier run of the device protected another unit.
        Misbehaviour: a list or certificate does not hold, the owner's policy refuses the task, or the server signs its
            models with other keys than those of the device's first run.
    """
    request = decode(JoinRequest, asks[0].common)
    challenge = Challenge(request.run_id, request.nonce, host.build)
    if host.task is None or (host.task.run_id, host.task.nonce) != (request.run_id, request.nonce):
        _check_root(host.trusted_root, request.trusted_root)
        _check_unchanged(host.task, request)
        against = believe(host.known, host.authority, request.revocations, host.known_time())
        host.task = _task(host, request, against)
        host.trusted_root = host.task.trusted_root
        host.remember(asks[0].common)
        if host.predictions is not None:
            # Before the first window is asked for: what is predicted until then is its content.
            follow_watch(host.predictions, host.task.scenario.drift)
    count = len(host.task.pinned)
    return [Answer(ask.device, encode(_joined(host, challenge, ask.device, count))) for ask in asks]


def _check_root(pinned: bytes, offered: bytes) -> None:
    """Find out before anything is spent that no model of this server could be installed.

    Roots follow from each other by their numbers; two different ones with one number are two repositories.

    Raises:
        Misbehaviour: they are.
    """
    if pinned != offered and 0 < root_version(pinned) == root_version(offered):
        raise Misbehaviour(
            "the server signs models with other keys than those this device has pinned: is it another run folder?",
            hint="use the run folder of the first run, or its root metadata, on the server",
        )


def _check_unchanged(task: JoinedTask | None, request: JoinRequest) -> None:
    """A run keeps its scenario, however often its server is started: clipping norm and unit cannot change in it.

    Raises:
        Misbehaviour: it is another one.
    """
    if task is not None and task.run_id == request.run_id and (task.scenario, task.schema) != _read(request):
        raise Misbehaviour(f"run {request.run_id} was joined with another scenario")


def rejoin(host: Host, common: bytes) -> None:
    """Restore the task in a fresh process from what `remember` kept.

    Whoever was revoked or has expired since then ends the run on this device: the newest list that is known counts.

    Args:
        host: a fresh one; keeps the task.
        common: the encoded `JoinRequest` that was kept.

    Raises:
        Misbehaviour: the roster is not what it was.
    """
    newest = host.known.read().revocations
    host.task = _task(host, decode(JoinRequest, common), validation(host.authority, newest, host.known_time()))


def _introduction(host: Host, challenge: Challenge, device: DeviceId) -> EnrollReply:
    member = host.members[device]
    possession = Possession(Step.ENROLL, challenge, device, member.certificate)
    proof = prove_possession(member.identity, possession)
    return EnrollReply(device, member.identity.public_bytes, member.certificate, proof)


def _joined(host: Host, challenge: Challenge, device: DeviceId, verified: int) -> JoinReply:
    facts = JoinFacts(verified, host.rows.training_count(device))
    possession = Possession(Step.JOIN, challenge, device, encode(facts))
    return JoinReply(facts, prove_possession(host.members[device].identity, possession))


def _task(host: Host, request: JoinRequest, against: Validation) -> JoinedTask:
    if not len(request.devices) == len(request.public_keys) == len(request.certificates):
        raise Misbehaviour("the roster has columns of different length")
    pinned: dict[DeviceId, bytes] = {}
    valid_until = against.revocations.expires - 1
    for device, key, certificate in zip(request.devices, request.public_keys, request.certificates, strict=True):
        enrolment = verify_enrolment(against, device, key, certificate)
        pinned[device] = key
        valid_until = min(valid_until, enrolment.not_after)
    for device, member in host.members.items():
        if device in pinned and pinned[device] != member.identity.public_bytes:
            raise Misbehaviour(f"the roster names another key for this device {device}")
    scenario, schema = _read(request)
    host.admit(scenario, schema)
    # The owner's budget limits all runs together, so a server that starts a new run gets no fresh budget. A bound for
    # rows and a bound for whole devices do not add up to either, so all runs of a device protect the same unit.
    protects = protected_of(scenario.privacy.unit)
    host.ledger.open_accounts(host.members, ANY_TASK, host.policy.budget, protects)
    host.ledger.open_accounts(host.members, request.run_id, host.policy.budget, protects)
    return JoinedTask(
        request.run_id, request.nonce, scenario, schema, pinned, host.trusted_root or request.trusted_root, valid_until
    )


def _read(request: JoinRequest) -> tuple[Scenario, Schema]:
    """The scenario in full: a server cannot make a device read one of its own files by naming it."""
    try:
        flat, schema = json.loads(request.scenario), json.loads(request.schema)
    except ValueError as error:
        raise BadMessage(f"the task is not JSON: {error}") from error
    if not isinstance(flat, dict) or "scenario" in flat:
        raise BadMessage("the task holds no flat scenario with every key written out")
    return from_flat(flat), Schema.from_json(schema)
