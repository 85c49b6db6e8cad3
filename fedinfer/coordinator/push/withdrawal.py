"""A version that is withdrawn without a successor: the repository signs that, the devices that have it get a message.

A device that is not reached learns it from the repository or with the next push: the signed list of targets names
withdrawn versions for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedinfer.coordinator.context import Fleet
from fedinfer.errors import BadMessage
from fedinfer.messages import Kind, WithdrawReply, WithdrawRequest
from fedinfer.ports import Answer, Ask, Listener
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode

if TYPE_CHECKING:
    from fedinfer.artifact import Repository


def withdraw(
    repository: Repository, fleet: Fleet, emit: Listener, version: int, devices: Sequence[DeviceId]
) -> dict[DeviceId, str]:
    """Sign that a version is withdrawn and send it to devices; a coordinator that was killed in between does it again.

    Args:
        repository: signs it.
        fleet: reaches the devices.
        emit: receives `withdrawn`: how many devices obeyed, who refused and who did not answer.
        version: >= 1.
        devices: that installed the version.

    Returns:
        By device that answered: "" when it obeyed, else why not.
    """
    repository.withdraw(version)
    common = encode(WithdrawRequest(version, repository.metadata()))
    asks = [Ask(device, Kind.WITHDRAW, common) for device in devices]
    answers = fleet.ask(asks)
    said = {answer.device: _why_not(answer) for answer in answers}
    outcomes = {device: said.get(device, "no answer") for device in devices}
    failed = {device: reason for device, reason in outcomes.items() if reason}
    emit("withdrawn", {"version": version, "devices": len(devices) - len(failed), "failed": failed})
    return {device: reason for device, reason in outcomes.items() if device in said}


def _why_not(answer: Answer) -> str:
    """Empty when the device does not serve the version any more."""
    if answer.error:
        return f"{answer.error}: {answer.detail}"
    try:
        reply = decode(WithdrawReply, answer.body)
    except BadMessage as error:
        return f"BadMessage: {error}"
    return "" if reply.withdrawn else reply.reason or f"serves version {reply.version}"
