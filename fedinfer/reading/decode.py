"""Bytes of a file to text: unpacked, and decoded by what the rules say, by a byte order mark, or by a guess."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from fedinfer.errors import DataError

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PROBE = 4096


def unpacked(path: Path | str, data: bytes) -> bytes:
    """The bytes of a file, out of their gzip wrapper where they are in one.

    Args:
        path: for messages.
        data: whole content.

    Raises:
        DataError: a damaged gzip file, or a ZIP archive.
    """
    if data.startswith(ZIP):
        raise DataError(
            f"{path}: a ZIP archive, or a spreadsheet of another ending", hint="unpack it, or name it .xlsx"
        )
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: gzip cannot be unpacked: {error}", hint=f"try: gzip --test {path}") from error


def decoded(path: Path | str, data: bytes, encoding: str) -> tuple[str, str]:
    """The text of a file and, where its encoding was a guess, a sentence that says so.

    Args:
        path: for messages.
        data: unpacked bytes.
        encoding: of the rules; empty: UTF-8, a byte order mark, else a guess.

    Raises:
        DataError: not text in that encoding; names the first bad line and byte.
    """
    if encoding:
        return _strictly(path, data, encoding), ""
    found = encoding_of(data)
    if found in ("utf-8", *(name for _, name in _MARKS)):
        return _strictly(path, data, found), ""
    note = f'{path}: not UTF-8, read as {found}: check the letters beyond ASCII, or set [data] encoding = "{found}"'
    return _strictly(path, data, found), note


def encoding_of(data: bytes) -> str:
    """The encoding that bytes are probably in: by their mark, UTF-8 if they are, UTF-16 by its zeros, else cp1252.

    Args:
        data: unpacked bytes.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if marked:
        return marked
    head = data[:_PROBE]
    if b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        if max(even, odd) > len(head) // 5 and min(even, odd) < len(head) // 20 + 1:
            return "utf-16-le" if odd > even else "utf-16-be"
    for encoding in ("utf-8", "cp1252"):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _strictly(path: Path | str, data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        bad = data[error.start : error.start + 1]
        line = data[: error.start].count(b"\n") + 1
        other = encoding_of(data)
        hint = f'set [data] encoding = "{other}", if that is what it is in' if other != encoding else "is it whole?"
        raise DataError(
            f"{path}: not {encoding} near line {line}: byte {bad[0] if bad else 0:#04x}", hint=hint
        ) from error
    except LookupError as error:
        raise DataError(
            f"{path}: [data] encoding = {encoding!r}: no such encoding", hint='for instance "cp1252" or "utf-16"'
        ) from error
    return text.removeprefix("\ufeff")
