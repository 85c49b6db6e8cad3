"""What is not answered: one shape of reply, {"error": reason}, and no connection is reset while its body still comes.

A client that sends its whole body before it reads would lose the reply if the connection were closed in between: what
it has not read yet goes with a reset. So the reply is sent at once, and what still comes is read and thrown away, up to
a bound and while it comes; the time limit of requests holds meanwhile. Plain ASGI, no framework.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_IGNORED_BYTES = 32 * 2**20
"""Of a refused body; who sends more may see a reset."""
PATIENCE_SECONDS = 1.0
"""Nothing more is expected of a client that sends nothing for so long."""


def error_body(reason: str) -> bytes:
    """The body of every reply that is no answer.

    Args:
        reason: one sentence for the client.
    """
    return json.dumps({"error": reason}).encode()


async def refuse(
    status: int, reason: str, scope: Scope, receive: Receive, send: Send, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Refuse a request whose body has not been read to its end, and close the connection.

    Args:
        status: of HTTP, 4xx or 5xx.
        reason: one sentence for the client.
        scope: of the request, as ASGI has it.
        receive: the rest of the request.
        send: the reply.
        headers: further ones.
    """
    body = error_body(reason)
    usual = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    usual.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": [*usual, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if not any(name == b"expect" for name, _ in scope["headers"]):  # who waits for 100 Continue sends no body now
        await _ignore(receive)
    await send({"type": "http.response.body", "body": b""})


async def _ignore(receive: Receive) -> None:
    ignored, more = 0, True
    while more and ignored <= MOST_IGNORED_BYTES:
        try:
            message = await asyncio.wait_for(receive(), PATIENCE_SECONDS)
        except TimeoutError:
            return
        ignored += len(message.get("body", b""))
        more = message["type"] == "http.request" and bool(message.get("more_body"))
