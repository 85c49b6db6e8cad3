"""Who may ask a serving device: the names it answers to, the pages it answers to, and the token. No sockets here.

* Host: a web page that has its own name resolve to 127.0.0.1 (DNS rebinding) still sends that name. Only names that the
  owner gave, and the address that a connection came in on, are answered to.
* Origin: a browser says which page sends a request. Only pages of this very server, or of hosts that the owner named.
* Token: compared in constant time. `/v2/health/live` and `/v2/health/ready` answer without one, for probes of an
  orchestrator; they say that a process lives and a model is loaded, and nothing about rows or versions.

Sources: RFC 9110, 7.2 (Host) and 11.6.1 (401); RFC 6454 (Origin); RFC 6750, 2.1 (Bearer).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fedinfer.errors import ConfigError

OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Answered without a token, at any rate, and on the connections kept free for them."""
FEWEST_TOKEN, MOST_TOKEN = 16, 4096
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Names that a server on loopback answers to."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Args:
        hosts: lower-case names or addresses, without port, that a Host header may have.
        allowed: those of them that the owner named, so that pages from there may ask too.
        token_digest: SHA-256 of the token; empty: none is needed.
    """

    hosts: frozenset[str]
    allowed: frozenset[str] = frozenset()
    token_digest: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class AccessRefusal:
    """Why a request is refused; the client reads it.

    Args:
        status: HTTP status, 4xx or 5xx.
        reason: one sentence.
    """

    status: int
    reason: str


def access_of(host: str, allowed: Iterable[str], token: bytes) -> Access:
    """What a server that listens on `host` lets in.

    Args:
        host: name or address that it listens on.
        allowed: further names, of `--allow-host`.
        token: of `read_token`; empty: none is needed.
    """
    named = frozenset(_name(item) for item in allowed)
    own = () if _is_unspecified(host) else (_name(host),)
    return Access(frozenset((*own, *LOOPBACK_NAMES)) | named, named, _digest(token) if token else b"")


def read_token(path: Path) -> bytes:
    """The token in a file that only its owner reads.

    Args:
        path: with mode 0600 or stricter; white space around the token does not count.

    Raises:
        ConfigError: it cannot be read, others may read it, or it holds no token of 16 to 4096 printable characters.
    """
    try:
        with path.open("rb") as file:  # the mode of the open file: the name could lead elsewhere a moment later
            mode, data = os.fstat(file.fileno()).st_mode, file.read(MOST_TOKEN + 2).strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path} has mode {stat.S_IMODE(mode):04o}: others may read it", hint=f"chmod 600 {path}")
    if not FEWEST_TOKEN <= len(data) <= MOST_TOKEN or not all(0x21 <= byte <= 0x7E for byte in data):
        raise ConfigError(
            f"{path} holds {len(data)} bytes, a token is {FEWEST_TOKEN} to {MOST_TOKEN} printable ASCII characters",
            hint="openssl rand -hex 32",
        )
    return data


def exposure(address: str, *, has_token: bool, has_tls: bool) -> list[str]:
    """What a server on this address lacks, in words; nothing on loopback.

    Args:
        address: that the socket is bound to.
        has_token: whether a token is asked for.
        has_tls: whether connections are encrypted.
    """
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return []
    warnings = []
    if not has_token:
        warnings.append(f"whoever reaches {address} may ask for predictions: give --token-file, or listen on 127.0.0.1")
    if not has_tls:
        what = "rows, answers and the token" if has_token else "rows and answers"
        warnings.append(f"{what} travel unencrypted to {address}: give --tls-cert and --tls-key")
    return warnings


def refusal(access: Access, path: str, headers: Sequence[tuple[bytes, bytes]], local: str) -> AccessRefusal | None:
    """Why a request is not answered; None: it is.

    Args:
        access: who may ask.
        path: of the request, without query.
        headers: names in lower case, as ASGI has them.
        local: address of this end of the connection.
    """
    hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
    if len(hosts) != 1:
        return AccessRefusal(400, f"{len(hosts)} Host headers, expected one")
    host = _name(hosts[0])
    if host not in access.hosts and host != local.lower():  # 421, as RFC 9110, 15.5.20 has it for a wrong authority
        return AccessRefusal(421, "this server does not answer to that Host; its owner names hosts with --allow-host")
    if any(not _same_page(access, origin, hosts[0]) for origin in origins):
        return AccessRefusal(403, "pages of that Origin may not ask; the owner names hosts with --allow-host")
    if access.token_digest and path not in OPEN_PATHS and not _has_token(access, headers):
        return AccessRefusal(401, "a token is needed: Authorization: Bearer TOKEN")
    return None


def _same_page(access: Access, origin: str, host: str) -> bool:
    """`null` (a sandboxed page, a local file) is nobody's."""
    try:
        netloc = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return bool(netloc) and (netloc == host.lower() or _name(netloc) in access.allowed)


def _has_token(access: Access, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, token = (values[0] if len(values) == 1 else b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(token.strip()), access.token_digest)


def _is_unspecified(host: str) -> bool:
    """Whether it means all addresses, which is no name to be asked under."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _digest(token: bytes) -> bytes:
    """Of one length, so that a comparison tells nothing about the length of the token."""
    return hashlib.sha256(token).digest()


def _values(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for name, value in headers if name == wanted]


def _name(host: str) -> str:
    """A host without its port and brackets, lower case."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    name, colon, port = text.rpartition(":")
    return name.rstrip(".") if colon and port.isdigit() and ":" not in name else text.rstrip(".")
