"""One Flower record per message: packed bytes in a ConfigRecord, with the protocol version and the build on both sides.

A ConfigRecord of bytes costs microseconds where an ArrayRecord of the same vector costs a hundred (docs/adr/0002).
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TypeAlias

from flwr.app import ConfigRecord, Message, RecordDict

import fedinfer
from fedinfer import errors
from fedinfer.errors import BadMessage, FedInferError, VersionMismatch
from fedinfer.exchanges import EXCHANGES
from fedinfer.messages import MOST_ERROR, MOST_REASON, PROTOCOL_VERSION, Kind
from fedinfer.ports import Answer, Ask
from fedinfer.printable import LONGEST_NAME, shown
from fedinfer.wire import MAX_BYTES

RECORD = "fedinfer"
Fields: TypeAlias = dict[
    str, int | float | str | bytes | list[int] | list[float] | list[str] | list[bytes] | list[bool]
]
"""What a ConfigRecord is made from."""
_TEXTS = {"device": LONGEST_NAME, "error": MOST_ERROR, "detail": MOST_REASON}
"""Fields of a reply that are texts, and the characters of each that are kept."""
_MOST_WORD = 64
"""Characters of a version, build or message type that an error repeats."""


@cache
def build_id() -> str:
    """Version and a hash of the installed sources: two sides that differ refuse each other instead of guessing."""
    digest = hashlib.sha256()
    for name, item in sorted(_sources(resources.files(fedinfer), "")):
        digest.update(name.encode() + b"\0" + item.read_bytes())
    return f"{fedinfer.__version__}+{digest.hexdigest()[:12]}"


def request_message(ask: Ask, node: int, group: str) -> Message:
    """An Ask as a Flower instruction message.

    Args:
        ask: what is asked.
        node: Flower's number of the node that gets it.
        group: name under which Flower keeps messages of one exchange together.
    """
    record = ConfigRecord({**_header(), "common": ask.common, "own": ask.own})
    return Message(RecordDict({RECORD: record}), dst_node_id=node, message_type=ask.kind, group_id=group)


def read_request(message: Message, device: str) -> Ask:
    """The Ask inside a Flower message.

    Args:
        message: as it came.
        device: name of the device that it is for, as this side knows it.

    Raises:
        BadMessage: it is none, or is too large for its kind.
        VersionMismatch: it comes from another version or build.
    """
    record = _checked_record(message)
    kind, common, own = message.metadata.message_type, _bytes(record, "common"), _bytes(record, "own")
    most = EXCHANGES[Kind(kind)].most_request if kind in set(Kind) else 0
    if len(common) + len(own) > most:
        raise BadMessage(f"a {_word(kind)} request of {len(common) + len(own)} bytes, limit {most}")
    return Ask(device, kind, common, own)


def reply_message(answer: Answer, request: Message) -> Message:
    """An Answer as a Flower reply, its texts as short as the server keeps them.

    Args:
        answer: of the device.
        request: the message that it answers.
    """
    texts = {key: shown(getattr(answer, key), most) for key, most in _TEXTS.items()}
    fields: Fields = {**texts, "body": answer.body}
    return Message(RecordDict({RECORD: ConfigRecord({**_header(), **fields})}), reply_to=request)


def read_reply(message: Message, most: int = MAX_BYTES) -> Answer:
    """The Answer inside a Flower reply; a Flower error becomes an Answer with that error.

    Its texts are printable and bounded; its body is of the device's making until a decoder has read it.

    Args:
        message: a reply to `request_message`.
        most: bytes of a body that are kept.

    Raises:
        BadMessage: it is none, or has a larger body.
        VersionMismatch: it comes from another version or build.
    """
    if message.has_error():
        reason = str(message.error.reason or message.error.code)
        return Answer("", b"", "TransportError", shown(reason, MOST_REASON))
    record = _checked_record(message)
    texts = [_text(record, key, most) for key, most in _TEXTS.items()]
    body = _bytes(record, "body")
    if len(body) > most:
        raise BadMessage(f"an answer of {len(body)} bytes, limit {most}")
    return Answer(texts[0], body, texts[1], texts[2])


def most_reply(ask: Ask) -> int:
    """Largest answer to an ask that a server keeps: what its kind allows, or what the ask itself sets.

    Args:
        ask: of a known kind.

    Returns:
        Bytes.
    """
    most = EXCHANGES[Kind(ask.kind)].most_reply
    return min(most, ask.most_reply) if ask.most_reply else most


def refusal(device: str, error: FedInferError) -> Answer:
    """A typed error as an ordinary reply.

    Args:
        device: that refuses.
        error: why; its text is sent.
    """
    return Answer(device, b"", type(error).__name__, str(error))


def error_class(name: str) -> type[FedInferError]:
    """The class of fedinfer.errors with that name; FedInferError for names that this version does not know.

    Args:
        name: as the other side sent it.
    """
    found = getattr(errors, name, FedInferError)
    return found if isinstance(found, type) and issubclass(found, FedInferError) else FedInferError


def _header() -> Fields:
    return {"protocol_version": PROTOCOL_VERSION, "build_id": build_id()}


def _checked_record(message: Message) -> ConfigRecord:
    record = message.content.get(RECORD) if message.has_content() else None
    if not isinstance(record, ConfigRecord):
        raise BadMessage(f"no {RECORD!r} record in a {_word(message.metadata.message_type)} message")
    if record.get("protocol_version") != PROTOCOL_VERSION:
        found = _word(record.get("protocol_version"))
        raise VersionMismatch(f"protocol {found}, this side speaks {PROTOCOL_VERSION}")
    if record.get("build_id") != build_id():
        raise VersionMismatch(
            f"the other side runs build {_word(record.get('build_id'))}, this side {build_id()}",
            hint="install the same fedinfer version on both sides",
        )
    return record


def _bytes(record: ConfigRecord, key: str) -> bytes:
    value = record.get(key)
    if not isinstance(value, bytes):
        raise BadMessage(f"{key!r} is {type(value).__name__}, expected bytes")
    return value


def _text(record: ConfigRecord, key: str, most: int) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise BadMessage(f"{key!r} is {type(value).__name__}, expected text")
    return shown(value, most)


def _word(value: object) -> str:
    return shown(str(value), _MOST_WORD)


def _sources(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for item in folder.iterdir():
        name = f"{prefix}/{item.name}"
        if item.is_dir() and item.name != "__pycache__":
            found.extend(_sources(item, name))
        elif item.name.endswith(".py"):
            found.append((name, item))
    return found
