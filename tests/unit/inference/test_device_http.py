"""The Open Inference Protocol v2: replies any v2 client understands, and a reason for everything it refuses."""

from __future__ import annotations

import asyncio
import builtins
import importlib
import json
import sys

import httpx
import numpy as np
import pytest

from fedinfer.errors import MissingExtra
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.explain import explain, reference_row
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.serve import app as http
from fedinfer.inference.serve.app import MOST_BODY_BYTES, make_app
from fedinfer.inference.serve.service import Service
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.system import SystemClock
from tests.unit.inference.device_world import (
    NOW,
    Repository,
    make_manifest,
    make_model,
    make_rows,
    make_updater,
    softmax_of,
)

ROWS = make_rows(count=4, seed=4)
BASE = "/v2/models/triage"


class Client:
    """Requests to the application in this process, without a socket."""

    def __init__(self, app):
        self.app = app

    def get(self, path):
        return asyncio.run(self._send("GET", path))

    def post(self, path, **more):
        return asyncio.run(self._send("POST", path, **more))

    async def _send(self, method, path, **more):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://device") as client:
            return await client.request(method, path, **more)


@pytest.fixture
def folder(tmp_path):
    repository = Repository()
    repository.publish(1)
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    return tmp_path


@pytest.fixture
def client(folder):
    service = Service(Slots(folder / "slots"), SessionCache(2), SystemClock(), Telemetry(), most_failures=99)
    return Client(make_app(service, "triage", "1.2.3", lambda: 7.0))


def values(rows):
    return [None if np.isnan(v) else float(v) for v in rows.ravel()]


def tensor(rows=ROWS, **changes):
    return {"name": "input", "shape": list(rows.shape), "datatype": "FP32", "data": values(rows), **changes}


def ask(client, body, path=f"{BASE}/infer"):
    return client.post(path, content=body if isinstance(body, bytes) else json.dumps(body))


def test_health_and_metadata(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json() == {"name": "fedinfer", "version": "1.2.3", "extensions": []}
    assert client.get(f"{BASE}/ready").json() == {"name": "triage", "ready": True}
    for path in (BASE, f"{BASE}/versions/1"):
        document = client.get(path).json()
        assert (document["name"], document["versions"]) == ("triage", ["1"])
        assert document["inputs"][0]["shape"] == [-1, 4]
        assert document["inputs"][0]["parameters"]["columns"] == ["age", "pressure", "ward", "smoker"]
        assert [output["name"] for output in document["outputs"]] == ["label", "probabilities"]


def test_a_withdrawn_model_is_503_everywhere_but_the_process_lives(folder):
    service = Service(Slots(folder / "slots"), SessionCache(2), SystemClock(), Telemetry(), most_failures=99)
    client = Client(make_app(service, "triage", "1.2.3", lambda: 7.0))
    Slots(folder / "slots").withdraw(1)
    assert service.reload()
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/metrics").status_code == 200
    for path in ("/v2/health/ready", f"{BASE}/ready", BASE):
        assert client.get(path).status_code == 503, path
    reply = ask(client, {"inputs": [tensor()]})
    assert reply.status_code == 503
    assert "withdrawn" in reply.json()["error"]
    assert http.answer(b"{}", service, "triage")[0] in (400, 503)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("path", [f"{BASE}/infer", f"{BASE}/versions/1/infer"])
def test_infer_with_one_tensor(client, nested, path):
    data = [values(row) for row in ROWS] if nested else values(ROWS)
    found = ask(client, {"id": "42", "inputs": [tensor(data=data)]}, path)
    assert found.status_code == 200
    document = found.json()
    assert (document["model_name"], document["model_version"], document["id"]) == ("triage", "1", "42")
    label, probabilities = document["outputs"]
    expected = softmax_of(make_model(seed=1), ROWS)
    assert (label["datatype"], label["shape"]) == ("BYTES", [4])
    assert label["data"] == [("well", "ill", "unclear")[k] for k in expected.argmax(1)]
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [4, 3])
    np.testing.assert_allclose(np.reshape(probabilities["data"], (4, 3)), expected, atol=1e-5)


def test_infer_with_one_tensor_per_column(client):
    columns = [
        {"name": "age", "shape": [2], "datatype": "INT64", "data": [50, None]},
        {"name": "pressure", "shape": [2, 1], "datatype": "FP64", "data": [[120.5], [90]]},
        {"name": "ward", "shape": [2], "datatype": "BYTES", "data": ["7", "unseen"]},
        {"name": "smoker", "shape": [2], "datatype": "BYTES", "data": ["yes", "no"]},
    ]
    document = ask(client, {"inputs": columns, "outputs": [{"name": "probabilities"}]}).json()
    assert "id" not in document
    assert [output["name"] for output in document["outputs"]] == ["probabilities"]
    rows = np.array([[50, 120.5, 2, 1], [np.nan, 90, np.nan, 0]], np.float32)
    found = np.reshape(document["outputs"][0]["data"], (2, 3))
    np.testing.assert_allclose(found, softmax_of(make_model(seed=1), rows), atol=1e-5)


def test_infer_with_reasons(client, folder):
    document = ask(client, {"inputs": [tensor()], "parameters": {"explain": True}}).json()
    names = [output["name"] for output in document["outputs"]]
    assert names == ["label", "probabilities", "attributions"]
    manifest = make_manifest(1, {"float": make_model(seed=1)})
    from fedinfer.inference import Predictor

    predictor = Predictor.open(make_model(seed=1), manifest.schema)
    expected = explain(predictor, ROWS, reference_row(manifest)).attributions
    np.testing.assert_allclose(np.reshape(document["outputs"][2]["data"], (4, 4)), expected, atol=1e-5)


def test_large_batch_goes_through_a_thread(client):
    rows = np.tile(ROWS, (1000, 1))
    document = ask(client, {"inputs": [tensor(rows)]}).json()
    assert document["outputs"][1]["shape"] == [4000, 3]


def column(name="age", shape=(1,), datatype="FP32", data=(1,)):
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": list(data)}


BAD = {
    "no JSON": (b"{", "not JSON"),
    "no UTF-8": (b"\xff\xfe\x00", "not JSON"),
    "empty": (b"", "not JSON"),
    "deep nesting": (b"[" * 100_000, "not JSON"),
    "a list": ([], "not a JSON object"),
    "no inputs": ({}, '"inputs" is not'),
    "empty inputs": ({"inputs": []}, '"inputs" is not'),
    "inputs of texts": ({"inputs": ["x"]}, '"inputs" is not'),
    "number as id": ({"id": 7, "inputs": [tensor()]}, '"id" is not a text'),
    "text as parameters": ({"parameters": "x", "inputs": [tensor()]}, '"parameters"'),
    "no shape": ({"inputs": [tensor(shape=None)]}, "shape is not a list"),
    "truth as size": ({"inputs": [tensor(shape=[True, 4])]}, "shape is not a list"),
    "negative size": ({"inputs": [tensor(shape=[-4, -4])]}, "shape is not a list"),
    "no data": ({"inputs": [tensor(data=None)]}, "data is not a list"),
    "too few values": ({"inputs": [tensor(data=[1.0])]}, "1 values for shape [4, 4]"),
    "huge shape": ({"inputs": [tensor(shape=[10**30, 4])]}, "16 values for shape"),
    "another width": ({"inputs": [tensor(shape=[2, 8])]}, "expected [rows, 4]"),
    "flat shape": ({"inputs": [tensor(shape=[16])]}, "expected [rows, 4]"),
    "texts in numbers": ({"inputs": [tensor(data=["x"] * 16)]}, "a finite number or null"),
    "too large a number": ({"inputs": [tensor(data=[10**400] * 16)]}, "a finite number or null"),
    "infinity": (json.dumps({"inputs": [tensor(data=[float("inf")] * 16)]}).encode(), "a finite number or null"),
    "beyond float32": ({"inputs": [tensor(data=[1e39] + [0.0] * 15)]}, "row 0, column age: inf"),
    "category out of range": ({"inputs": [tensor(ROWS[:1], data=[1, 1, 9, 0])]}, "column ward: 9"),
    "mixed nesting": ({"inputs": [tensor(data=[[1], 2])]}, "mixes lists and values"),
    "nine levels": ({"inputs": [tensor(data=[[[[[[[[[1]]]]]]]]])]}, "deeper than 8"),
    "bytes as matrix": ({"inputs": [tensor(datatype="BYTES")]}, "expected a numeric one"),
    "unknown datatype": ({"inputs": [tensor(datatype=["x"])]}, "expected a numeric one"),
    "column is missing": ({"inputs": [column()]}, "column pressure is absent"),
    "column twice": ({"inputs": [column(), column()]}, "stands twice"),
    "name is no text": ({"inputs": [column(name=3)]}, "is no text"),
    "columns of two lengths": ({"inputs": [column(), column("ward", (2,), "BYTES", "ab")]}, "different numbers"),
    "category as number": ({"inputs": [column("ward")]}, "categories and texts are BYTES"),
    "column as matrix": ({"inputs": [column(shape=(1, 2), data=(1, 2))]}, "expected [rows] or [rows, 1]"),
    "unknown output": ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, "logits"),
    "outputs of texts": ({"inputs": [tensor()], "outputs": ["label"]}, '"outputs" is not'),
    "output twice": ({"inputs": [tensor()], "outputs": [{"name": "label"}] * 2}, "stand twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_400_with_a_reason(client, name):
    body, reason = BAD[name]
    found = ask(client, body)
    assert found.status_code == 400
    assert reason in found.json()["error"]


def test_binary_extension_is_refused_by_name(client):
    found = client.post(f"{BASE}/infer", content=b"{}", headers={"Inference-Header-Content-Length": "2"})
    assert found.status_code == 400
    assert "binary" in found.json()["error"]


def test_unknown_model_and_version(client):
    assert ask(client, {"inputs": [tensor()]}, "/v2/models/other/infer").status_code == 404
    assert ask(client, {"inputs": [tensor()]}, f"{BASE}/versions/2/infer").status_code == 404
    assert client.get("/v2/models/other").status_code == 404
    assert "only 'triage'" in client.get("/v2/models/other/ready").json()["error"]


def test_oversized_body_is_refused(client):
    found = ask(client, b" " * (MOST_BODY_BYTES + 1))
    assert found.status_code == 413
    assert str(MOST_BODY_BYTES) in found.json()["error"]


def test_failing_model_is_500_with_a_reason(folder):
    slots = Slots(folder / "slots")
    manifest = make_manifest(2, {"float": make_model(seed=2)})
    files = {"model.onnx": make_model(seed=2, body="nan"), "manifest.json": manifest.to_bytes()}
    slots.swap(slots.stage(2, "float", files))
    service = Service(slots, SessionCache(2), SystemClock(), Telemetry(), most_failures=2)
    client = Client(make_app(service, "triage", "1", lambda: None))
    first, second, third = (ask(client, {"inputs": [tensor()]}) for _ in range(3))
    assert (first.status_code, second.status_code, third.status_code) == (500, 500, 200)
    assert "NaN" in first.json()["error"]
    assert third.json()["model_version"] == "1"


def test_metrics_count_what_happened(client):
    ask(client, {"inputs": [tensor()]})
    ask(client, {"inputs": [tensor(data=[1e39] + [0.0] * 15)]})
    found = client.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'fedinfer_prediction_seconds_count{version="1"} 4' in found.text
    assert 'fedinfer_errors_total{version="1",error="DataError"} 1' in found.text
    assert "fedinfer_repository_age_seconds 7.000" in found.text


def test_without_the_extra_the_error_names_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("fastapi"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "fedinfer.inference.serve.app")
    with pytest.raises(MissingExtra, match="fastapi") as caught:
        importlib.import_module("fedinfer.inference.serve.app")
    assert caught.value.hint == "pip install 'fedinfer[serve]'"
    monkeypatch.undo()
    assert sys.modules["fedinfer.inference.serve.app"] is http


def test_a_request_that_cannot_be_read_is_counted(folder):
    telemetry = Telemetry()
    service = Service(Slots(folder / "slots"), SessionCache(2), SystemClock(), telemetry, most_failures=99)
    client = Client(make_app(service, "triage", "1.2.3", lambda: 7.0))
    for body in (b"not JSON", {"inputs": []}, {"inputs": [tensor(shape=[1, 1])]}):
        assert ask(client, body).status_code == 400
    assert telemetry.figures()[0].errors == {"DataError": 3}
    assert 'fedinfer_errors_total{version="1",error="DataError"} 3' in client.get("/metrics").text


def test_a_client_that_leaves_is_no_error_of_the_server(client):
    """Half a body, then gone: starlette raises inside the handler, which would fill the log with tracebacks."""
    events = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent = []

    async def receive():
        return next(events)

    async def send(message):
        sent.append(message)

    path = f"{BASE}/infer"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": [],
             "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1"}  # fmt: skip
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 400


def test_large_requests_wait_for_each_other(client, monkeypatch):
    running, most, true_answer = [], [], http.answer

    def watched(*arguments):
        running.append(1)
        most.append(len(running))
        try:
            return true_answer(*arguments)
        finally:
            running.pop()

    monkeypatch.setattr(http, "answer", watched)
    count = http.SMALL_BODY_BYTES // 8
    body = json.dumps({"inputs": [tensor(np.zeros((count, 4), np.float32))]})

    async def together():
        return await asyncio.gather(*(client._send("POST", f"{BASE}/infer", content=body) for _ in range(4)))

    assert [reply.status_code for reply in asyncio.run(together())] == [200] * 4
    assert most == [1] * 4
