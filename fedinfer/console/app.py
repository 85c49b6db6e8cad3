"""The web application of the console. Needs the extra `serve`.

Rules:
* Nothing is shown without a session or, for `/metrics`, a token; `/healthz` alone says only that the console answers.
* An order needs a session of an operator and the secret of its form, and goes out under the key that the console was
  started with: the browser never sees a key. It is bound to the wave that the page showed.
* A page asks this address for everything it needs and no other; scripts and styles are files, none is inline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

from fedinfer.console.metrics import CONTENT_TYPE, server_metrics
from fedinfer.console.page import console_page, login_page
from fedinfer.console.sessions import ConsoleRole, ConsoleSession, ConsoleSessions, Tokens, is_own_form
from fedinfer.console.snapshot import fingerprint, read_snapshot
from fedinfer.errors import ConfigError, FedInferError, MissingExtra
from fedinfer.ports import Clock, Entropy
from fedinfer.report import write_report
from fedinfer.rollout import (
    NONCE_BYTES,
    START,
    Asked,
    Order,
    OrderInbox,
    OrderRequest,
    RolloutStore,
    StartRequest,
    read_operators,
    sign_order,
)

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, StreamingResponse
    from starlette.concurrency import run_in_threadpool
except ImportError as missing:
    raise MissingExtra("the console needs fastapi and uvicorn", hint="pip install 'fedinfer[serve]'") from missing

COOKIE = "fedinfer_console"
MOST_FORM_BYTES, MOST_FIELDS = 8192, 20
MOST_STREAMS = 24
"""Of a role at once: all roles together leave places among the connections of one address, which may be a proxy's."""
LOOK_SECONDS, STREAM_SECONDS = 1.0, 60.0
"""Between two looks for changes; after how long a stream ends, which a browser opens again."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none, a browser says of its own forms that they come from nowhere
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'"
"""The report is one file with its styles inside."""


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """What a console is started with.

    Args:
        folder: run folder of the server.
        tokens: by role.
        signer: name of the operator whose key signs orders here; empty: nobody does.
        sign: Ed25519 signature of a message under that key.
        secure: whether the page is served over TLS, for its cookie.
        stopping: tells streams to end.
    """

    folder: Path
    tokens: Tokens
    signer: str = ""
    sign: Callable[[bytes], bytes] = bytes
    secure: bool = False
    stopping: Callable[[], bool] = bool


@dataclass(frozen=True, slots=True)
class _Console:
    settings: ConsoleSettings
    sessions: ConsoleSessions
    clock: Clock
    entropy: Entropy

    def session(self, request: Request) -> ConsoleSession | None:
        return self.sessions.find(request.cookies.get(COOKIE, ""))


Handler = Callable[[Request], Awaitable[Response]]


def make_console(settings: ConsoleSettings, clock: Clock, entropy: Entropy) -> FastAPI:
    """The web application.

    Args:
        settings: what it is started with.
        clock: time.
        entropy: for sessions and for the nonces of orders.

    Raises:
        ConfigError: no token, or one token for two roles.
    """
    if not settings.tokens.viewer or settings.tokens.viewer == settings.tokens.operator:
        raise ConfigError("viewers and operators need a token each, and not the same one")
    console = _Console(settings, ConsoleSessions(settings.tokens, clock, entropy), clock, entropy)
    app = FastAPI(title="fedinfer console", docs_url=None, redoc_url=None, openapi_url=None)
    pages: dict[str, Handler] = {
        "/": _home(console),
        "/changes": _changes(console),
        "/report": _report(console),
        "/metrics": _metrics(console),
        "/healthz": _health,
        "/style.css": _file("style.css", "text/css"),
        "/live.js": _file("live.js", "text/javascript"),
    }
    for path, handler in pages.items():
        app.add_route(path, handler, methods=["GET"])
    forms = {"/login": _login(console), "/logout": _logout(console), "/order": _order(console)}
    for path, handler in forms.items():
        app.add_route(path, handler, methods=["POST"])
    app.middleware("http")(_with_headers)
    return app


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


def _file(name: str, kind: str) -> Handler:
    content = Path(__file__).with_name(name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _home(console: _Console) -> Handler:
    async def answer(request: Request) -> Response:
        session = console.session(request)
        if session is None:
            return HTMLResponse(login_page(), 401)
        snapshot = await run_in_threadpool(read_snapshot, console.settings.folder)
        return HTMLResponse(console_page(snapshot, session, console.settings.signer))

    return answer


def _login(console: _Console) -> Handler:
    async def answer(request: Request) -> Response:
        form = await _form(request)
        name = console.sessions.open(form.get("token", "").encode(errors="replace"))
        if name is None:
            problem = "This token is wrong, or there were too many wrong ones: wait a minute."
            return HTMLResponse(login_page(problem), 401)
        response = RedirectResponse("./", 303)
        secure = console.settings.secure
        response.set_cookie(COOKIE, name, httponly=True, samesite="strict", secure=secure, path="/")
        return response

    return answer


def _logout(console: _Console) -> Handler:
    async def answer(request: Request) -> Response:
        session, form = console.session(request), await _form(request)
        if session is None or not is_own_form(session, form.get("secret", "")):
            return PlainTextResponse("this form is not of your session\n", 403)
        console.sessions.close(request.cookies.get(COOKIE, ""))
        response = RedirectResponse("./", 303)
        response.delete_cookie(COOKIE)
        return response

    return answer


def _order(console: _Console) -> Handler:
    async def answer(request: Request) -> Response:
        session, form = console.session(request), await _form(request)
        if session is None or not is_own_form(session, form.get("secret", "")):
            return PlainTextResponse("this form is not of your session\n", 403)
        if session.role is not ConsoleRole.OPERATOR or not console.settings.signer:
            return PlainTextResponse("only operators give orders, and only where the console has a key\n", 403)
        try:
            await run_in_threadpool(_submit, console, form)
        except FedInferError as error:
            return PlainTextResponse(f"{error}\n", 400)
        return RedirectResponse("./", 303)

    return answer


def _submit(console: _Console, form: dict[str, str]) -> None:
    """Sign what the form says and hand it in.

    Raises:
        ConfigError: the form is not ours, or no operators are listed.
    """
    settings, now = console.settings, console.clock.now()
    operators = read_operators(settings.folder)
    if operators is None:
        raise ConfigError("this server lists no operators")
    nonce, at = console.entropy.take(NONCE_BYTES), int(now.timestamp())
    asked = _asked(form, operators.server, settings.signer, at, nonce)
    store = RolloutStore(settings.folder / "rollout.sqlite")
    try:
        OrderInbox(store).submit(sign_order(asked, settings.sign), now)
    finally:
        store.close()


def _asked(form: dict[str, str], server: str, by: str, at: int, nonce: bytes) -> Asked:
    """The request that a form asks for.

    Raises:
        ConfigError: the form is not ours.
    """
    rollout, reason, what = form.get("rollout", "")[:200], form.get("reason", ""), form.get("order", "")
    try:
        if what == START:
            waves = tuple(float(part) for part in form.get("waves", "").split(",") if part.strip())
            return StartRequest(server, rollout, int(form.get("version", "")), waves, by, reason, at, nonce)
        return OrderRequest(server, rollout, Order(what), int(form.get("wave", "")), by, reason, at, nonce)
    except ValueError as error:
        raise ConfigError(f"this is no order: {error}") from error


def _changes(console: _Console) -> Handler:
    ends: dict[ConsoleRole, list[float]] = {role: [] for role in ConsoleRole}

    async def stream(role: ConsoleRole, end: float) -> AsyncIterator[bytes]:
        try:
            async for change in changes(end):
                yield change
        finally:
            with suppress(ValueError):
                ends[role].remove(end)

    async def changes(end: float) -> AsyncIterator[bytes]:
        before = fingerprint(console.settings.folder)
        yield b": open\n\n"
        while console.clock.seconds() < end and not console.settings.stopping():
            await asyncio.sleep(LOOK_SECONDS)
            now = fingerprint(console.settings.folder)
            if now != before:
                before = now
                yield b"data: changed\n\n"

    async def answer(request: Request) -> Response:
        session = console.session(request)
        if session is None:
            return PlainTextResponse("no session\n", 401)
        role, now = session.role, console.clock.seconds()
        ends[role] = [end for end in ends[role] if end > now]  # one whose client left before it began has no other end
        if len(ends[role]) >= MOST_STREAMS:
            return PlainTextResponse("too many pages are open\n", 503)
        ends[role].append(now + STREAM_SECONDS)
        return StreamingResponse(stream(role, now + STREAM_SECONDS), media_type="text/event-stream")

    return answer


def _report(console: _Console) -> Handler:
    async def answer(request: Request) -> Response:
        if console.session(request) is None:
            return HTMLResponse(login_page(), 401)
        try:
            path = await run_in_threadpool(write_report, console.settings.folder)
        except FedInferError as error:
            return PlainTextResponse(f"{error}\n", 404)
        return HTMLResponse(path.read_bytes(), headers={"Content-Security-Policy": REPORT_POLICY})

    return answer


def _metrics(console: _Console) -> Handler:
    async def answer(request: Request) -> Response:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        known = kind.lower() == "bearer" and console.sessions.role_of(token.strip().encode(errors="replace"))
        if not known and console.session(request) is None:
            return PlainTextResponse("a token is needed\n", 401, {"WWW-Authenticate": "Bearer"})
        snapshot = await run_in_threadpool(read_snapshot, console.settings.folder)
        return PlainTextResponse(server_metrics(snapshot, console.clock.now()), media_type=CONTENT_TYPE)

    return answer


async def _form(request: Request) -> dict[str, str]:
    """Fields of a form; of a field that comes twice the first. Nothing of a body that is too long or has too many."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            return {}
    try:
        fields = parse_qs(body.decode("utf-8", errors="replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}
