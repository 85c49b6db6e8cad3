"""The sockets in front of the web application: bound before their address is announced, and closed to slow clients.

uvicorn waits for a request without end, and counts a connection only when TLS is agreed on, so a few hundred idle ones
would hold every file descriptor of a device. Here places are counted as connections are accepted, an idle one gives way
to a new one, and one that has not sent its whole request in time, or does not read its answer, is cut off.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.inference.serve.access import Access
from fedinfer.inference.serve.guard import Guard, HttpExchange, not_noted
from fedinfer.inference.serve.limits import Address, Seats, ServiceLimits
from fedinfer.inference.serve.refusals import error_body
from fedinfer.ports import Clock

try:
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol
except ImportError as missing:
    raise MissingExtra("serving over HTTP needs fastapi and uvicorn", hint="pip install 'fedinfer[serve]'") from missing

MOST_LEAVING = 64
"""Connections that were cut and are not closed yet; more are accepted when they are."""
_BACKLOG = 128
_GONE = ("", 0)
"""Address of a connection whose client is gone already."""


def _bare_refusal(status: str, reason: str) -> bytes:
    """A reply to what is no request, or not yet."""
    body = error_body(reason)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


_TOO_LONG = _bare_refusal("431 Request Header Fields Too Large", "the headers are too long")
_NOT_HTTP = _bare_refusal("400 Bad Request", "this is no HTTP request")


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; IPv4 where a name has both.

    Args:
        host: name or address.
        port: 0 = any free one, which `getsockname` then names.

    Raises:
        ConfigError: when the address is taken, unknown or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda item: item[0] is not socket.AF_INET)
        return socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: {error.strerror or error}", hint="choose another --port or --host"
        ) from error


class SocketServer(uvicorn.Server):
    """A server on a socket of `bind`; `run()` returns when `should_exit` is set or a signal says so.

    Args:
        app: ASGI application.
        listening: of `bind`; stays the caller's to close.
        access: who may ask.
        clock: for rates.
        limits: how much each client may have.
        tls: of `fedinfer.inference.serve.tls`; None: plain HTTP.
        note: called with every exchange when it is over.
    """

    def __init__(
        self,
        app: Any,
        listening: socket.socket,
        access: Access,
        clock: Clock,
        limits: ServiceLimits | None = None,
        tls: ssl.SSLContext | None = None,
        note: Callable[[HttpExchange], None] = not_noted,
    ) -> None:
        limits = limits or ServiceLimits()
        seats = Seats(limits)
        protocol = type("BoundedProtocol", (_Bounded, AutoHTTPProtocol), {"seats": seats, "limits": limits})
        super().__init__(
            uvicorn.Config(
                Guard(app, access, limits, seats, clock, note),
                loop="asyncio",  # uvloop accepts connections by itself, past `_Listener.accept`
                http=protocol,
                ws="none",
                backlog=_BACKLOG,
                proxy_headers=False,  # a client that names its own address would get limits of its own
                log_level="warning",
                access_log=False,
                ssl_context_factory=None if tls is None else lambda _config, _default: tls,
            )
        )
        self._listener = _Listener(listening, seats, limits.request_seconds if tls is not None else 0.0)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.run`.

        Args:
            sockets: not used; the server listens on the socket it was made with.
        """
        super().run(sockets=[self._listener])


class _Listener(socket.socket):
    """A listening socket that gives every connection a place, or closes it."""

    def __init__(self, listening: socket.socket, seats: Seats, handshake_seconds: float) -> None:
        super().__init__(listening.family, listening.type, listening.proto, os.dup(listening.fileno()))
        self.seats = seats
        self._handshake_seconds = handshake_seconds
        self.opened = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that has a place. asyncio takes BlockingIOError for "none now" and comes again."""
        while True:
            if self.opened - len(self.seats) > MOST_LEAVING:
                raise BlockingIOError
            plain, address = super().accept()
            connection = _Connection(plain, self, address[:2])
            if self.seats.take(address[:2], connection.cut):
                if self._handshake_seconds:
                    connection.arm(self._handshake_seconds)
                return connection, address
            connection.close()

    def left(self, address: Address) -> None:
        """A connection is closed."""
        self.opened -= 1
        self.seats.leave(address)


class _Connection(socket.socket):
    """An accepted connection; tells its listener when it is closed."""

    def __init__(self, plain: socket.socket, listener: _Listener, address: Address) -> None:
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self._listener: _Listener | None = listener
        self._address = address
        self._timer: asyncio.TimerHandle | None = None
        listener.opened += 1

    def arm(self, seconds: float) -> None:
        """Cut it off unless TLS is agreed on in time; uvicorn leaves that to asyncio, which waits a minute."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late)

    def cut(self) -> None:
        """End it for both sides; asyncio reads that as its end and closes it."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `socket.socket.close`."""
        super().close()
        if self._timer is not None:
            self._timer.cancel()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.left(self._address)

    def _late(self) -> None:
        if self._listener is not None and not self._listener.seats.is_attached(self._address):
            self.cut()


class _Bounded(asyncio.Protocol):
    """Goes before either of uvicorn's HTTP protocols: they keep the request in `cycle`, what is unsent in `flow`."""

    seats: Seats
    limits: ServiceLimits
    cycle: Any = None
    flow: Any = None
    _answered: Any = None  # the last answered cycle after which a new request began
    _head = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._peer = transport
        self._address = tuple((transport.get_extra_info("peername") or _GONE)[:2])
        self.seats.attach(self._address, self._is_ours, self._abort)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the clock again when these are the first bytes after an answer; refuse a head without end."""
        before = self.cycle
        if self._is_answered() and before is not self._answered:
            self._answered = before
            self.seats.touch(self._address)
            self._arm()
        in_head = before is self._answered
        self._head += len(data) if in_head else 0
        super().data_received(data)
        if self.cycle is not before:
            self._head = 0
        elif in_head and self._head > self.limits.header_bytes:
            self._peer.write(_TOO_LONG)  # type: ignore[attr-defined]  # a transport that writes
            self._peer.close()

    def send_400_response(self, msg: str) -> None:
        """In place of uvicorn's plain text.

        Args:
            msg: what uvicorn says; not repeated.
        """
        self._peer.write(_NOT_HTTP)  # type: ignore[attr-defined]  # a transport that writes
        self._peer.close()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self.limits.request_seconds, self._look)

    def _look(self) -> None:
        """Cut the connection off unless the next move is ours or it rests between two requests."""
        rests = self._is_answered() and self.cycle is not self._answered and not self._peer.is_closing()
        if self._is_ours() or rests:
            self._arm()
        else:
            self._abort()

    def _is_ours(self) -> bool:
        """Whether a whole request is being answered to a client that reads its answers."""
        waits = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        return bool(waits and not self.flow.write_paused)

    def _is_answered(self) -> bool:
        return self.cycle is not None and bool(self.cycle.response_complete)

    def _abort(self) -> None:
        abort = getattr(self._peer, "abort", self._peer.close)
        abort()
