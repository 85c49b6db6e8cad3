"""A served device through the clients that people have: Triton's own, `requests`-like ones, and Prometheus' checker."""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import subprocess
import threading
from contextlib import closing, contextmanager

import numpy as np
import pytest
import tritonclient.http

from fedinfer.inference import (
    Service,
    ServiceLimits,
    SessionCache,
    Slots,
    SocketServer,
    Telemetry,
    access_of,
    bind,
    log_exchange,
    make_app,
)
from fedinfer.system import SystemClock
from tests.unit.inference.device_world import NOW, Repository, make_model, make_rows, make_updater, softmax_of

PATIENCE = 20.0
ROWS = make_rows(count=4, seed=4)
EXPECTED = softmax_of(make_model(seed=1), ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    repository, folder = Repository(), tmp_path_factory.mktemp("device")
    repository.publish(1)
    make_updater(folder, repository).install(repository.fetch, NOW)
    return folder


@contextmanager
def served(folder, note=None, **limits):
    """Port and telemetry of a server on a socket."""
    telemetry = Telemetry()
    service = Service(Slots(folder / "slots"), SessionCache(2), SystemClock(), telemetry, most_failures=99)
    app, listening = make_app(service, "triage", "1.2.3", lambda: 7.0), bind("127.0.0.1", 0)
    note = note or (lambda exchange: telemetry.replied(exchange.status))
    access, limits = access_of("127.0.0.1", (), b""), ServiceLimits(**limits)
    server = SocketServer(app, listening, access, SystemClock(), limits, note=note)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()


@pytest.fixture(scope="module")
def port(folder):
    with served(folder) as port:
        yield port


@pytest.fixture
def triton(port):
    with closing(tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")) as connected:
        yield tritonclient.http, connected


def whole(triton, rows=ROWS, **more):
    tensor = triton[0].InferInput("input", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, **more)
    return [tensor]


def test_tritonclient_asks_as_it_does_by_default(triton):
    found = triton[1].infer("triage", whole(triton), request_id="7")
    np.testing.assert_allclose(found.as_numpy("probabilities"), EXPECTED, atol=1e-5)
    assert found.as_numpy("label").tolist() == [("well", "ill", "unclear")[k].encode() for k in EXPECTED.argmax(1)]
    assert (found.get_response()["id"], found.get_response()["model_version"]) == ("7", "1")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_tritonclient_in_every_encoding(triton, binary, encoding):
    rows = np.tile(ROWS, (30, 1))
    client, connected = triton
    outputs = [client.InferRequestedOutput("probabilities", binary_data=binary)]
    found = connected.infer(
        "triage",
        whole(triton, rows, binary_data=True),
        outputs=outputs,
        request_compression_algorithm=encoding,
        response_compression_algorithm=encoding,
    )
    np.testing.assert_allclose(found.as_numpy("probabilities"), np.tile(EXPECTED, (30, 1)), atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_sends_one_tensor_per_column(triton, binary):
    client, connected = triton
    columns = {
        "age": np.array([50, 60], np.uint8),
        "pressure": np.array([120.5, 90], np.float64),
        "ward": np.array(["7", "unseen"], object),
        "smoker": np.array(["yes", "no"], object),
    }
    inputs = []
    for name, values in columns.items():
        datatype = {"uint8": "UINT8", "float64": "FP64", "object": "BYTES"}[str(values.dtype)]
        inputs.append(client.InferInput(name, [2], datatype))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    found = connected.infer("triage", inputs)
    rows = np.array([[50, 120.5, 2, 1], [60, 90, np.nan, 0]], np.float32)
    np.testing.assert_allclose(found.as_numpy("probabilities"), softmax_of(make_model(seed=1), rows), atol=1e-5)
    assert found.get_response()["parameters"] == {"unknown_categories": 1, "unknown_categories.ward": 1}


def test_tritonclient_asks_for_the_likeliest_classes(triton):
    client, connected = triton
    outputs = [client.InferRequestedOutput("probabilities", class_count=1)]
    found = connected.infer("triage", whole(triton), outputs=outputs).as_numpy("probabilities")
    assert [int(text.split(b":")[1]) for text in found[:, 0]] == EXPECTED.argmax(1).tolist()


def test_tritonclient_reads_what_the_server_says_about_itself(triton):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("triage", "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("triage")["inputs"][0]["shape"] == [-1, 4]
    assert client.get_model_config("triage")["max_batch_size"] > 1
    assert [found["state"] for found in client.get_model_repository_index()] == ["READY"]
    client.infer("triage", whole(triton))
    (found,) = client.get_inference_statistics()["model_stats"]
    assert found["inference_stats"]["success"]["count"] >= 1


def test_tritonclient_reads_the_reason_of_an_error(triton):
    client, connected = triton
    for ask, reason in (
        (lambda: connected.infer("triage", whole(triton, ROWS[:, :2])), "expected .rows, 4."),
        (lambda: connected.infer("other", whole(triton)), "there is no model 'other'"),
        (lambda: connected.load_model("triage"), "there is no such path"),
        (lambda: connected.get_cuda_shared_memory_status(), "there is no such path"),
    ):
        with pytest.raises(client.InferenceServerException, match=reason):
            ask()


# --- large bodies ---


def post(port, body, headers=None, path="/v2/models/triage/infer"):
    """Status and document, as a client that sends its whole body before it reads."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as to:
        to.request("POST", path, body, headers or {})
        with to.getresponse() as reply:
            return reply.status, json.loads(reply.read())


@pytest.mark.parametrize("length", [True, False])
def test_a_body_of_20_megabytes_is_413_and_no_reset(port, length):
    data = b" " * 20 * 2**20
    body = data if length else (data[start : start + 2**20] for start in range(0, len(data), 2**20))
    status, document = post(port, body)
    assert status == 413
    assert "8388608" in document["error"]


def test_what_the_guard_refuses_is_read_by_a_client_that_still_sends(folder):
    with served(folder) as port:
        status, document = post(port, b" " * 4 * 2**20, {"Host": "elsewhere.example"})
    assert (status, list(document)) == (421, ["error"])


def test_what_is_no_http_gets_the_same_shape(port):
    import socket

    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        found = client.recv(1000)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert list(json.loads(found.partition(b"\r\n\r\n")[2])) == ["error"]


# --- what the owner sees ---


def test_replies_are_counted_by_status_and_prometheus_takes_the_page(folder):
    with served(folder) as port:
        post(port, b"{}")
        post(port, b"{}", {"Host": "elsewhere.example"})
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as to:
            to.request("GET", "/v2")
            to.getresponse().read()
            to.request("GET", "/metrics")
            text = to.getresponse().read().decode()
    for status in (200, 400, 421):
        assert f'fedinfer_requests_total{{status="{status}"}} 1\n' in text
    promtool = shutil.which("promtool")
    if promtool is not None:
        subprocess.run([promtool, "check", "metrics"], input=text.encode(), check=True)


def test_the_access_log_has_a_line_per_request_and_nothing_of_its_content(folder, caplog):
    with caplog.at_level(logging.INFO, "fedinfer.inference.serve.guard"), served(folder, log_exchange) as port:
        post(port, b'{"id": "secret"}', {"Authorization": "Bearer secret"}, "/v2/models/triage/infer?secret")
        post(port, b"", path="/v2/%1b%5b2J")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rsplit(" ", 2)[0] for line in lines] == [
        "127.0.0.1 POST /v2/models/triage/infer 400",
        "127.0.0.1 POST /v2/ [2J 404",
    ]
