"""In front of the web application: it is asked only what was let in and is within the limits. Plain ASGI, no framework.

A refused request gets {"error": reason}, and its connection is closed, so a body that comes with it is not read.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from fedinfer.inference.serve.access import OPEN_PATHS, Access, AccessRefusal, refusal
from fedinfer.inference.serve.limits import Rates, Seats, ServiceLimits, client_of
from fedinfer.ports import Clock

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
_NOBODY = ("", 0)


class Guard:
    """An ASGI application that answers what it refuses and passes on the rest.

    Args:
        app: the application behind it.
        access: who may ask.
        limits: how much.
        seats: of the connections that requests come in on.
        clock: for rates.
    """

    def __init__(self, app: Asgi, access: Access, limits: ServiceLimits, seats: Seats, clock: Clock) -> None:
        self._app, self._access, self._limits, self._seats = app, access, limits, seats
        self._rates = Rates(limits.per_second)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is no HTTP request (the start and the end of the server)."""
        refused, wait = self._judge(scope) if scope["type"] == "http" else (None, 0)
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await _answer(refused, wait, send)

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


async def _answer(refused: AccessRefusal, wait: int, send: Send) -> None:
    body = json.dumps({"error": refused.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if wait:
        headers.append((b"retry-after", str(wait).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
