"""`fedinfer device`: install from a folder, status, predict, roll back, serve; JSON alone on stdout."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer import inference
from fedinfer.cli import serving
from fedinfer.cli.device import app
from fedinfer.errors import ArtifactRejected, ConfigError, TransportError
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.install.tuf_channel import folder_fetch
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.serve.service import Service
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.system import SystemClock
from tests.unit.inference.device_world import SCHEMA, Repository, make_model, softmax_of

runner = CliRunner()
CSV = "age,pressure,ward,smoker,outcome\n41,120.5,7,no,ill\n,90,south,yes,well\n"
MATRIX = np.array([[41, 120.5, 2, 0], [np.nan, 90, 1, 1]], np.float32)


def run(*arguments, code=0, text=None):
    result = runner.invoke(app, [str(argument) for argument in arguments], input=text)
    assert result.exit_code == code, result.output + result.stderr
    return result


def said(result):
    """What went to standard error, without the line breaks of the console."""
    return " ".join(result.stderr.split())


class Shop:
    """A repository on disk that is valid today, and a device store beside it."""

    def __init__(self, folder):
        self.repository, self.folder, self.store = Repository(), folder, folder / "device"
        for role in (
            self.repository.targets,
            self.repository.snapshot,
            self.repository.timestamp,
            self.repository.root,
        ):
            role.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        root = self.repository.sign(self.repository.root, self.repository.keys["root"][:2])
        self.repository.files["metadata/1.root.json"] = root
        (folder / "root.json").write_bytes(root)

    def publish(self, version):
        self.repository.publish(version)
        for path, data in self.repository.files.items():
            file = self.folder / "repository" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    def install(self, *more, code=0):
        where = ("--store", self.store, "--repository", self.folder / "repository", "--root", self.folder / "root.json")
        return run("install", *where, *more, code=code)


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    made.publish(1)
    return made


def test_install_status_rollback(shop):
    assert "version 1 (float) is active" in shop.install().stdout
    assert "was active already" in shop.install().stdout
    shop.publish(2)
    assert json.loads(shop.install("--json").stdout)["previous_version"] == 1
    status = json.loads(run("status", "--store", shop.store, "--json").stdout)
    assert (status["version"], status["previous_version"], status["task"], status["epsilon"]) == (2, 1, "triage", "1.0")
    assert status["warning"] == ""
    assert status["seconds_since_refresh"] < 600
    assert json.loads(run("rollback", "--store", shop.store, "--json").stdout)["version"] == 1
    assert "withdrawn versions           [2]" in run("status", "--store", shop.store).stdout
    assert "version 2 was rolled back" in said(shop.install(code=5))
    assert "no previous version" in said(run("rollback", "--store", shop.store, code=5))


def test_status_and_predict_of_a_withdrawn_model(shop):
    shop.install()
    Slots(Path(shop.store) / "slots").withdraw(1)
    status = json.loads(run("status", "--store", shop.store, "--json").stdout)
    assert status["version"] is None
    assert status["withdrawn_versions"] == [1]
    assert "withdrawn: this device has no model" in run("status", "--store", shop.store).stdout
    assert "version 1 was withdrawn" in said(run("predict", "--store", shop.store, "/dev/null", code=5))


def test_status_measures_on_request(shop):
    shop.install("--measure", "float")
    status = json.loads(run("status", "--store", shop.store, "--measure", "--watts", "5", "--json").stdout)
    assert status["latency_us"] > 0
    assert status["energy_source"] in ("measured", "estimated")
    assert status["joules_per_prediction"] > 0


def test_predicting_imports_nothing_that_trains_updates_or_serves(shop, tmp_path):
    shop.install()
    (tmp_path / "rows.csv").write_text(CSV)
    watched = ("torch", "scipy", "onnx", "pydantic", "flwr", "tuf", "fastapi", "pandas", "fedinfer.deployment.agent")
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([n for n in {watched!r} if n in sys.modules], file=sys.stderr))\n"
        "from fedinfer.cli.main import main; main()"
    )
    words = ["device", "predict", "--store", str(shop.store), str(tmp_path / "rows.csv")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert len(done.stdout.splitlines()) == 3


def test_predict_writes_label_and_confidence(shop, tmp_path):
    shop.install()
    (tmp_path / "rows.csv").write_text(CSV)
    expected = softmax_of(make_model(seed=1), MATRIX)
    lines = list(csv.DictReader(io.StringIO(run("predict", "--store", shop.store, tmp_path / "rows.csv").stdout)))
    assert [line["label"] for line in lines] == [SCHEMA.labels[k] for k in expected.argmax(1)]
    np.testing.assert_allclose([float(line["confidence"]) for line in lines], expected.max(1), atol=1e-5)
    run("predict", "--store", shop.store, "-", "--output", tmp_path / "out.csv", text=CSV)
    assert list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))) == lines
    document = json.loads(run("predict", "--store", shop.store, "-", "--json", "--explain", text=CSV).stdout)
    assert document["version"] == 1
    assert re.fullmatch(r"(\w+:[+-]\d\.\d{3} ?){3}", document["predictions"][0]["reasons"])
    text = run("predict", "--store", shop.store, "-", "--explain", text=CSV).stdout
    assert text.startswith("row,label,confidence,reasons\n")


def test_bad_input_is_exit_code_2_with_a_reason(shop, tmp_path):
    shop.install()
    bad = run("predict", "--store", shop.store, "-", text="age,pressure,ward,smoker\nold,1,7,no\n", code=2)
    assert "standard input: column 'age', row 2: 'old' is not a number" in said(bad)
    assert bad.stdout == ""
    assert "nothing.csv" in said(run("predict", "--store", shop.store, tmp_path / "nothing.csv", code=2))
    (tmp_path / "odd.csv").write_bytes(b"\xff\xfe,\xff\xff")
    assert "not utf-16 near line 1" in said(run("predict", "--store", shop.store, tmp_path / "odd.csv", code=2))
    run("predict", "--store", shop.store, "-", "--output", tmp_path / "no" / "folder", text=CSV, code=2)
    for command in (["status"], ["rollback"], ["predict", "-"], ["serve", "--port", "0"]):
        assert "no device store" in said(run(*command, "--store", tmp_path / "empty", code=2))
    where = ("--repository", tmp_path, "--root", tmp_path / "nothing.json")
    assert "nothing.json" in said(run("install", "--store", shop.store, *where, code=2))


def test_refused_model_is_exit_code_5(shop):
    shop.install()
    shop.publish(2)
    place = shop.folder / "repository" / shop.repository.place("model/2.onnx")
    place.write_bytes(place.read_bytes()[:-1])
    assert "tampered or truncated" in said(shop.install(code=5))
    assert json.loads(run("status", "--store", shop.store, "--json").stdout)["version"] == 1


def test_damaged_store_warns_and_uses_the_previous_version(shop):
    shop.install()
    shop.publish(2)
    shop.install()
    (shop.store / "slots" / "b" / "model.onnx").write_bytes(b"rot")
    found = run("predict", "--store", shop.store, "-", text=CSV)
    assert "version 1 is used" in said(found)
    assert found.stdout.startswith("row,label")
    status = json.loads(run("status", "--store", shop.store, "--json").stdout)
    assert (status["version"], status["previous_version"]) == (1, None)
    assert "version 2" in status["damaged"]
    slots = Slots(shop.store / "slots")
    with pytest.raises(ArtifactRejected) as caught:
        slots.read(slots.active())
    assert caught.value.hint.startswith("the disk is damaged: install again")


@pytest.mark.parametrize(
    "words", [("status", "--watts", "nan"), ("status", "--stale-days", "nan"), ("status", "--stale-days", "-1")]
)
def test_options_that_are_no_numbers_are_refused(shop, words):
    shop.install()
    assert words[1] in said(run(*words, "--store", shop.store, code=2))


def test_a_port_that_is_taken_is_told_before_anything_is_promised(shop):
    shop.install()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = run("serve", "--store", shop.store, "--port", taken.getsockname()[1], code=ConfigError.exit_code)
    assert "ConfigError" in said(found)
    assert "http://" not in said(found)


def test_repository_folder_does_not_lead_outside(shop):
    fetch = folder_fetch(shop.folder / "repository")
    assert fetch("metadata/timestamp.json") is not None
    for path in ("../root.json", "/etc/passwd", "metadata", "metadata/nothing"):
        assert fetch(path) is None
    with pytest.raises(TransportError, match="cannot be read"):
        fetch("metadata/\0")


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as reply:
        return reply.status, reply.read()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--token-file", "absent"), "No such file"), (("--tls-cert", "c.pem"), "one of --tls-cert and --tls-key"),
        (("--tls-key", "k.pem"), "one of --tls-cert"), (("--tls-cert", "c", "--tls-key", "k"), "No such file"),
    ],
)  # fmt: skip
def test_serving_with_half_a_lock_is_refused(shop, options, problem):
    shop.install()
    found = run("serve", "--store", shop.store, "--port", 0, *options, code=ConfigError.exit_code)
    assert problem in said(found)


class Bound:
    """Stands in for a server: what it was given, and no waiting."""

    def __init__(self, app, listening, access, clock, limits, tls, note):
        type(self).given = (access, limits, tls, listening.getsockname()[0])

    def run(self):
        pass


@pytest.mark.parametrize(
    ("host", "options", "warnings"),
    [
        ("127.0.0.1", (), 0), ("::1", (), 0), ("localhost", (), 0), ("0.0.0.0", (), 2),
        ("0.0.0.0", ("--token-file", "token"), 1),
    ],
)  # fmt: skip
def test_serving_beyond_this_machine_without_a_lock_is_warned_of(shop, monkeypatch, tmp_path, host, options, warnings):
    shop.install()
    monkeypatch.setattr(inference, "SocketServer", Bound)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("x" * 32)
    (tmp_path / "token").chmod(0o600)
    more = ("--allow-host", "Device.example", "--client-connections", 7, "--client-rate", 5)
    reported = said(run("serve", "--store", shop.store, "--port", 0, "--host", host, *options, *more))
    access, limits, tls, _ = Bound.given
    assert reported.count("warning:") == warnings
    assert ("may ask for predictions" in reported) is (warnings == 2)
    assert ("unencrypted" in reported) is (warnings > 0)
    assert bool(access.token_digest) is bool(options)
    assert access.allowed == {"device.example"}
    assert (limits.per_client, limits.per_second, tls) == (7, 5.0, None)


@pytest.mark.slow
def test_serve_answers_over_http_and_follows_an_install(shop):
    shop.install()
    command = "from fedinfer.cli.device import app; app()"
    arguments = ["serve", "--store", str(shop.store), "--port", "0"]
    process = subprocess.Popen([sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        reported = ""
        while "/v2/models/" not in reported:  # the console may break the line
            reported += process.stderr.readline().rstrip("\n")
        base = re.search(r"http://127\.0\.0\.1:[1-9]\d*", reported)[0]
        wait_for(lambda: ask(f"{base}/v2/health/ready")[0] == 200)
        data = [None if np.isnan(v) else float(v) for v in MATRIX.ravel()]
        body = {"inputs": [{"name": "input", "shape": [2, 4], "datatype": "FP32", "data": data}]}
        document = json.loads(ask(f"{base}/v2/models/triage/infer", body)[1])
        expected = softmax_of(make_model(seed=1), MATRIX)
        np.testing.assert_allclose(document["outputs"][1]["data"], expected.ravel(), atol=1e-5)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(f"{base}/v2/models/triage/infer", {"inputs": 3})
        shop.publish(2)
        shop.install()
        wait_for(lambda: b"fedinfer_model_version 2" in ask(f"{base}/metrics")[1])
        assert json.loads(ask(f"{base}/v2/models/triage/infer", body)[1])["model_version"] == "2"
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(20)
        process.stderr.close()


def wait_for(condition):
    for _ in range(200):
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("nothing after 20 seconds")


def test_standard_input_may_have_a_byte_order_mark_of_any_encoding(shop):
    shop.publish(1)
    shop.install()
    plain = run("predict", "--store", shop.store, "-", text=CSV).stdout
    marked = runner.invoke(app, ["predict", "--store", str(shop.store), "-"], input=b"\xef\xbb\xbf" + CSV.encode())
    assert marked.stdout == plain
    wide = runner.invoke(app, ["predict", "--store", str(shop.store), "-"], input=CSV.encode("utf-16"))
    assert wide.stdout == plain


def test_a_text_that_is_no_category_is_said(shop, tmp_path):
    shop.publish(1)
    shop.install()
    rows = tmp_path / "rows.csv"
    rows.write_text("age,pressure,ward,smoker\n41,120,7,never\n42,120,7,YES\n43,120, n/a ,nope\n")
    found = run("predict", "--store", shop.store, rows, "--json")
    assert "column smoker: 'never' is no category and counts as missing (2 rows)" in said(found)
    assert "ward" not in said(found)
    assert len(json.loads(found.stdout)["predictions"]) == 3


def test_a_store_that_is_gone_is_said_once(shop, monkeypatch, capsys):
    shop.publish(1)
    shop.install()
    service = Service(Slots(shop.store / "slots"), SessionCache(1), SystemClock(), Telemetry(), 5)
    shutil.rmtree(shop.store)
    waits = iter([False, False, False, True])
    serving._follow(service, SimpleNamespace(wait=lambda seconds: next(waits)))
    assert capsys.readouterr().err.count("no model is installed") == 1
    assert service.current.info.version == 1


# --- what is predicted in the field ---


def windows_of(shop):
    return json.loads(run("windows", "--store", shop.store, "--json").stdout)


def test_predict_counts_its_answers_unless_it_is_told_not_to(shop, tmp_path):
    shop.install()
    (tmp_path / "rows.csv").write_text(CSV)
    run("predict", "--store", shop.store, tmp_path / "rows.csv", "--no-count")
    assert windows_of(shop)["windows"] == []
    run("predict", "--store", shop.store, tmp_path / "rows.csv")
    run("predict", "--store", shop.store, tmp_path / "rows.csv")
    (window,) = windows_of(shop)["windows"]
    assert (window["rows"], window["version"], window["closed"]) == (4, 1, None)
    expected = np.bincount(softmax_of(make_model(seed=1), MATRIX).argmax(1), minlength=3) * 2
    assert window["counts"]["predicted_class"] == expected.tolist()
    found = run("windows", "--store", shop.store, "--rows", 4, "--hours", 2).stdout
    assert "a window closes at 4 predictions or after 2 hours" in found
    assert "(version 1, closed): 4 rows, predicted_class" in found
    assert windows_of(shop)["rule"] == {"rows": 4, "hours": 2.0}


def test_labels_that_come_later_give_metric_and_calibration(shop, tmp_path):
    shop.install()
    (tmp_path / "rows.csv").write_text(CSV)
    classes = softmax_of(make_model(seed=1), MATRIX).argmax(1)
    right = float(np.mean([SCHEMA.labels[k] == label for k, label in zip(classes, ("ill", "well"), strict=True)]))
    found = json.loads(run("label", "--store", shop.store, tmp_path / "rows.csv", "--json").stdout)
    assert (found["rows"], found["accuracy"]) == (2, right)
    run("predict", "--store", shop.store, tmp_path / "rows.csv", "--id", "monday")
    names = [SCHEMA.labels[k] for k in classes]
    (tmp_path / "labels.csv").write_text("request,outcome\n" + "".join(f"monday,{name}\n" for name in names))
    assert "rows                         4" in run("label", "--store", shop.store, tmp_path / "labels.csv").stdout
    assert windows_of(shop)["labelled"]["1"]["accuracy"] == (1 + right) / 2
    assert "labels of version 1: rows 4, accuracy" in run("windows", "--store", shop.store).stdout
    assert "no answers wait" in said(run("label", "--store", shop.store, tmp_path / "labels.csv", code=2))
    (tmp_path / "none.csv").write_text("request,outcome\n")
    run("label", "--store", shop.store, tmp_path / "none.csv", code=2)
    run("label", "--store", tmp_path, tmp_path / "labels.csv", code=2)
    run("windows", "--store", tmp_path, code=2)


def test_served_answers_are_counted_and_labelled_over_http(shop):
    from fedinfer.device import Recorder, recorder_of
    from fedinfer.inference import ObservationBuffer, make_app

    shop.install()
    clock = SystemClock()
    recorder = recorder_of(Path(shop.store), clock)
    assert isinstance(recorder, Recorder)
    buffer = ObservationBuffer(256, recorder)
    service = Service(Slots(Path(shop.store) / "slots"), SessionCache(1), clock, Telemetry(), 5, buffer)
    from tests.unit.inference.test_device_http import Client

    client = Client(make_app(service, "triage", "1", lambda: None, serving._labels(service, recorder, buffer)))
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [41, 120.5, 2, 0, None, 90, 1, 1]}
    assert client.post("/v2/models/triage/infer", json={"id": "7", "inputs": [tensor]}).status_code == 200
    assert windows_of(shop)["windows"] == []  # they are written in bulk
    found = client.post("/v2/models/triage/labels", json={"id": "7", "labels": ["ill", "well"]})
    assert found.status_code == 200
    assert found.json()["rows"] == 2
    assert windows_of(shop)["windows"][0]["rows"] == 2
    for body, reason in (
        ({"id": "7", "labels": ["ill", "well"]}, "no answers wait"),
        ({"id": "", "labels": ["ill"]}, '"id" is not'),
        ({"id": "7", "labels": []}, '"labels" is not'),
        ([], "not a JSON object"),
    ):
        refused = client.post("/v2/models/triage/labels", json=body)
        assert refused.status_code == 400
        assert reason in refused.json()["error"]
    assert client.post("/v2/models/other/labels", json={}).status_code == 404
    assert serving._labels(service, None, None) is None
