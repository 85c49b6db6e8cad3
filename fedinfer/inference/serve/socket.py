"""The socket in front of the web application: bound before anybody is told, and closed to clients that dawdle.

uvicorn waits for a request without end, so a few hundred half-sent ones would hold every file descriptor of a device.
Here a connection that has not sent its whole request in time is cut off, and there are only so many at once.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from fedinfer.errors import ConfigError, MissingExtra

try:
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol
except ImportError as missing:
    raise MissingExtra("serving over HTTP needs fastapi and uvicorn", hint="pip install 'fedinfer[serve]'") from missing

REQUEST_SECONDS = 20.0
"""From the opening of a connection, or the first byte of a later request on it, to the last byte of that request."""
MOST_CONNECTIONS = 512
"""At once; below the 1024 file descriptors that a process has by default. One more is closed as it comes."""


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; IPv4 where a name has both.

    Args:
        host: name or address.
        port: 0 = any free one, then `getsockname` tells it.

    Raises:
        ConfigError: when the address is taken, unknown or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda item: item[0] is not socket.AF_INET)
        return socket.create_server((str(address[0]), port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: {error.strerror or error}", hint="choose another --port or --host"
        ) from error


def listen(
    app: Any, listening: socket.socket, request_seconds: float = REQUEST_SECONDS, connections: int = MOST_CONNECTIONS
) -> uvicorn.Server:
    """A server on a bound socket; its `run(sockets=[listening])` returns when it is told to stop.

    Args:
        app: ASGI application.
        listening: of `bind`.
        request_seconds: see `REQUEST_SECONDS`, > 0.
        connections: see `MOST_CONNECTIONS`, >= 1.
    """
    limits = {"request_seconds": request_seconds, "most_connections": connections}
    protocol = type("BoundedProtocol", (_Bounded, AutoHTTPProtocol), limits)
    config = uvicorn.Config(app, http=protocol, ws="none", log_level="warning", access_log=False)
    return uvicorn.Server(config)


class _Bounded(asyncio.Protocol):
    """Goes before either of uvicorn's HTTP protocols: they keep the request in `cycle`, all peers in `connections`."""

    request_seconds: float
    most_connections: int
    cycle: Any = None
    connections: set[Any]
    _answered: Any = None  # the last answered cycle after which a new request began
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock, or close what is one too many."""
        super().connection_made(transport)
        self._peer = transport
        self._arm()
        if len(self.connections) > self.most_connections:
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the clock again when these are the first bytes after an answer."""
        if self._is_answered() and self.cycle is not self._answered:
            self._answered = self.cycle
            self._arm()
        super().data_received(data)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self.request_seconds, self._look)

    def _look(self) -> None:
        """Cut the connection off unless the next move is ours or it rests between two requests."""
        is_ours = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        rests = self._is_answered() and self.cycle is not self._answered and not self._peer.is_closing()
        if is_ours or rests:
            self._arm()
        else:
            self._abort()

    def _is_answered(self) -> bool:
        return self.cycle is not None and bool(self.cycle.response_complete)

    def _abort(self) -> None:
        abort = getattr(self._peer, "abort", self._peer.close)
        abort()
