"""One push to many devices: each gets the smaller of the whole model and a patch from the version it said it runs.

What a device reported last about its own model decides, because nothing newer is known. A wrong report costs one more
message and never a model: the device compares digests, says that it cannot use the patch, and gets the whole model in
the same push. So a device that lies, was restored from a backup or runs a model of another server needs no case here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedinfer.artifact import smallest_transfer
from fedinfer.coordinator.context import Fleet
from fedinfer.coordinator.record import Sent, TransferMode
from fedinfer.errors import BadMessage, TransportError
from fedinfer.manifest import Delta
from fedinfer.messages import Kind, PushReply, PushRequest
from fedinfer.ports import Answer, Ask
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode

if TYPE_CHECKING:
    from fedinfer.artifact import Repository


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of a push; a device that was not reached is in `sent` alone.

    Args:
        installed: devices that run the version now, sorted.
        failed: why others do not, in words.
        sent: what every device was sent, by which transfer mode.
    """

    installed: tuple[DeviceId, ...]
    failed: Mapping[DeviceId, str]
    sent: Mapping[DeviceId, Sent]


@dataclass(frozen=True, slots=True)
class _Payload:
    """A push as it goes to every device with the same model."""

    patch_from: str
    model_bytes: int
    common: bytes


def deliver(repository: Repository, fleet: Fleet, version: int, devices: Mapping[DeviceId, int]) -> Delivery:
    """Push a published version to devices; those that cannot use a patch get the whole model in the same call.

    Args:
        repository: holds the version.
        fleet: reaches the devices.
        version: the current one of the repository, >= 1.
        devices: who gets it, and which version each of them runs; 0: none or unknown.
    """
    payloads = _payloads(repository, version, set(devices.values()) | {0})
    own = {device: payloads[runs] for device, runs in devices.items()}
    sent = {
        device: Sent(
            TransferMode.PATCH if payload.patch_from else TransferMode.WHOLE, payload.model_bytes, len(payload.common)
        )
        for device, payload in own.items()
    }
    replies = _ask(fleet, own)
    again = {
        device: payloads[0]
        for device, reply in replies.items()
        if isinstance(reply, PushReply) and reply.whole
        if sent[device].way is TransferMode.PATCH
    }
    for device, payload in again.items():
        before = sent[device]
        total = before.model_bytes + payload.model_bytes
        sent[device] = Sent(TransferMode.BOTH, total, before.bytes + len(payload.common))
    problems = {device: _why_not(reply, version) for device, reply in (replies | _ask(fleet, again)).items()}
    installed = tuple(device for device, problem in sorted(problems.items()) if not problem)
    return Delivery(installed, {device: problem for device, problem in problems.items() if problem}, sent)


def _payloads(repository: Repository, version: int, bases: set[int]) -> dict[int, _Payload]:
    """One payload by the version that a device runs; versions that the repository does not know get the whole model."""
    found, payloads = dict[str, _Payload](), dict[int, _Payload]()
    manifest, known = repository.manifest(version), repository.versions()
    for base in bases:
        digest = repository.manifest(base).chosen.sha256 if base in known else ""
        way = smallest_transfer(manifest, manifest.chosen, digest)
        patch_from = way.from_sha256 if isinstance(way, Delta) else ""
        if patch_from not in found:
            files = repository.bundle(version, active_sha256=patch_from)
            found[patch_from] = _Payload(patch_from, way.bytes, encode(PushRequest(version, files, patch_from)))
        payloads[base] = found[patch_from]
    return payloads


def _ask(fleet: Fleet, payloads: Mapping[DeviceId, _Payload]) -> dict[DeviceId, PushReply | str]:
    """Replies, or problems in words; devices that were not reached are left out: nothing is known about the model."""
    # Those with one payload stand together: a process with many devices reads it once.
    order = sorted(payloads, key=lambda device: (payloads[device].patch_from, device))
    asks = [Ask(device, Kind.PUSH, payloads[device].common) for device in order]
    answers = fleet.ask(asks) if asks else ()
    return {answer.device: _read(answer) for answer in answers if answer.error != TransportError.__name__}


def _read(answer: Answer) -> PushReply | str:
    if answer.error:
        return f"{answer.error}: {answer.detail}"
    try:
        return decode(PushReply, answer.body)
    except BadMessage as error:
        return f"BadMessage: {error}"


def _why_not(reply: PushReply | str, version: int) -> str:
    """Empty when the device says that it runs `version`."""
    if isinstance(reply, str):
        return reply
    return "" if reply.installed and reply.version == version else reply.reason or f"runs version {reply.version}"
