"""In front of the web application: it is asked only what was let in and is within the limits. Plain ASGI, no framework.

Every reply is counted here, whoever made it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fedinfer.inference.serve.access import OPEN_PATHS, Access, AccessRefusal, refusal
from fedinfer.inference.serve.limits import Rates, Seats, ServiceLimits, client_of
from fedinfer.inference.serve.refusals import Asgi, Receive, Scope, Send, refuse
from fedinfer.ports import Clock
from fedinfer.printable import shown

_NOBODY = ("", 0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpExchange:
    """A request and how it was answered.

    Args:
        client: address.
        method, path: of the request; untrusted.
        status: of the reply; 0: the client left before it.
        seconds: from the first byte of the request's head to the last of the reply.
    """

    client: str
    method: str
    path: str
    status: int
    seconds: float


def log_exchange(exchange: HttpExchange) -> None:
    """One line of an access log: no query, no header, nothing of a body.

    Args:
        exchange: that is over.
    """
    path, milliseconds = shown(exchange.path, 200), exchange.seconds * 1e3
    _log.info("%s %s %s %d %.1f ms", exchange.client, exchange.method, path, exchange.status, milliseconds)


def not_noted(_: HttpExchange) -> None:
    """For a server that counts nothing."""


class Guard:
    """An ASGI application that answers what it refuses and passes on the rest.

    Args:
        app: the application behind it.
        access: who may ask.
        limits: how much.
        seats: of the connections that requests come in on.
        clock: for rates and durations.
        note: called with every exchange when it is over.
    """

    def __init__(
        self,
        app: Asgi,
        access: Access,
        limits: ServiceLimits,
        seats: Seats,
        clock: Clock,
        note: Callable[[HttpExchange], None] = not_noted,
    ) -> None:
        self._app, self._access, self._limits, self._seats = app, access, limits, seats
        self._rates = Rates(limits.per_second)
        self._clock, self._note = clock, note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is no HTTP request (the start and the end of the server)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = self._clock.seconds(), 0

        async def watched(message: Scope) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, watched)
        finally:
            client, seconds = (scope.get("client") or _NOBODY)[0], self._clock.seconds() - begin
            self._note(HttpExchange(client, scope["method"], scope["path"], status, seconds))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused, wait = self._judge(scope)
        if refused is None:
            await self._app(scope, receive, send)
            return
        headers = [(b"www-authenticate", b"Bearer")] if refused.status == 401 else []
        if wait:
            headers.append((b"retry-after", str(wait).encode()))
        await refuse(refused.status, refused.reason, scope, receive, send, headers)

    def _judge(self, scope: Scope) -> tuple[AccessRefusal | None, int]:
        """Why a request is refused, and after how many seconds another one may be made.

        Rates come before the token, so that tokens cannot be tried without limit.
        """
        path, headers, client = scope["path"], scope["headers"], tuple(scope.get("client") or _NOBODY)
        size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
        size += sum(len(name) + len(value) + 4 for name, value in headers)
        if size > self._limits.header_bytes:
            return AccessRefusal(431, f"more than {self._limits.header_bytes} bytes of headers"), 0
        if path not in OPEN_PATHS:
            if self._seats.is_reserved((client[0], client[1])):
                return AccessRefusal(503, "all connections are taken; this one is kept for health checks"), 1
            wait = self._rates.wait(client_of(client[0]), self._clock.seconds())
            if wait:
                return AccessRefusal(429, f"more than {self._limits.per_second:g} requests per second"), wait
        local = (scope.get("server") or _NOBODY)[0]
        return refusal(self._access, path, headers, local), 0
