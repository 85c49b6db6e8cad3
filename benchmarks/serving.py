"""What `fedinfer device serve` adds to a bare FastAPI application around ONNX Runtime, in processor time.

    python benchmarks/serving.py [--seconds 3]

Each server runs in a process of its own, behind uvicorn with the same settings. They get the same requests, in bursts
and in turns, over one connection that stays open; the processor time of the thread that answers is read around each
burst. Medians, because a busy machine interrupts. What other threads did, as the one that writes once a second what was
counted, is shared among all requests and added.

"bare" reads the JSON of a request, makes an array, calls `session.run` for label and probabilities, and writes JSON: no
schema, no checks, no counting.

* `us`, `bare_us`: microseconds of processor time per request with so many rows.
* `ratio`: the first by the second. The goal is at most 1.3 at 64 rows.
* `binary_us`: the same rows as binary data in and out, which the bare server does not know.
* `recorded_us`, `recorded_ratio`: what `us` and `ratio` become when predictions are also counted in the store; the goal
  is at most 1.3 at 64 rows as well.

The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from inference import make_model, make_rows, make_schema, put

from fedinfer.device import SERVED_ROWS, WRITE_SECONDS, recorder_of
from fedinfer.inference import (
    ObservationBuffer,
    Service,
    ServiceLimits,
    SessionCache,
    Slots,
    SocketServer,
    Telemetry,
    access_of,
    bind,
    make_app,
)
from fedinfer.system import SystemClock

ROWS, BURST = (1, 64), 20
HEADERS = {"Content-Type": "application/json"}


def bare_app(session: object) -> FastAPI:
    """The least that answers."""
    app = FastAPI()

    @app.post("/v2/models/bench/infer")
    async def infer(request: Request) -> JSONResponse:
        document = await request.json()
        tensor = document["inputs"][0]
        rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        label, probabilities = session.run(["label", "probabilities"], {"input": rows})  # type: ignore[attr-defined]
        outputs = [
            {"name": "label", "shape": list(label.shape), "datatype": "BYTES", "data": label.tolist()},
            {
                "name": "probabilities",
                "shape": list(probabilities.shape),
                "datatype": "FP32",
                "data": probabilities.ravel().tolist(),
            },
        ]
        return JSONResponse({"model_name": "bench", "model_version": "1", "outputs": outputs})

    return app


class Asked:
    """A server in a process of its own, and a connection to it."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        listening = bind("127.0.0.1", 0)
        self.process = multiprocessing.get_context("fork").Process(target=serve, args=(listening,), daemon=True)
        self.process.start()
        self.to = http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1])
        listening.close()

    def seconds(self) -> float:
        """Processor time of the thread that answers so far."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def others(self) -> float:
        """Processor time of all other threads so far."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(path.read_text().split()[0]) for path in threads) / 1e9 - self.seconds()

    def cost(self, body: bytes, headers: dict[str, str]) -> float:
        """Seconds of processor time of one request, with what the server does after its reply."""
        begin = self.seconds()
        for _ in range(BURST):
            self.to.request("POST", "/v2/models/bench/infer", body, headers)
            reply = self.to.getresponse()
            data = reply.read()
            assert reply.status == 200, data
        time.sleep(0.005)
        return (self.seconds() - begin) / BURST

    def stop(self) -> None:
        self.to.close()
        self.process.terminate()
        self.process.join()


def serve_ours(slots: Slots, store: Path | None, listening: socket.socket) -> None:
    buffer = None
    if store is not None:
        recorder = recorder_of(store, SystemClock())
        assert recorder is not None
        buffer = ObservationBuffer(SERVED_ROWS, recorder)
        threading.Thread(target=write, args=(buffer,), daemon=True).start()
    telemetry, clock = Telemetry(), SystemClock()
    service = Service(slots, SessionCache(1), clock, telemetry, 5, buffer)
    app, access = make_app(service, "bench", "1", lambda: None), access_of("127.0.0.1", (), b"")
    note = lambda exchange: telemetry.replied(exchange.status)  # noqa: E731
    SocketServer(app, listening, access, clock, ServiceLimits(per_second=1e9), note=note).run()


def write(buffer: ObservationBuffer) -> None:
    """As the command does."""
    while True:
        time.sleep(WRITE_SECONDS)
        buffer.flush()


def serve_bare(model: bytes, listening: socket.socket) -> None:
    _, session = SessionCache(1).open(model)
    config = uvicorn.Config(bare_app(session), loop="asyncio", log_level="warning", access_log=False, ws="none")
    uvicorn.Server(config).run([listening])


def requests_of(rows: np.ndarray) -> dict[str, tuple[bytes, dict[str, str]]]:
    values = [None if np.isnan(value) else float(value) for value in rows.ravel()]
    own = {"name": "input", "shape": list(rows.shape), "datatype": "FP32"}
    data = rows.astype("<f4").tobytes()
    sized = {**own, "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [sized], "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    return {
        "json": (json.dumps({"inputs": [{**own, "data": values}]}).encode(), HEADERS),
        "binary": (header + data, length),
    }


def measure(name: str, folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    schema = make_schema(name)
    model = make_model(schema, 128 if name == "mlp" else 32, seed=1)
    slots = Slots(folder / "slots")
    put(slots, 1, schema, model)
    servers = {
        "us": Asked(partial(serve_ours, slots, None)),
        "recorded_us": Asked(partial(serve_ours, slots, folder)),
        "bare_us": Asked(partial(serve_bare, model)),
    }
    found: dict[str, dict[str, float]] = {}
    for count in ROWS:
        asked = requests_of(make_rows(schema, count))
        turns = {key: (server, asked["json"]) for key, server in servers.items()}
        turns["binary_us"] = servers["us"], asked["binary"]
        times: dict[str, list[float]] = {key: [] for key in turns}
        before = {key: server.others() for key, (server, _) in turns.items()}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for key, (server, (body, headers)) in turns.items():
                times[key].append(server.cost(body, headers))
        time.sleep(2 * WRITE_SECONDS)  # what the last bursts left is written as well
        for server in servers.values():
            server.to.close()  # servers end connections that say nothing
        asked_of = {server: 0 for server, _ in turns.values()}
        for key, (server, _) in turns.items():
            asked_of[server] += len(times[key]) * BURST
        beside = {key: (server.others() - before[key]) / asked_of[server] for key, (server, _) in turns.items()}
        figures = {key: round((statistics.median(values) + beside[key]) * 1e6, 1) for key, values in times.items()}
        ratios = {"ratio": "us", "recorded_ratio": "recorded_us"}
        found[str(count)] = figures | {
            name: round(figures[key] / figures["bare_us"], 2) for name, key in ratios.items()
        }
    for server in servers.values():
        server.stop()
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=3.0, help="time spent on each number of rows")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name in ("mlp", "table"):
            (Path(folder) / name).mkdir()
            found[name] = measure(name, Path(folder) / name, arguments.seconds)
            for count, figures in found[name].items():
                print(f"{name}, {count} rows: {figures}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
