"""A version that must go although there is no other: the repository signs that, and the devices that have it are told.

Who is not reached learns it from the repository or with the next push, because the list of targets names it for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedinfer.coordinator.context import Server
from fedinfer.errors import BadMessage
from fedinfer.messages import Kind, WithdrawReply, WithdrawRequest
from fedinfer.ports import Answer, Ask
from fedinfer.types import DeviceId
from fedinfer.wire import decode, encode


def withdraw(server: Server, version: int, devices: Sequence[DeviceId]) -> None:
    """Sign that a version is withdrawn and tell devices; a coordinator that was killed in between does it again.

    Emits `withdrawn` with how many devices obeyed, who said no and who did not answer.
    """
    server.repository.withdraw(version)
    common = encode(WithdrawRequest(version, server.repository.metadata()))
    asks = [Ask(device, Kind.WITHDRAW, common) for device in devices]
    answers = server.transport.ask(asks, server.scenario.training.deadline_seconds)
    said = {answer.device: _why_not(answer) for answer in answers}
    failed = {device: said.get(device, "no answer") for device in devices}
    failed = {device: reason for device, reason in failed.items() if reason}
    server.emit("withdrawn", {"version": version, "devices": len(devices) - len(failed), "failed": failed})


def _why_not(answer: Answer) -> str:
    """Empty when the device does not serve the version any more."""
    if answer.error:
        return f"{answer.error}: {answer.detail}"
    try:
        reply = decode(WithdrawReply, answer.body)
    except BadMessage as error:
        return f"BadMessage: {error}"
    return "" if reply.withdrawn else reply.reason or f"serves version {reply.version}"
