"""The coordinator's Transport over any flwr Grid: in-process, Ray or a real SuperLink."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.serverapp import Grid

from fedinfer.errors import BadMessage, TransportError
from fedinfer.flower.records import read_reply, request_message
from fedinfer.messages import EnrollReply, EnrollRequest, Kind
from fedinfer.ports import Answer, Ask, Clock
from fedinfer.wire import decode, encode

POLL_SECONDS = 0.5


class GridTransport:
    """Maps device ids to Flower nodes and carries asks to them.

    Args:
        grid: where messages go.
        run_id: name of the run, used to introduce the coordinator.
        clock: measures how long nodes may take to appear.
    """

    def __init__(self, grid: Grid, run_id: str, clock: Clock) -> None:
        self._grid = grid
        self._run_id = run_id
        self._clock = clock
        self._nodes: dict[str, int] = {}

    def devices(self) -> Sequence[str]:
        """Device ids that introduced themselves, sorted."""
        return sorted(self._nodes)

    def enroll(self, timeout_seconds: float) -> list[EnrollReply]:
        """Ask every node who it is and remember which device lives where.

        Two nodes that claim one device id are an attack or a mistake: both are refused.

        Raises:
            TransportError: when no node answers, or a device id is claimed twice.
        """
        common = encode(EnrollRequest(self._run_id))
        messages = [request_message(Ask("", Kind.ENROLL, common), node, "enroll") for node in self._grid.get_node_ids()]
        replies: list[EnrollReply] = []
        for message in self._grid.send_and_receive(messages, timeout=timeout_seconds):
            answer = read_reply(message)
            if answer.error:
                continue
            reply = decode(EnrollReply, answer.body)
            if reply.device in self._nodes:
                raise TransportError(f"two nodes claim to be device {reply.device!r}")
            self._nodes[reply.device] = message.metadata.src_node_id
            replies.append(reply)
        if not replies:
            raise TransportError(f"none of {len(messages)} nodes answered within {timeout_seconds:.0f} s")
        return sorted(replies, key=lambda reply: reply.device)

    def ask(self, asks: Sequence[Ask], timeout_seconds: float) -> Sequence[Answer]:
        """Send all asks; answers of devices that reply in time, under the name the coordinator asked for."""
        by_node = {self._nodes[ask.device]: ask for ask in asks}
        messages = [request_message(ask, node, ask.kind) for node, ask in by_node.items()]
        answers: list[Answer] = []
        for message in self._grid.send_and_receive(messages, timeout=timeout_seconds):
            ask = by_node.pop(message.metadata.src_node_id, None)
            if ask is None:
                continue  # a reply to nothing we asked, or a second one
            try:
                answer = read_reply(message)
            except BadMessage as error:
                answer = Answer(ask.device, b"", type(error).__name__, str(error))
            answers.append(Answer(ask.device, answer.body, answer.error, answer.detail))
        return answers
