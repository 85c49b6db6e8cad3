"""A push on the device: the signed files came with the message; verify, stage, self-check, swap, acknowledge.

Where there is no earlier model to roll back to, the version is withdrawn instead.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from fedinfer.device import reported
from fedinfer.device.host import Host
from fedinfer.errors import ArtifactRejected, FedInferError, PatchRefused, StoreError, TransportError
from fedinfer.inference import MODEL_FILE, EqualStores, Slots, Updater, UpdateSettings
from fedinfer.messages import PushReply, PushRequest, WithdrawReply, WithdrawRequest
from fedinfer.ports import Answer, Ask
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode

_log = logging.getLogger(__name__)


def answer_push(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Install what came, device by device; a rejected model leaves the old one serving.

    Args:
        host: wiring of this process; it has joined a run.
        asks: with one common part, an encoded `PushRequest`.

    Returns:
        One encoded `PushReply` per ask, in order.

    Raises:
        BadMessage: the common part cannot be decoded.
        Misbehaviour: before any join.
        FedInferError: no trusted root of the model repository is known.
    """
    request, now = decode(PushRequest, asks[0].common), host.clock.now()
    return _each(host, asks, lambda device: _install(host, device, request, now))


def answer_withdraw(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Read what the repository has signed and stop serving what it has withdrawn, maybe without another model.

    The message itself is a hint and orders nothing: who can write messages, but not sign, takes no model away.

    Args:
        host: wiring of this process; it has joined a run.
        asks: with one common part, an encoded `WithdrawRequest`.

    Returns:
        One encoded `WithdrawReply` per ask, in order.

    Raises:
        BadMessage: the common part cannot be decoded.
        Misbehaviour: before any join.
        FedInferError: no trusted root of the model repository is known.
    """
    request, now = decode(WithdrawRequest, asks[0].common), host.clock.now()
    return _each(host, asks, lambda device: _withdraw(host, device, request, now))


def slots_of(host: Host, device: DeviceId) -> Slots:
    """The model slots of a device. A simulation does not flush to disk: its devices are not meant to survive it.

    Args:
        host: wiring of this process.
        device: one of the host's.
    """
    return Slots(host.folder(device) / "slots", _no_flush if host.policy.reveals_simulation else os.fsync)


def _each(host: Host, asks: Sequence[Ask], work: Callable[[DeviceId], PushReply | WithdrawReply]) -> list[Answer]:
    """Work on the store of each device. Of simulated ones those in the same state are worked on once, see the class."""
    known, simulated = EqualStores[PushReply | WithdrawReply](), host.policy.reveals_simulation
    answers = []
    for device in (ask.device for ask in asks):
        reply = known.carry_out(host.folder(device), partial(work, device)) if simulated else work(device)
        if not isinstance(reply, PushReply) or reply.installed:
            host.predictors.pop(device, None)
        answers.append(Answer(device, encode(reply)))
    return answers


def _install(host: Host, device: DeviceId, request: PushRequest, now: datetime) -> PushReply:
    slots = slots_of(host, device)
    try:
        report = _updater(host, device, slots).install(request.files.get, now)
    except (ArtifactRejected, StoreError, TransportError) as error:
        active, why = slots.active(), _why(error, request, slots)
        _log.warning("version %d was not installed: %s: %s", request.version, type(why).__name__, why)
        return PushReply(False, active.version if active else 0, reported.reason(why), isinstance(why, PatchRefused))
    return PushReply(True, report.version, "")


def _why(error: FedInferError, request: PushRequest, slots: Slots) -> FedInferError:
    """A file that is missing beside a patch is a patch for another device: of its own base it would have been used."""
    if not request.patch_from or not isinstance(error, TransportError):
        return error
    active = slots.active()
    found = active.sha256[MODEL_FILE][:16] if active else "none"
    return PatchRefused(
        f"version {request.version} came as a patch from model {request.patch_from[:16]}, this device has {found}"
    )


def _withdraw(host: Host, device: DeviceId, request: WithdrawRequest, now: datetime) -> WithdrawReply:
    slots, reason = slots_of(host, device), ""
    try:
        if request.version not in _updater(host, device, slots).withdraw(request.files.get, now):
            reason = reported.NOT_WITHDRAWN
    except (ArtifactRejected, StoreError, TransportError) as error:
        reason = reported.reason(error)
        _log.warning("version %d was not withdrawn: %s: %s", request.version, type(error).__name__, error)
    active = slots.active()
    return WithdrawReply(not reason, active.version if active else 0, reason)


def _updater(host: Host, device: DeviceId, slots: Slots) -> Updater:
    task = host.joined()
    if not task.trusted_root:
        raise FedInferError("this device has no trusted root of the model repository")
    metadata = host.folder(device) / "metadata"
    metadata.mkdir(parents=True, exist_ok=True)
    settings = UpdateSettings(
        most_latency_us=host.policy.most_latency_us,
        stale_after_seconds=host.policy.stale_after_seconds,
        schema=task.schema,
        isolation=host.policy.isolation,
    )
    return Updater(slots, task.trusted_root, metadata, settings, host.clock, host.model_cache)


def _no_flush(_: int) -> None:
    """Durability is not wanted here."""
