"""The device's one door: asks of one kind in, answers out. It knows which use case answers which message."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedinfer.device import install, join, observe, sums
from fedinfer.device.host import Host
from fedinfer.errors import BadMessage, FedInferError
from fedinfer.messages import Kind
from fedinfer.ports import Answer, Ask

_USE_CASES: dict[Kind, Callable[[Host, Sequence[Ask]], list[Answer]]] = {
    Kind.ENROLL: join.answer_enroll,
    Kind.JOIN: join.answer_join,
    Kind.KEYS: sums.answer_keys,
    Kind.SHARES: sums.answer_shares,
    Kind.MASKED: sums.answer_masked,
    Kind.PLAIN: sums.answer_plain,
    Kind.SURVIVORS: sums.answer_survivors,
    Kind.UNMASK: sums.answer_unmask,
    Kind.PUSH: install.answer_push,
    Kind.DRIFT: observe.answer_window,
    Kind.HEALTH: observe.answer_health,
}


class DeviceResponder:
    """Answers for all devices of a host.

    Args:
        host: wiring of this process.
    """

    def __init__(self, host: Host) -> None:
        self.host = host

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """One Answer per Ask, in order. All asks have the same kind and the same common part.

        An error that concerns the common part concerns everyone; errors of one device stay with it.
        """
        if not asks:
            return []
        try:
            kind = Kind(asks[0].kind)
        except ValueError:
            error = BadMessage(f"message type {asks[0].kind!r} has no use case")
            return [sums.failure(ask.device, error) for ask in asks]
        try:
            return _USE_CASES[kind](self.host, asks)
        except FedInferError as error:
            return [sums.failure(ask.device, error) for ask in asks]
