"""The model repository behind a web server: static files, fetched by the device itself.

What a file says is checked by its signatures; this module only brings bytes, and bounds what a server can do:

* HTTPS, or HTTP to this machine; certificates are checked; redirects are not followed;
* every answer has a bound before a byte of it is read, and a connection that is silent is given up;
* a file that is fetched again is asked for with its ETag: unchanged, it is not sent;
* a large file that broke off goes on where it was (Range with If-Range), also in another process.

Source: RFC 9110, sections 8.8.3 (ETag), 13.1 (preconditions), 14 (range requests).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from fedinfer.errors import ConfigError, StoreError, TransportError
from fedinfer.inference.install.tuf_channel import Fetch
from fedinfer.manifest import MAX_ARTIFACT_BYTES, MAX_METADATA_BYTES

SECONDS = 30.0
"""Longest silence of a connection."""
PIECE_BYTES = 65_536
KEPT_BYTES = MAX_METADATA_BYTES
"""Files up to this size are kept with their ETag; larger ones are models, which have a name of their own each."""


class WebSource:
    """Fetches files of one repository.

    Args:
        base: URL of the folder with `metadata/` and `targets/`.
        cache: folder of this device for ETags and for files that broke off.
        authority: file with the certificate authority of the server; None: those of the operating system.

    Raises:
        ConfigError: no HTTPS URL, or an authority that cannot be read.
    """

    def __init__(self, base: str, cache: Path, authority: Path | None = None) -> None:
        self._base, self._cache = _checked(base), cache
        try:
            context = ssl.create_default_context(cafile=None if authority is None else str(authority))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{authority}: no certificate authority: {error}") from error
        self._opener = urllib.request.build_opener(_NoRedirect(), urllib.request.HTTPSHandler(context=context))

    def fetch(self, path: str) -> bytes | None:
        """The bytes of a file; None when the server has none. As `tuf_channel.Fetch`.

        Args:
            path: below the repository.

        Raises:
            TransportError: the server cannot be reached, answers with an error, or with more than may be read.
            StoreError: the cache cannot be written.
        """
        name = self._cache / hashlib.sha256(path.encode()).hexdigest()
        kept, part = _read(name.with_suffix(".whole")), _read(name.with_suffix(".part"))
        headers = _conditions(kept, part)
        request = urllib.request.Request(self._base + quote(path), headers=headers)  # noqa: S310 - see _checked
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return self._receive(answer, path, name, part if "Range" in headers else None)
        except urllib.error.HTTPError as error:
            with error:
                return self._without_body(error.code, path, name, kept)
        except (OSError, HTTPException) as error:
            raise TransportError(f"{self._base}{path}: {error}", hint="the device tries again later") from error

    def _without_body(self, code: int, path: str, name: Path, kept: tuple[str, bytes] | None) -> bytes | None:
        if code == 304 and kept is not None:
            return kept[1]
        if code == 404:
            return None
        if code == 416:  # what broke off does not fit the file any more
            name.with_suffix(".part").unlink(missing_ok=True)
        raise TransportError(f"{self._base}{path}: the server answers {code}", hint="the device tries again later")

    def _receive(self, answer: Any, path: str, name: Path, part: tuple[str, bytes] | None) -> bytes:
        most = MAX_METADATA_BYTES if path.startswith("metadata/") else MAX_ARTIFACT_BYTES
        tag, data = str(answer.headers.get("ETag", "")), bytearray()
        if answer.status == 206 and part is not None:
            data += part[1]
        expected = len(data) + int(answer.headers.get("Content-Length") or 0)
        if expected > most:
            raise TransportError(f"{self._base}{path}: {expected} bytes, at most {most} are read")
        try:
            while piece := answer.read(PIECE_BYTES):
                data += piece
                if len(data) > most:
                    raise TransportError(f"{self._base}{path}: more than {most} bytes")
        finally:
            whole = bytes(data)
            broke_off = len(whole) < expected
            if broke_off and _strong(tag):
                self._keep(name.with_suffix(".part"), tag, whole)
        if broke_off:
            raise TransportError(f"{self._base}{path}: broke off after {len(whole)} of {expected} bytes")
        name.with_suffix(".part").unlink(missing_ok=True)
        if tag and len(whole) <= KEPT_BYTES and path.startswith("metadata/"):
            self._keep(name.with_suffix(".whole"), tag, whole)
        return whole

    def _keep(self, path: Path, tag: str, data: bytes) -> None:
        temporary = path.with_name(f"tmp-{path.name}")
        try:
            self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(json.dumps(tag).encode() + b"\n" + data)
            os.replace(temporary, path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}", hint="check free space and permissions") from error


def web_fetch(base: str, cache: Path, authority: Path | None = None) -> Fetch:
    """A transport that fetches from a web server.

    Args:
        base: URL of the folder with `metadata/` and `targets/`.
        cache: folder of this device for ETags and for files that broke off.
        authority: file with the certificate authority of the server; None: those of the operating system.

    Raises:
        ConfigError: no HTTPS URL, or an authority that cannot be read.
    """
    return WebSource(base, cache, authority).fetch


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The owner named one server; another one is not asked because that one says so."""

    def redirect_request(self, *_: Any) -> None:
        """No other request: the answer is an error."""


def _checked(base: str) -> str:
    parts = urlsplit(base)
    local = parts.scheme == "http" and _is_this_machine(parts.hostname or "")
    if not (parts.scheme == "https" or local) or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{base[:200]!r} is no https:// address of a folder", hint="http:// is for this machine only")
    return base.rstrip("/") + "/"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _conditions(kept: tuple[str, bytes] | None, part: tuple[str, bytes] | None) -> Mapping[str, str]:
    if part is not None and part[1]:
        return {"Range": f"bytes={len(part[1])}-", "If-Range": part[0]}
    return {} if kept is None else {"If-None-Match": kept[0]}


def _strong(tag: str) -> bool:
    return tag.startswith('"')


def _read(path: Path) -> tuple[str, bytes] | None:
    """ETag and bytes; None when there is nothing that can be used."""
    try:
        head, _, data = path.read_bytes().partition(b"\n")
        tag = json.loads(head)
    except (OSError, ValueError):
        return None
    return (tag, data) if isinstance(tag, str) and tag and "\n" not in tag and "\r" not in tag else None
