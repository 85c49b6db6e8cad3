"""Bodies in gzip or deflate, as RFC 9110, 8.4.1 has them: what a client sent, and what it may be sent.

What a body expands to is bounded, so that a few bytes do not become gigabytes.
"""

from __future__ import annotations

import zlib

from fedinfer.errors import DataError

GZIP, DEFLATE = "gzip", "deflate"
_WINDOW = {GZIP: 31, DEFLATE: 15}
"""zlib's `wbits` for the container of each: that of RFC 1952, and that of RFC 1950."""
_PLAIN = ("", "identity")
_LEVEL = 1
"""Answers are mostly digits: higher levels take several times as long for a few percent."""


def is_known(encoding: str) -> bool:
    """Whether a Content-Encoding can be read.

    Args:
        encoding: value of the header, lower case; empty: there is none.
    """
    return encoding in _PLAIN or encoding in _WINDOW


def unpacked(body: bytes, encoding: str, most: int) -> bytes | None:
    """What a body stands for.

    Args:
        body: as it came; untrusted.
        encoding: for which `is_known` holds.
        most: bytes that it may be, > 0.

    Returns:
        None when it is more.

    Raises:
        DataError: it is no whole stream of this encoding, or something stands behind it.
    """
    if encoding in _PLAIN:
        return body if len(body) <= most else None
    stream = zlib.decompressobj(_WINDOW[encoding])
    try:
        found = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise DataError(f"the body is not {encoding}: {error}") from error
    if len(found) > most:
        return None
    if not stream.eof or stream.unused_data:
        raise DataError(f"the body is not one whole stream of {encoding}")
    return found


def accepted(header: str) -> str:
    """The encoding in which an answer is sent; empty: as it is.

    Args:
        header: value of Accept-Encoding; untrusted.
    """
    wanted = {}
    for item in header.lower().split(","):
        name, _, parameter = item.partition(";")
        wanted[name.strip()] = parameter.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return next((name for name in (GZIP, DEFLATE) if wanted.get(name)), "")


def packed(body: bytes, encoding: str) -> bytes:
    """A body in an encoding.

    Args:
        body: as it is.
        encoding: GZIP or DEFLATE.
    """
    stream = zlib.compressobj(_LEVEL, wbits=_WINDOW[encoding])
    return stream.compress(body) + stream.flush()
