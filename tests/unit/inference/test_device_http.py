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
from fedinfer.inference.serve import answering
from fedinfer.inference.serve import app as http
from fedinfer.inference.serve.answering import MOST_BODY_BYTES, SMALL_BODY_BYTES, answer
from fedinfer.inference.serve.app import make_app
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
    assert client.get("/v2").json() == {
        "name": "fedinfer",
        "version": "1.2.3",
        "extensions": [
            "binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics",
        ],
    }  # fmt: skip
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
    assert answer(b"{}", service, "triage")[0] in (400, 503)


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


def likeliest(name, count):
    return [{"name": name, "parameters": {"classification": count}}]


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
    "huge shape": ({"inputs": [tensor(shape=[10**30, 4])]}, "shape is not a list of 1 to 9 sizes"),
    "another width": ({"inputs": [tensor(shape=[2, 8])]}, "expected [rows, 4]"),
    "flat shape": ({"inputs": [tensor(shape=[16])]}, "expected [rows, 4]"),
    "texts in numbers": ({"inputs": [tensor(data=["x"] * 16)]}, "a finite number or null"),
    "too large a number": ({"inputs": [tensor(data=[10**400] * 16)]}, "a finite number or null"),
    "infinity": (json.dumps({"inputs": [tensor(data=[float("inf")] * 16)]}).encode(), "a finite number or null"),
    "beyond float32": ({"inputs": [tensor(data=[1e39] + [0.0] * 15)]}, "1e+39"),
    "category out of range": ({"inputs": [tensor(ROWS[:1], data=[1, 1, 9, 0])]}, "column ward: 9"),
    "mixed nesting": ({"inputs": [tensor(data=[[1], 2])]}, "mixes lists and values"),
    "nine levels": ({"inputs": [tensor(data=[[[[[[[[[1]]]]]]]]])]}, "deeper than 8"),
    "bytes as matrix": ({"inputs": [tensor(datatype="BYTES", data=["1"] * 16)]}, "expected a numeric one"),
    "unknown datatype": ({"inputs": [tensor(datatype=["x"])]}, "known are BOOL, FP16"),
    "numbers in BYTES": ({"inputs": [column("ward", datatype="BYTES", data=[7])]}, "BYTES: a text or null"),
    "beyond UINT8": ({"inputs": [column(datatype="UINT8", data=[300])]}, "a whole number from 0 to 255"),
    "below UINT8": ({"inputs": [column(datatype="UINT8", data=[-1])]}, "a whole number from 0 to 255"),
    "fraction in INT32": ({"inputs": [column(datatype="INT32", data=[30.7])]}, "INT32: a whole number"),
    "truth in FP32": ({"inputs": [column(data=[True])]}, "'True' of tensor 'age'"),
    "truth as number": ({"inputs": [column(datatype="BOOL", data=[True])]}, "numbers are no BOOL"),
    "number in BOOL": ({"inputs": [column(datatype="BOOL", data=[1])]}, "BOOL: true or false"),
    "truth as matrix": ({"inputs": [tensor(datatype="BOOL", data=[True] * 16)]}, "expected a numeric one"),
    "size of no binary data": ({"inputs": [tensor(parameters={"binary_data_size": 4})]}, "0 bytes are left"),
    "classes of a label": ({"inputs": [tensor()], "outputs": likeliest("label", 1)}, "how many classes"),
    "classes below 0": ({"inputs": [tensor()], "outputs": likeliest("probabilities", -1)}, "how many classes"),
    "word as flag": ({"inputs": [tensor()], "parameters": {"binary_data_output": "yes"}}, "expected true or false"),
    "list as parameters": ({"inputs": [tensor()], "outputs": [{"name": "label", "parameters": []}]}, "not an object"),
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
    running, most, true_answer = [], [], answering.answer

    def watched(*arguments):
        running.append(1)
        most.append(len(running))
        try:
            return true_answer(*arguments)
        finally:
            running.pop()

    monkeypatch.setattr(answering, "answer", watched)
    count = SMALL_BODY_BYTES // 8
    body = json.dumps({"inputs": [tensor(np.zeros((count, 4), np.float32))]})

    async def together():
        return await asyncio.gather(*(client._send("POST", f"{BASE}/infer", content=body) for _ in range(4)))

    assert [reply.status_code for reply in asyncio.run(together())] == [200] * 4
    assert most == [1] * 4


# --- what other clients of the protocol ask for ---


def binary(rows=ROWS, **more):
    """Headers and body of a request whose tensor is binary data."""
    data = rows.astype("<f4").tobytes()
    own = {
        "name": "input",
        "shape": list(rows.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    header = json.dumps({"inputs": [own], **more}).encode()
    return {"Inference-Header-Content-Length": str(len(header))}, header + data


def test_binary_data_in_and_out(client):
    headers, body = binary(parameters={"binary_data_output": True})
    found = client.post(f"{BASE}/infer", content=body, headers=headers)
    length = int(found.headers["inference-header-content-length"])
    document, tail = json.loads(found.content[:length]), found.content[length:]
    label, probabilities = document["outputs"]
    size = label["parameters"]["binary_data_size"]
    assert probabilities == {
        "name": "probabilities", "shape": [4, 3], "datatype": "FP32", "parameters": {"binary_data_size": 48}
    }  # fmt: skip
    numbers = np.frombuffer(tail[size:], "<f4").reshape(4, 3)
    expected = ask(client, {"inputs": [tensor()]}).json()["outputs"]
    np.testing.assert_allclose(numbers, np.reshape(expected[1]["data"], (4, 3)), atol=1e-6)
    first = expected[0]["data"][0].encode()
    assert tail[:size].startswith(len(first).to_bytes(4, "little") + first)


@pytest.mark.parametrize("length", ["x", "-1", "1" * 30, "99999"])
def test_a_wrong_length_of_the_json_is_400(client, length):
    found = client.post(f"{BASE}/infer", content=b"{}", headers={"Inference-Header-Content-Length": length})
    assert found.status_code == 400
    assert "Inference-Header-Content-Length" in found.json()["error"]


def test_the_likeliest_classes_as_triton_writes_them(client):
    (found,) = ask(client, {"inputs": [tensor()], "outputs": likeliest("probabilities", 2)}).json()["outputs"]
    assert (found["datatype"], found["shape"]) == ("BYTES", [4, 2])
    expected = softmax_of(make_model(seed=1), ROWS)
    for row, text in enumerate(found["data"][::2]):
        value, place, name = text.split(":")
        assert int(place) == expected[row].argmax()
        assert name == ("well", "ill", "unclear")[int(place)]
        assert float(value) == pytest.approx(expected[row].max(), abs=1e-5)


def test_gzip_in_and_out(client):
    import gzip

    rows = np.tile(ROWS, (50, 1))
    plain = ask(client, {"inputs": [tensor(rows)]})
    sent = gzip.compress(json.dumps({"inputs": [tensor(rows)]}).encode())
    found = client.post(f"{BASE}/infer", content=sent, headers={"Content-Encoding": "gzip", "Accept-Encoding": "gzip"})
    assert (found.headers["content-encoding"], found.headers["vary"]) == ("gzip", "accept-encoding")
    assert int(found.headers["content-length"]) < len(plain.content) / 2
    assert found.json() == plain.json()
    short = ask(client, {"inputs": [tensor(ROWS[:1])]})
    assert "content-encoding" not in short.headers
    assert client.post(f"{BASE}/infer", content=b"x", headers={"Content-Encoding": "gzip"}).status_code == 400
    assert client.post(f"{BASE}/infer", content=b"x", headers={"Content-Encoding": "br"}).status_code == 415


def test_what_expands_beyond_the_bound_is_413(client):
    import gzip

    bomb = gzip.compress(b" " * (MOST_BODY_BYTES + 1))
    assert len(bomb) < SMALL_BODY_BYTES
    found = client.post(f"{BASE}/infer", content=bomb, headers={"Content-Encoding": "gzip"})
    assert found.status_code == 413
    assert str(MOST_BODY_BYTES) in found.json()["error"]


def test_configuration_index_and_statistics(client):
    config = client.get(f"{BASE}/config").json()
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [4]}]
    assert [output["data_type"] for output in config["output"]] == ["TYPE_STRING", "TYPE_FP32"]
    ready = [{"name": "triage", "version": "1", "state": "READY", "reason": ""}]
    for body in (b"", b'{"ready": true}', b"{}"):
        assert client.post("/v2/repository/index", content=body).json() == ready
    assert client.post("/v2/repository/index", content=b"[]").status_code == 400
    ask(client, {"inputs": [tensor()]})
    ask(client, {"inputs": []})
    for path in ("/v2/models/stats", f"{BASE}/stats", f"{BASE}/versions/1/stats"):
        (found,) = client.get(path).json()["model_stats"]
        assert (found["inference_count"], found["execution_count"]) == (4, 1)
        counts = {kind: calls["count"] for kind, calls in found["inference_stats"].items()}
        assert counts == {
            "success": 1, "fail": 1, "queue": 0, "compute_input": 1, "compute_infer": 1, "compute_output": 1,
            "cache_hit": 0, "cache_miss": 0,
        }  # fmt: skip
        parts = found["inference_stats"]
        inside = sum(parts[kind]["ns"] for kind in ("compute_input", "compute_infer", "compute_output"))
        assert 0 < inside <= parts["success"]["ns"] + 3
        assert found["last_inference"] > 1.7e12


def test_the_index_of_a_withdrawn_model(folder):
    service = Service(Slots(folder / "slots"), SessionCache(2), SystemClock(), Telemetry(), most_failures=99)
    client = Client(make_app(service, "triage", "1.2.3", lambda: 7.0))
    Slots(folder / "slots").withdraw(1)
    service.reload()
    assert [found["state"] for found in client.post("/v2/repository/index").json()] == ["UNAVAILABLE"]
    assert client.post("/v2/repository/index", content=b'{"ready": true}').json() == []


def test_unknown_categories_are_answered_counted_and_shown(client):
    columns = [
        column("age", (3,), "UINT8", (50, 51, 52)),
        column("pressure", (3,), "FP32", (100, 100, 100)),
        column("ward", (3,), "BYTES", ("west", "7", "east")),
        column("smoker", (3,), "BYTES", ("yes", None, "no")),
    ]
    found = ask(client, {"inputs": columns}).json()
    assert found["parameters"] == {"unknown_categories": 2, "unknown_categories.ward": 2}
    text = client.get("/metrics").text
    assert 'fedinfer_unknown_categories_total{version="1",column="ward"} 2' in text
    assert "parameters" not in ask(client, {"inputs": [tensor()]}).json()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v3", 404),
        ("GET", f"{BASE}/infer", 405),
        ("POST", "/metrics", 405),
        ("GET", f"{BASE}/trace/setting", 404),
    ],
)
def test_one_shape_for_every_error(client, method, path, status):
    found = client.get(path) if method == "GET" else client.post(path)
    assert found.status_code == status
    assert list(found.json()) == ["error"]


def test_an_error_of_the_program_has_the_same_shape(client, monkeypatch):
    monkeypatch.setattr(http, "model_config", lambda *_: 1 / 0)

    async def quiet():
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://device") as asking:
            return await asking.get(f"{BASE}/config")

    found = asyncio.run(quiet())
    assert (found.status_code, list(found.json())) == (500, ["error"])
