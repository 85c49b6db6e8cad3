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
from fedinfer.messages import PROTOCOL_VERSION
from fedinfer.ports import Answer, Ask

RECORD = "fedinfer"
Fields: TypeAlias = dict[
    str, int | float | str | bytes | list[int] | list[float] | list[str] | list[bytes] | list[bool]
]
"""What a ConfigRecord is made from."""
MAX_ERROR, MAX_DETAIL = 64, 1000
"""Characters of an error's name and text that a server keeps of what a device says."""


@cache
def build_id() -> str:
    """Version and a hash of the installed sources: two sides that differ refuse each other instead of guessing."""
    digest = hashlib.sha256()
    for name, item in sorted(_sources(resources.files(fedinfer), "")):
        digest.update(name.encode() + b"\0" + item.read_bytes())
    return f"{fedinfer.__version__}+{digest.hexdigest()[:12]}"


def request_message(ask: Ask, node: int, group: str) -> Message:
    """An Ask as a Flower instruction message."""
    record = ConfigRecord({**_header(), "common": ask.common, "own": ask.own})
    return Message(RecordDict({RECORD: record}), dst_node_id=node, message_type=ask.kind, group_id=group)


def read_request(message: Message, device: str) -> Ask:
    """The Ask inside a Flower message.

    Raises:
        BadMessage, VersionMismatch: when it is not one, or comes from another build.
    """
    record = _checked_record(message)
    return Ask(device, message.metadata.message_type, _bytes(record, "common"), _bytes(record, "own"))


def reply_message(answer: Answer, request: Message) -> Message:
    """An Answer as the Flower reply to `request`."""
    fields: Fields = {"device": answer.device, "body": answer.body, "error": answer.error, "detail": answer.detail}
    return Message(RecordDict({RECORD: ConfigRecord({**_header(), **fields})}), reply_to=request)


def read_reply(message: Message) -> Answer:
    """The Answer inside a Flower reply; a Flower error becomes an Answer with that error.

    Raises:
        BadMessage, VersionMismatch: when it is not one, or comes from another build.
    """
    if message.has_error():
        return Answer("", b"", "TransportError", _plain(str(message.error.reason or message.error.code), MAX_DETAIL))
    record = _checked_record(message)
    error, detail = _words(record, "error", MAX_ERROR), _words(record, "detail", MAX_DETAIL)
    return Answer(_text(record, "device"), _bytes(record, "body"), error, detail)


def refusal(device: str, error: FedInferError) -> Answer:
    """A typed error as an ordinary reply."""
    return Answer(device, b"", type(error).__name__, str(error))


def error_class(name: str) -> type[FedInferError]:
    """The class of fedinfer.errors with that name; FedInferError for names this version does not know."""
    found = getattr(errors, name, FedInferError)
    return found if isinstance(found, type) and issubclass(found, FedInferError) else FedInferError


def _header() -> Fields:
    return {"protocol_version": PROTOCOL_VERSION, "build_id": build_id()}


def _checked_record(message: Message) -> ConfigRecord:
    record = message.content.get(RECORD) if message.has_content() else None
    if not isinstance(record, ConfigRecord):
        raise BadMessage(f"no {RECORD!r} record in a {message.metadata.message_type} message")
    if record.get("protocol_version") != PROTOCOL_VERSION:
        raise VersionMismatch(f"protocol {record.get('protocol_version')!r}, this side speaks {PROTOCOL_VERSION}")
    if record.get("build_id") != build_id():
        raise VersionMismatch(
            f"the other side runs build {record.get('build_id')!r}, this side {build_id()}",
            hint="install the same fedinfer version on both sides",
        )
    return record


def _bytes(record: ConfigRecord, key: str) -> bytes:
    value = record.get(key)
    if not isinstance(value, bytes):
        raise BadMessage(f"{key!r} is {type(value).__name__}, expected bytes")
    return value


def _text(record: ConfigRecord, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise BadMessage(f"{key!r} is {type(value).__name__}, expected text")
    return value


def _words(record: ConfigRecord, key: str, most: int) -> str:
    return _plain(_text(record, key), most)


def _plain(text: str, most: int) -> str:
    """The first characters of a text, without any that a terminal obeys: it goes to logs and screens."""
    return "".join(character if character.isprintable() else " " for character in text[:most])


def _sources(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for item in folder.iterdir():
        name = f"{prefix}/{item.name}"
        if item.is_dir() and item.name != "__pycache__":
            found.extend(_sources(item, name))
        elif item.name.endswith(".py"):
            found.append((name, item))
    return found
