"""The coordinator's Transport over any flwr Grid: in-process, Ray or a real SuperLink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedinfer.errors import BadMessage, TransportError
from fedinfer.exchanges import EXCHANGES
from fedinfer.flower.records import most_reply, read_reply, request_message
from fedinfer.messages import Kind
from fedinfer.ports import Answer, Ask
from fedinfer.types import DeviceId

POLL_SECONDS = 0.5


class GridTransport:
    """Maps device ids to Flower nodes and carries asks to them.

    Args:
        grid: where messages go.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}

    def introduce(self, common: bytes, timeout_seconds: float) -> Sequence[tuple[int, Answer]]:
        """As `Nodes.introduce`."""
        asked = list(self._grid.get_node_ids())
        messages = [request_message(Ask("", Kind.ENROLL, common), node, "enroll") for node in asked]
        first: dict[int, Message] = {}
        for message in self._grid.send_and_receive(messages, timeout=timeout_seconds):
            first.setdefault(message.metadata.src_node_id, message)
        silent = Answer("", b"", TransportError.__name__, f"no answer; it had {timeout_seconds:.0f} s, or went offline")
        return [(node, _introduction(first[node]) if node in first else silent) for node in asked]

    def settle(self, homes: Mapping[DeviceId, int]) -> None:
        """As `Nodes.settle`."""
        self._nodes = dict(homes)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> Sequence[Answer]:
        """As `Transport.ask`; a reply that cannot be read is an Answer with that error, a second one is dropped."""
        by_node = {self._nodes[ask.device]: ask for ask in asks}
        messages = [request_message(ask, node, ask.kind) for node, ask in by_node.items()]
        answers: list[Answer] = []
        for message in self._grid.send_and_receive(messages, timeout=timeout_seconds):
            ask = by_node.pop(message.metadata.src_node_id, None)
            if ask is None:
                continue  # a reply to nothing we asked, or a second one
            try:
                answer = read_reply(message, most_reply(ask))
            except BadMessage as error:
                answer = Answer(ask.device, b"", type(error).__name__, str(error))
            answers.append(Answer(ask.device, answer.body, answer.error, answer.detail))
        return answers


def _introduction(message: Message) -> Answer:
    try:
        return read_reply(message, EXCHANGES[Kind.ENROLL].most_reply)
    except BadMessage as error:
        return Answer("", b"", type(error).__name__, str(error))
