"""`fedinfer device serve` in a process of its own, asked by Triton's client, a command and Prometheus' checker."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.unit.inference.device_world import NOW, Repository, make_model, make_rows, make_updater, softmax_of

pytestmark = pytest.mark.e2e
START = "from fedinfer.cli.main import main; main()"
ROWS = make_rows(count=64, seed=4)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repository, store = Repository(), tmp_path_factory.mktemp("device")
    repository.publish(1)
    make_updater(store, repository).install(repository.fetch, NOW)
    yield from served(store)


def served(store: Path) -> Iterator[str]:
    """Host and port of the process, which ends by SIGTERM."""
    command = [sys.executable, "-c", START, "device", "serve", "--store", str(store), "--port", "0"]
    with subprocess.Popen([*command, "--name", "triage"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = ""
        while "/v2/models/" not in told:
            line = process.stderr.readline()
            assert line, told
            told += line.rstrip("\n")
        found = re.search(r"http://(127\.0\.0\.1:[1-9]\d*)", told)
        assert found
        try:
            yield found[1]
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_triton_s_client_asks_a_process(address: str, binary: bool, compression: str | None) -> None:
    with closing(triton.InferenceServerClient(address)) as client:
        assert client.is_server_live()
        assert client.is_model_ready("triage")
        asked = triton.InferInput("input", list(ROWS.shape), "FP32")
        asked.set_data_from_numpy(ROWS)  # as it does by default: binary data
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
        packed = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
        found = client.infer("triage", [asked], outputs=wanted, request_id="7", **packed)
    expected = softmax_of(make_model(seed=1), ROWS)
    np.testing.assert_allclose(found.as_numpy("probabilities"), expected, atol=1e-5)
    names = [name if isinstance(name, str) else name.decode() for name in found.as_numpy("label").tolist()]
    assert names == [("well", "ill", "unclear")[place] for place in expected.argmax(1)]
    assert found.get_response()["id"] == "7"


@pytest.mark.promtool
def test_what_the_process_counts_is_what_prometheus_reads(address: str) -> None:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as reply:
        text = reply.read()
    assert b"fedinfer_model_version 1" in text
    program = shutil.which("promtool")
    assert program
    subprocess.run([program, "check", "metrics"], input=text, check=True, capture_output=True)
