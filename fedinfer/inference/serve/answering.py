"""From the body of an infer request to the body of its reply: plain functions, no web framework, no sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedinfer.errors import DataError, FedInferError, NoModel
from fedinfer.inference.predict.explain import explain, reference_row
from fedinfer.inference.predict.rows import RowReader
from fedinfer.inference.serve.encodings import packed, unpacked
from fedinfer.inference.serve.protocol_v2 import Columns, InferRequest, read_request, reply
from fedinfer.inference.serve.service import Service
from fedinfer.types import Json

MOST_BODY_BYTES = 8 * 2**20
"""A body of numbers takes about thirty times its size while it is read: this bound keeps that under 256 MiB."""
SMALL_BODY_BYTES = 64 * 2**10
"""Requests up to this size are answered in the event loop: handing them to a thread costs more than the prediction."""
_LEAST_PACKED_BYTES = 1024
"""Shorter replies are not compressed: it saves no packet."""
NO_ANSWER = "the model has no valid answer for these rows: NaN, infinity or an error of its graph"


@dataclass(frozen=True, slots=True)
class Body:
    """A request as it came.

    Args:
        data: untrusted.
        encoding: for which `encodings.is_known` holds.
        json_bytes: how many of its bytes, as it is expanded, are JSON; None: all of them.
        accepts: of `encodings.accepted`.
    """

    data: bytes
    encoding: str = ""
    json_bytes: int | None = None
    accepts: str = ""


@dataclass(frozen=True, slots=True)
class Packed:
    """A reply as it is sent.

    Args:
        status: of HTTP.
        headers: of HTTP.
        body: in the encoding that the headers name.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class HttpAnswer(NamedTuple):
    """A reply before it is written.

    Args:
        status: of HTTP.
        document: its JSON.
        binary: what stands behind that.
    """

    status: int
    document: Json
    binary: bytes = b""


def reply_to(body: Body, service: Service, name: str, most: int) -> Packed | None:
    """The reply to a request; None when the body is longer than `most`, as it came or expanded.

    Args:
        body: of the client.
        service: the model in use.
        name: under which the model is asked for.
        most: bytes.
    """
    try:
        plain = unpacked(body.data, body.encoding, most)
    except DataError as error:
        return _written(HttpAnswer(400, {"error": error_of(error)}), body.accepts)
    return None if plain is None else _written(answer(plain, service, name, body.json_bytes), body.accepts)


def answer(body: bytes, service: Service, name: str, json_bytes: int | None = None) -> HttpAnswer:
    """Status and reply to the body of an infer request.

    Args:
        body: of the client, at most MOST_BODY_BYTES; untrusted.
        service: the model in use.
        name: under which the model is asked for.
        json_bytes: how many of its bytes are JSON; None: all of them.
    """
    begin, version = service.clock.seconds(), service.version
    try:
        return _answered(body, service, name, json_bytes, begin)
    except NoModel as error:
        return HttpAnswer(503, {"error": str(error)})
    except DataError as error:
        refused = HttpAnswer(400, {"error": error_of(error)})
    except FedInferError:  # what ONNX Runtime says names parts of the graph, and counts as failed in the metrics
        refused = HttpAnswer(500, {"error": NO_ANSWER})
    now = service.clock.seconds()
    service.telemetry.called(version, {"fail": now - begin}, now, {})
    return refused


def error_of(error: DataError) -> str:
    """What a client reads about its request.

    Args:
        error: of reading it.
    """
    return f"{error} ({error.hint})" if error.hint else str(error)


def only_ready(body: bytes) -> bool:
    """What a request for the index of the repository says in "ready"; an empty body says nothing.

    Args:
        body: untrusted.

    Raises:
        DataError: it is no JSON object.
    """
    document = _parse(body) if body else {}
    if not isinstance(document, Mapping):
        raise DataError("the body is not a JSON object")
    return document.get("ready") is True


def read_labels(body: bytes) -> tuple[str, list[object]]:
    """The id of a request, and the labels of its rows.

    Args:
        body: JSON with "id" and "labels"; untrusted.

    Raises:
        DataError: names the field.
    """
    document = _parse(body)
    if not isinstance(document, Mapping):
        raise DataError("the body is not a JSON object")
    request, labels = document.get("id"), document.get("labels")
    if not isinstance(request, str) or not request:
        raise DataError('"id" is not the id of a request')
    if not isinstance(labels, list) or not labels:
        raise DataError('"labels" is not a list of labels, one for each row of the request')
    return request, labels


def _answered(body: bytes, service: Service, name: str, json_bytes: int | None, begin: float) -> HttpAnswer:
    seconds = service.clock.seconds
    request = _read(body, service, json_bytes)
    read = seconds()
    current, answers = service.predict(request.rows, request.id)
    inferred = seconds()
    explanations, reader = None, current.predictor.reader
    if request.explains:
        matrix = reader.matrix(request.rows)
        explanations = explain(current.predictor, matrix, reference_row(current.manifest))
    unknown = _unknown(reader, request)
    version = current.info.version
    document, binary = reply(request, name, version, answers, explanations, unknown)
    end = seconds()
    parts = {"compute_input": read - begin, "compute_infer": inferred - read, "compute_output": end - inferred}
    service.telemetry.called(version, {"success": end - begin, **parts}, end, unknown)
    return HttpAnswer(200, document, binary)


def _unknown(reader: Any, request: InferRequest) -> dict[str, int]:
    """Texts of a request that are no category, by column."""
    if not isinstance(reader, RowReader) or not isinstance(request.rows, Columns):
        return {}
    return {column: count for column, (_, count) in reader.unknown_categories(request.rows.by_name).items()}


def _read(body: bytes, service: Service, json_bytes: int | None) -> InferRequest:
    """The request; one that cannot be read is counted like a row that breaks the schema."""
    current = service.current
    try:
        if json_bytes is not None and json_bytes > len(body):
            raise DataError(f"the body has {len(body)} bytes, Inference-Header-Content-Length says {json_bytes}")
        document = _parse(body if json_bytes is None else body[:json_bytes])
        return read_request(document, current.manifest.schema, b"" if json_bytes is None else body[json_bytes:])
    except DataError as error:
        service.telemetry.failed(current.info.version, error)
        raise


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is not JSON: {str(error)[:120]}") from error


def _written(found: HttpAnswer, accepts: str) -> Packed:
    body, headers = json.dumps(found.document, allow_nan=False).encode(), {"content-type": "application/json"}
    if found.binary:
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(body))}
        body += found.binary
    if accepts and len(body) >= _LEAST_PACKED_BYTES:
        body = packed(body, accepts)
        headers |= {"content-encoding": accepts, "vary": "accept-encoding"}
    return Packed(found.status, headers, body)
