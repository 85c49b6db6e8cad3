"""The coordinator's Transport over any flwr Grid: in-process, Ray or a real SuperLink."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedinfer.coordinator.enrolment import Claim, LeftOut, admit
from fedinfer.errors import BadMessage, TransportError, VersionMismatch
from fedinfer.exchanges import EXCHANGES
from fedinfer.flower.records import most_reply, read_reply, request_message
from fedinfer.messages import EnrollReply, EnrollRequest, Kind
from fedinfer.ports import Answer, Ask, Listener
from fedinfer.secagg.enrolment import Challenge, Validation
from fedinfer.wire import decode, encode

POLL_SECONDS = 0.5


class GridTransport:
    """Maps device ids to Flower nodes and carries asks to them.

    Args:
        grid: where messages go.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}

    def enroll(
        self, against: Validation, challenge: Challenge, timeout_seconds: float, emit: Listener
    ) -> list[EnrollReply]:
        """Ask every node who it is and remember where the devices live that are believed.

        A node of another build, with a certificate that is forged, expired or revoked, without the key of its
        certificate or with a key that another node has too is left out; the event `not_joined` names it and says why.
        The run starts with the others.

        Args:
            against: the enrolment authority, who was revoked, and the time.
            challenge: drawn for this start of the run.
            timeout_seconds: longest wait.
            emit: receives the events.

        Raises:
            TransportError: when nobody is left.
        """
        common = encode(EnrollRequest(challenge.run_id, challenge.nonce))
        messages = [request_message(Ask("", Kind.ENROLL, common), node, "enroll") for node in self._grid.get_node_ids()]
        claims: list[Claim] = []
        left_out: list[LeftOut] = []
        first: dict[int, Message] = {}
        for message in self._grid.send_and_receive(messages, timeout=timeout_seconds):
            first.setdefault(message.metadata.src_node_id, message)
        for node, message in first.items():
            said = _introduction(message)
            if isinstance(said, EnrollReply):
                claims.append(Claim(node, said))
            else:
                left_out.append((f"node {node}", said))
        believed, refused = admit(claims, against, challenge)
        left_out += refused
        for who, reason in left_out:
            emit("not_joined", {"device": who, "reason": reason})
        if not believed:
            raise _nobody(len(messages), left_out, timeout_seconds)
        self._nodes = {claim.reply.device: claim.node for claim in believed}
        return [claim.reply for claim in believed]

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
                answer = read_reply(message, most_reply(ask))
            except BadMessage as error:
                answer = Answer(ask.device, b"", type(error).__name__, str(error))
            answers.append(Answer(ask.device, answer.body, answer.error, answer.detail))
        return answers


def _introduction(message: Message) -> EnrollReply | str:
    """Who the node says it is, or why it cannot be understood."""
    try:
        answer = read_reply(message, EXCHANGES[Kind.ENROLL].most_reply)
        return f"{answer.error}: {answer.detail}" if answer.error else decode(EnrollReply, answer.body)
    except BadMessage as error:
        return f"{type(error).__name__}: {error}"


def _nobody(asked: int, left_out: Sequence[LeftOut], timeout_seconds: float) -> TransportError:
    if not left_out:
        return TransportError(f"none of {asked} nodes answered within {timeout_seconds:.0f} s")
    who, reason = left_out[0]
    told = f"none of {asked} nodes can take part, {len(left_out)} were left out; first {who}: {reason}"
    other_build = any(VersionMismatch.__name__ in why for _, why in left_out)
    return TransportError(told, hint="install the same fedinfer version on both sides" if other_build else "")
