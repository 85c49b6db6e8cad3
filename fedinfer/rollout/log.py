"""An audit log that shows when it was changed: every entry holds the hash of the one before.

Rules:
* One entry is one line of canonical JSON (sorted keys, no spaces, ASCII); any other spelling of the same entry is
  refused, so every byte counts.
* digest = SHA-256 of the line without its digest; `previous` is the digest of the entry before, 64 zeros for the first.
* A chain cannot know that its end was cut off. `head` (count and digest, printed by every command) does: keep it
  elsewhere and hand it to `verify`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fedinfer.errors import LogTampered
from fedinfer.types import Json

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log.

    Args:
        count: entries.
        digest: of the last one, 64 hexadecimal digits; GENESIS for none.
    """

    count: int
    digest: str

    def __str__(self) -> str:
        return f"{self.count}:{self.digest}"

    @staticmethod
    def parse(text: str) -> Head:
        """Inverse of `str`.

        Args:
            text: "COUNT:DIGEST", as `fedinfer rollout status` prints it.

        Raises:
            LogTampered: when it is not "COUNT:DIGEST".
        """
        count, _, digest = text.partition(":")
        if not (count.isascii() and count.isdigit() and len(count) <= 18 and len(digest) == 64):
            raise LogTampered(f"head {text[:80]!r} is not COUNT:DIGEST", hint="copy it from `fedinfer rollout status`")
        return Head(int(count), digest)


EMPTY = Head(0, GENESIS)


def entry_line(head: Head, at: datetime, kind: str, body: Json) -> tuple[str, Head]:
    """The next line of a log.

    Args:
        head: end of the log so far.
        at: wall-clock time, timezone-aware.
        kind: what happened, for instance "command".
        body: JSON-able facts.

    Returns:
        The line without a line break, and the new head.
    """
    entry = {"at": at.isoformat(), "body": body, "kind": kind, "previous": head.digest, "seq": head.count + 1}
    digest = hashlib.sha256(_canonical(entry)).hexdigest()
    return _canonical({**entry, "digest": digest}).decode(), Head(head.count + 1, digest)


def entry(line: str) -> Json:
    """The facts of a line; `verify` says whether they can be believed.

    Args:
        line: from `entry_line` or from a file; nothing in it is trusted.

    Returns:
        All keys of the entry; "seq" is an int, "digest" a str.

    Raises:
        LogTampered: when it is not an entry.
    """
    try:
        facts = json.loads(line)
        return {**facts, "seq": int(facts["seq"]), "digest": str(facts["digest"])}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LogTampered(f"audit log entry cannot be read: {type(error).__name__}") from error


def verify(lines: Iterable[bytes], expected: Head | None) -> Head:
    """Check a whole log.

    Args:
        lines: entries, oldest first, without line breaks.
        expected: head that was kept elsewhere; None checks the chain only and cannot see a cut-off end.

    Returns:
        The head of the log.

    Raises:
        LogTampered: with the first line that does not fit.
    """
    head = EMPTY
    for line in lines:
        head = _check(head, line)
        if expected is not None and head.count == expected.count and not _same(head.digest, expected.digest):
            raise LogTampered(f"audit log line {head.count}: digest differs from the one that was kept")
    if expected is not None and head.count < expected.count:
        raise LogTampered(f"audit log has {head.count} lines, {expected.count} were written")
    return head


def dump(lines: Iterable[str]) -> bytes:
    """An exported log: one entry per line, each ended by a line feed.

    Args:
        lines: entries, oldest first.

    Returns:
        UTF-8, for `verify_file`.
    """
    return b"".join(line.encode() + b"\n" for line in lines)


def verify_file(data: bytes, expected: Head | None) -> Head:
    """Check an exported log; see `verify`.

    Args:
        data: from `dump`.
        expected: as in `verify`.

    Returns:
        The head of the log.

    Raises:
        LogTampered: with the first line that does not fit.
    """
    lines = data.split(b"\n")
    if lines.pop() != b"":
        raise LogTampered("audit log does not end with a line feed")
    return verify(lines, expected)


def _check(head: Head, line: bytes) -> Head:
    number = head.count + 1
    try:
        entry = json.loads(line)
        digest = entry.pop("digest")
        unchanged = _canonical({**entry, "digest": digest}) == line
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise LogTampered(f"audit log line {number} cannot be read: {type(error).__name__}") from error
    if not unchanged:
        raise LogTampered(f"audit log line {number} is not in canonical form")
    if entry.get("seq") != number or entry.get("previous") != head.digest:
        raise LogTampered(f"audit log line {number} does not follow line {head.count}")
    if not _same(hashlib.sha256(_canonical(entry)).hexdigest(), str(digest)):
        raise LogTampered(f"audit log line {number} was changed")
    return Head(number, str(digest))


def _same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode(errors="backslashreplace"))


def _canonical(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
