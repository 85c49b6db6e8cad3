"""The Open Inference Protocol v2 over HTTP, with Prometheus metrics. Needs the extra `serve`.

Bad input gets 400 with a reason, an unknown model or version 404, a model that fails 500. Bodies are bounded before
they are read into memory as a whole.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from fedinfer.errors import DataError, FedInferError, MissingExtra, NoModel
from fedinfer.inference.predict.explain import explain, reference_row
from fedinfer.inference.serve.prometheus import CONTENT_TYPE, metrics_text
from fedinfer.inference.serve.protocol_v2 import ATTRIBUTIONS, InferRequest, model_metadata, read_request, reply
from fedinfer.inference.serve.service import Service
from fedinfer.types import Json

try:
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect
except ImportError as missing:
    raise MissingExtra("serving over HTTP needs fastapi and uvicorn", hint="pip install 'fedinfer[serve]'") from missing

MOST_BODY_BYTES = 8 * 2**20
"""A body of numbers takes about thirty times its size while it is read: this bound keeps that under 256 MiB."""
SMALL_BODY_BYTES = 64 * 2**10
"""Requests up to this size are answered in the event loop: handing them to a thread costs more than the prediction."""

NO_ANSWER = "the model has no valid answer for these rows: NaN, infinity or an error of its graph"
Handler = Callable[[Request], Awaitable[Response]]


def make_app(service: Service, name: str, server_version: str, repository_age: Callable[[], float | None]) -> FastAPI:
    """The web application of a device.

    Args:
        service: the model in use.
        name: under which the model is asked for.
        server_version: of this program.
        repository_age: seconds since the repository was last reached; None = never.
    """
    app = FastAPI(title="fedinfer device", version=server_version, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(NoModel, _no_model)
    for path, handler in _server_handlers(service, server_version, repository_age).items():
        app.add_route(path, handler, methods=["GET"])
    about, ready, infer = _model_handlers(service, name)
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        app.add_route(base, about, methods=["GET"])
        app.add_route(f"{base}/ready", ready, methods=["GET"])
        app.add_route(f"{base}/infer", infer, methods=["POST"])
    return app


async def _no_model(_: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 503)


def _server_handlers(
    service: Service, server_version: str, repository_age: Callable[[], float | None]
) -> dict[str, Handler]:
    """Path to handler of what concerns the whole server."""
    server = {"name": "fedinfer", "version": server_version, "extensions": []}

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        return _json({"ready": bool(service.version)}, 200 if service.version else 503)

    async def about(_: Request) -> Response:
        return _json(server)

    async def metrics(_: Request) -> Response:
        text = metrics_text(service.telemetry.figures(), service.version, repository_age())
        return Response(text, media_type=CONTENT_TYPE)

    return {"/v2/health/live": live, "/v2/health/ready": ready, "/v2": about, "/metrics": metrics}


def _model_handlers(service: Service, name: str) -> tuple[Handler, Handler, Handler]:
    """What concerns one model: its description, whether it is ready, and its predictions."""
    one_at_a_time = asyncio.Lock()  # for large requests

    async def about(request: Request) -> Response:
        current = service.current
        missing = _unknown(request, service, name)
        return missing or _json(model_metadata(name, current.info.version, current.manifest.schema))

    async def ready(request: Request) -> Response:
        missing = _unknown(request, service, name)
        return missing or _json({"name": name, "ready": True})

    async def infer(request: Request) -> Response:
        return _unknown(request, service, name) or await _infer(request, service, name, one_at_a_time)

    return about, ready, infer


def answer(body: bytes, service: Service, name: str) -> tuple[int, Json]:
    """Status and reply to the body of an infer request.

    Args:
        body: JSON of the client, at most MOST_BODY_BYTES; untrusted.
        service: the model in use.
        name: under which the model is asked for.

    Returns:
        HTTP status and the JSON document.
    """
    try:
        request = _read(body, service)
        return 200, _predict(request, service, name)
    except NoModel as error:
        return 503, {"error": str(error)}
    except DataError as error:
        return 400, {"error": f"{error} ({error.hint})" if error.hint else str(error)}
    except FedInferError:  # what ONNX Runtime says names parts of the graph, and counts as failed in the metrics
        return 500, {"error": NO_ANSWER}


def _read(body: bytes, service: Service) -> InferRequest:
    """The request; one that cannot be read is counted like a row that breaks the schema."""
    current = service.current
    try:
        return read_request(_parse(body), current.manifest.schema)
    except DataError as error:
        service.telemetry.failed(current.info.version, error)
        raise


def _predict(request: InferRequest, service: Service, name: str) -> Json:
    current, answers = service.predict(request.rows)
    explanations = None
    if ATTRIBUTIONS in request.outputs:
        matrix = current.predictor.reader.matrix(request.rows)
        explanations = explain(current.predictor, matrix, reference_row(current.manifest))
    return reply(request, name, current.info.version, answers, explanations)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is not JSON: {str(error)[:120]}") from error


async def _infer(request: Request, service: Service, name: str, one_at_a_time: asyncio.Lock) -> Response:
    if "inference-header-content-length" in request.headers:
        return _json({"error": "the binary data extension is not spoken here; send JSON"}, 400)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > MOST_BODY_BYTES:
        return _too_large()
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY_BYTES:
                return _too_large()
    except ClientDisconnect:
        return _json({"error": "the client left before its body was complete"}, 400)  # nobody reads it; nothing failed
    if len(body) <= SMALL_BODY_BYTES:
        status, document = answer(bytes(body), service, name)
    else:
        async with one_at_a_time:  # several large requests together would need that many times the memory
            status, document = await run_in_threadpool(answer, bytes(body), service, name)
    return _json(document, status)


def _too_large() -> Response:
    """The connection is closed, so that what is left of the body is not read."""
    refused = _json({"error": f"the body has more than {MOST_BODY_BYTES} bytes"}, 413)
    refused.headers["connection"] = "close"
    return refused


def _unknown(request: Request, service: Service, name: str) -> Response | None:
    asked, version = request.path_params["model"], request.path_params.get("version")
    active = str(service.current.info.version)
    if asked != name:
        return _json({"error": f"there is no model {asked[:60]!r}, only {name!r}"}, 404)
    if version not in (None, active):
        return _json({"error": f"there is no version {version[:20]!r}, only {active!r}"}, 404)
    return None


def _json(document: Json, status: int = 200) -> Response:
    return Response(json.dumps(document, allow_nan=False), status, media_type="application/json")
