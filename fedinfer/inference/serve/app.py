"""The Open Inference Protocol v2 over HTTP, with Prometheus metrics. Needs the extra `serve`.

Bad input gets 400 with a reason, an unknown model or version 404, a model that fails 500. Bodies are bounded before
they are read into memory as a whole, and before they are expanded. What is done with a body stands in `answering`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fedinfer.errors import DataError, MissingExtra, NoModel, StoreError
from fedinfer.inference.serve import answering
from fedinfer.inference.serve.answering import MOST_BODY_BYTES, SMALL_BODY_BYTES, Body, error_of
from fedinfer.inference.serve.descriptions import (
    EXTENSIONS,
    model_config,
    model_metadata,
    model_statistics,
    repository_index,
)
from fedinfer.inference.serve.encodings import accepted, is_known
from fedinfer.inference.serve.prometheus import CONTENT_TYPE, metrics_text
from fedinfer.inference.serve.refusals import Receive, Scope, Send, error_body, refuse
from fedinfer.inference.serve.service import Service
from fedinfer.types import Json

try:
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
except ImportError as missing:
    raise MissingExtra("serving over HTTP needs fastapi and uvicorn", hint="pip install 'fedinfer[serve]'") from missing

HEADER_LENGTH = "inference-header-content-length"
"""Header that says how much of a body is JSON; what is behind that is binary data."""
Handler = Callable[[Request], Awaitable[Response]]
TakeLabels = Callable[[str, Sequence[object]], Json]
"""Takes labels of a request that was answered before; says what all labels so far mean. Raises DataError."""


@dataclass(frozen=True, slots=True)
class ServedSite:
    """What the handlers share.

    Args:
        service: the model in use.
        name: under which the model is asked for.
        server_version: of this program.
        repository_age: seconds since the repository was last reached; None = never.
        one_at_a_time: held by a large request: several together would need that many times the memory.
    """

    service: Service
    name: str
    server_version: str
    repository_age: Callable[[], float | None]
    one_at_a_time: asyncio.Lock


class Refused(Response):
    """A reply to a request whose body was not read to its end.

    Args:
        status: of HTTP.
        reason: one sentence for the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status_code=status)
        self._reason = reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reply, and read on."""
        await refuse(self.status_code, self._reason, scope, receive, send)


def make_app(
    service: Service,
    name: str,
    server_version: str,
    repository_age: Callable[[], float | None],
    take_labels: TakeLabels | None = None,
) -> FastAPI:
    """The web application of a device.

    Args:
        service: the model in use.
        name: under which the model is asked for.
        server_version: of this program.
        repository_age: seconds since the repository was last reached; None = never.
        take_labels: gets labels that come later; None: there is no page for them.
    """
    site = ServedSite(service, name, server_version, repository_age, asyncio.Lock())
    app = FastAPI(title="fedinfer device", version=server_version, docs_url=None, redoc_url=None, openapi_url=None)
    for kind, handler in ((NoModel, _no_model), (HTTPException, _no_such_page), (Exception, _failed)):
        app.add_exception_handler(kind, handler)
    bases = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    for base in bases:  # first, because routes are tried in order
        app.add_route(f"{base}/infer", _infer(site), methods=["POST"])
    of_model = {base + path: about for base in bases for path, about in _of_model(site).items()}
    for path, about in {**_of_server(site), **of_model}.items():  # in this order: no model is called `stats`
        app.add_route(path, about, methods=["GET"])
    if take_labels is not None:
        app.add_route("/v2/models/{model}/labels", _label(site, take_labels), methods=["POST"])
    app.add_route("/v2/repository/index", _index(site), methods=["POST"])
    return app


async def _no_model(_: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 503)


async def _no_such_page(_: Request, error: Exception) -> Response:
    """404 and 405 of the routes."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    reason = "this method is not for this path" if status == 405 else "there is no such path"
    return Response(error_body(reason), status, headers, "application/json")


async def _failed(_: Request, _error: Exception) -> Response:
    return _json({"error": "the server failed; its log says why"}, 500)


def _of_server(site: ServedSite) -> dict[str, Handler]:
    """Path to handler of what concerns the whole server."""
    service = site.service

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        return _json({"ready": bool(service.version)}, 200 if service.version else 503)

    async def about(_: Request) -> Response:
        return _json({"name": "fedinfer", "version": site.server_version, "extensions": [*EXTENSIONS]})

    async def statistics(_: Request) -> Response:
        return _json(_statistics(site))

    async def metrics(_: Request) -> Response:
        telemetry = service.telemetry
        text = metrics_text(telemetry.figures(), service.version, site.repository_age(), telemetry.statuses())
        return Response(text, media_type=CONTENT_TYPE)

    return {
        "/v2/health/live": live,
        "/v2/health/ready": ready,
        "/v2": about,
        "/v2/models/stats": statistics,
        "/metrics": metrics,
    }


def _of_model(site: ServedSite) -> dict[str, Handler]:
    """Path behind the model's own to handler."""
    service, name = site.service, site.name

    async def about(request: Request) -> Response:
        current = service.current
        return _unknown(request, site) or _json(model_metadata(name, current.info.version, current.manifest.schema))

    async def config(request: Request) -> Response:
        return _unknown(request, site) or _json(model_config(name, service.current.manifest.schema))

    async def ready(request: Request) -> Response:
        return _unknown(request, site) or _json({"name": name, "ready": True})

    async def statistics(request: Request) -> Response:
        return _unknown(request, site) or _json(_statistics(site))

    return {"/ready": ready, "/stats": statistics, "/config": config, "": about}


def _statistics(site: ServedSite) -> Json:
    service = site.service
    figures, clock = service.telemetry.of(service.current.info.version), service.clock
    since = None if figures.last is None else clock.seconds() - figures.last
    last = 0 if since is None else round((clock.now().timestamp() - since) * 1e3)
    return {"model_stats": [model_statistics(site.name, figures, last)]}


def _index(site: ServedSite) -> Handler:
    async def index(request: Request) -> Response:
        try:
            body, whole = await _read(request, SMALL_BODY_BYTES)
            if not whole:
                return Refused(413, f"the body has more than {SMALL_BODY_BYTES} bytes")
            only_ready = answering.only_ready(body)
        except DataError as error:
            return _json({"error": error_of(error)}, 400)
        return _json(repository_index(site.name, site.service.version, only_ready=only_ready))

    return index


def _label(site: ServedSite, take_labels: TakeLabels) -> Handler:
    async def label(request: Request) -> Response:
        try:
            missing = _unknown(request, site)
            body, whole = (b"", True) if missing else await _read(request, SMALL_BODY_BYTES)
            if not whole:
                return Refused(413, f"the body has more than {SMALL_BODY_BYTES} bytes")
            return missing or _json(await run_in_threadpool(take_labels, *answering.read_labels(body)))
        except DataError as error:
            return _json({"error": error_of(error)}, 400)
        except StoreError as error:
            return _json({"error": str(error)}, 503)

    return label


def _infer(site: ServedSite) -> Handler:
    async def infer(request: Request) -> Response:
        try:
            return _unknown(request, site) or await _answered(request, site)
        except DataError as error:
            return _json({"error": error_of(error)}, 400)

    return infer


async def _answered(request: Request, site: ServedSite) -> Response:
    headers, accepts = request.headers, accepted(request.headers.get("accept-encoding", ""))
    encoding, json_bytes = headers.get("content-encoding", "").strip().lower(), headers.get(HEADER_LENGTH)
    if not is_known(encoding):
        return Refused(415, "the body is in an encoding that is not known; send it as it is, in gzip or in deflate")
    if json_bytes is not None and not (json_bytes.isdecimal() and len(json_bytes) < 20):
        return Refused(400, "Inference-Header-Content-Length is no number of bytes")
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > MOST_BODY_BYTES:
        return _too_large()
    data, whole = await _read(request, MOST_BODY_BYTES)
    if not whole:
        return _too_large()
    body = Body(data, encoding, None if json_bytes is None else int(json_bytes), accepts)
    found = answering.reply_to(body, site.service, site.name, SMALL_BODY_BYTES)
    if found is None:
        async with site.one_at_a_time:
            found = await run_in_threadpool(answering.reply_to, body, site.service, site.name, MOST_BODY_BYTES)
    return _json({"error": _TOO_LARGE}, 413) if found is None else Response(found.body, found.status, found.headers)


_TOO_LARGE = f"the body has more than {MOST_BODY_BYTES} bytes"


def _too_large() -> Response:
    return Refused(413, _TOO_LARGE)


async def _read(request: Request, most: int) -> tuple[bytes, bool]:
    """The body, and whether that is all of it; of a longer one not more than its beginning is read.

    Raises:
        DataError: the client left. Nobody reads the reply; nothing failed.
    """
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise DataError("the client left before its body was complete")
        body += message.get("body", b"")
        if len(body) > most:
            return bytes(body[:most]), False
        if not message.get("more_body"):
            return bytes(body), True


def _unknown(request: Request, site: ServedSite) -> Response | None:
    asked, version = request.path_params["model"], request.path_params.get("version")
    active = str(site.service.current.info.version)
    if asked != site.name:
        return _json({"error": f"there is no model {asked[:60]!r}, only {site.name!r}"}, 404)
    if version not in (None, active):
        return _json({"error": f"there is no version {version[:20]!r}, only {active!r}"}, 404)
    return None


def _json(document: Json | list[Json], status: int = 200) -> Response:
    return Response(json.dumps(document, allow_nan=False), status, media_type="application/json")
