"""What the device adds to ONNX Runtime: single rows, drift sketching, batches, and a hot swap under load.

    python benchmarks/inference.py [--seconds 3] [--no-floor]

Bare and wrapped calls take turns in one loop, so that both see the same moments of a busy machine. Single rows:
medians of elapsed time. Batches: medians of the processor time of the calling thread (ONNX Runtime has one thread
here), because a call of milliseconds is interrupted on a busy machine and elapsed time then measures the others.
"bare" is `session.run` on the same session, once for "probabilities" alone (the cheapest call that answers at all) and
once for everything the graph gives ("all", with label texts).

* `overhead_us`, `overhead_with_drift_us`: microseconds above the cheapest bare call. With drift: the call goes through
  the service, which also times and counts it and hands rows to the sketch, 256 at a time.
* `batch_ratio`: 10,000 unchecked rows in, labels and probabilities out, against the bare call that gives both.
* `batch_probabilities_ratio`: the same without asking for labels, against the bare call for probabilities alone.
* `lost_requests`: of 1,000 per second, while a new version is taken over every 200 ms.

Two models: the 32-128-128-3 perceptron of the floor below, and 13-32-32-2 on a table with 8 categorical columns (more
to check per row, less to compute). The headline figures are the worse of the two.

The floor, `../shared/baselines/onnx_floor.py`, is run beside it when it is there (it needs torch). The last line
printed is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

from fedinfer.drift.channels import Outputs, confidence, predicted_class
from fedinfer.drift.sketch import Sketch
from fedinfer.inference.install.opening import open_variant
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.observation import ObservationBuffer
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.session import SessionCache, open_session
from fedinfer.inference.serve.service import Service
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.manifest import Manifest, Privacy, Variant, model_path
from fedinfer.schema import Categorical, Column, Numeric, Schema
from fedinfer.system import SystemClock

FLOOR = Path(__file__).resolve().parents[1] / "../shared/baselines/onnx_floor.py"
BATCH = 10_000
SKETCH_ROWS = 256
RATE = 1000
HEADLINES = ("overhead_us", "overhead_with_drift_us", "batch_ratio", "batch_probabilities_ratio")


def make_schema(name: str) -> Schema:
    """The rows of the two models."""
    if name == "mlp":
        return Schema(tuple(Numeric(f"x{i}", -5, 5) for i in range(32)), "y", ("a", "b", "c"))
    columns: list[Column] = [Numeric(f"x{i}", -5, 5) for i in range(5)]
    columns += [Categorical(f"k{i}", ("u", "v", "w")) for i in range(8)]
    return Schema(tuple(columns), "y", ("no", "yes"))


def make_model(schema: Schema, hidden: int, seed: int) -> bytes:
    """Two hidden layers, softmax, and label names in the graph, as the exporter makes it; random weights."""
    width, classes = schema.width, schema.classes
    names = ", ".join(f'"{label}"' for label in schema.labels)
    text = f"""<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml": 4]>
    g (float[batch, {width}] input) => (string[batch] label, float[batch, {classes}] probabilities)
      <float[{width}, {hidden}] w1, float[{hidden}, {hidden}] w2, float[{hidden}, {classes}] w3> {{
        zero = Constant<value_float: float = 0.0>()
        missing = IsNaN(input)
        x = Where(missing, zero, input)
        a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  e = MatMul(d, w3)
        probabilities = Softmax<axis: int = -1>(e)
        k = ArgMax<axis: int = 1, keepdims: int = 0>(probabilities)
        label = ai.onnx.ml.LabelEncoder<keys_int64s: ints = [{", ".join(map(str, range(classes)))}],
                                        values_strings: strings = [{names}], default_string: string = "?">(k)
    }}"""
    model = parser.parse_model(text)
    del model.graph.value_info[:]
    rng = np.random.default_rng(seed)
    for name, shape in (("w1", (width, hidden)), ("w2", (hidden, hidden)), ("w3", (hidden, classes))):
        weights = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_rows(schema: Schema, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, schema.width)).astype(np.float32)
    for place, column in enumerate(schema.columns):
        if isinstance(column, Categorical):
            rows[:, place] = rng.integers(0, len(column.categories), count)
    rows[rng.random(rows.shape) < 0.02] = np.nan
    return rows


def medians(
    calls: dict[str, Callable[[], object]], seconds: float, least: int, clock: Callable[[], int]
) -> dict[str, float]:
    """Median microseconds of each call by `clock`; the calls take turns, the first one changes from turn to turn."""
    names, times = list(calls), {name: [] for name in calls}
    for call in calls.values():
        call()
    gc.disable()
    end, scheduled = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or scheduled < least:
        for step in range(len(names)):
            name = names[(scheduled + step) % len(names)]
            start = clock()
            calls[name]()
            times[name].append(clock() - start)
        scheduled += 1
    gc.enable()
    return {name: statistics.median(found) / 1e3 for name, found in times.items()}


def make_manifest(version: int, schema: Schema, model: bytes, predictor: Predictor) -> Manifest:
    rows = make_rows(schema, 4)
    answers = predictor.predict(rows)
    digest, path = hashlib.sha256(model).hexdigest(), model_path(version)
    labels = tuple(map(int, answers.classes))
    probabilities = tuple(tuple(map(float, p)) for p in answers.probabilities)
    variant = Variant("float", path, digest, len(model), "none", 0.0, 1.0, 0.0, 1.0, 0.0, labels, probabilities, 1e-4)
    check_rows = tuple(tuple(map(float, row)) for row in rows)
    return Manifest(version, "bench", schema, (variant,), check_rows, 0.0, {}, platform.machine(), "",
                    Privacy("inf", "0", "random weights"))  # fmt: skip


def put(slots: Slots, version: int, schema: Schema, model: bytes) -> None:
    """Install without the update channel: what is measured here is serving."""
    manifest = make_manifest(version, schema, model, Predictor.open(model, schema))
    files = {"model.onnx": model, "manifest.json": manifest.to_bytes()}
    slots.swap(slots.stage(version, "float", files))


def measure_model(name: str, folder: Path, seconds: float) -> dict[str, float]:
    schema = make_schema(name)
    model = make_model(schema, 128 if name == "mlp" else 32, seed=1)
    cache = SessionCache(2)
    slots = Slots(folder)
    put(slots, 1, schema, model)
    session = cache.open(model)
    sketch = Sketch((predicted_class(schema.classes), confidence(schema.classes, 10)))
    buffer = ObservationBuffer(
        SKETCH_ROWS, lambda seen: [sketch.add(Outputs(o.raw.argmax(axis=1), o.raw)) for o in seen]
    )
    service = Service(slots, cache, SystemClock(), Telemetry(), 5, buffer)
    manifest = service.current.manifest
    predictor = open_variant(model, manifest, cache)
    table = make_rows(schema, BATCH)
    row, feed, batch = table[7].copy(), {"input": table[7:8].copy()}, {"input": table}
    single = medians(
        {
            "bare_us": lambda: session.run(["probabilities"], feed),
            "bare_all_us": lambda: session.run(None, feed),
            "predict_one_us": lambda: predictor.predict_one(row),
            "served_us": lambda: service.predict_one(row),
        },
        seconds,
        2000,
        time.perf_counter_ns,
    )
    many = medians(
        {
            "batch_bare_us": lambda: session.run(["probabilities"], batch),
            "batch_bare_all_us": lambda: session.run(None, batch),
            "batch_us": lambda: predictor.predict(table),
            "batch_labels_us": lambda: predictor.predict(table).labels,
        },
        seconds,
        20,
        time.thread_time_ns,
    )
    return {
        **{key: round(value, 2) for key, value in {**single, **many}.items()},
        "overhead_us": round(single["predict_one_us"] - single["bare_us"], 2),
        "overhead_with_drift_us": round(single["served_us"] - single["bare_us"], 2),
        "batch_ratio": round(many["batch_labels_us"] / many["batch_bare_all_us"], 3),
        "batch_probabilities_ratio": round(many["batch_us"] / many["batch_bare_us"], 3),
    }


def swap_under_load(folder: Path, seconds: float) -> dict[str, float]:
    """RATE requests per second from two threads while a new version is installed and taken over every 200 ms."""
    schema = make_schema("mlp")
    models = [make_model(schema, 128, seed=seed) for seed in range(8)]
    sessions = [open_session(model) for model in models]
    slots = Slots(folder, flush=lambda descriptor: None)
    put(slots, 1, schema, models[1])
    service = Service(slots, SessionCache(8), SystemClock(), Telemetry(), 5)
    rows = make_rows(schema, 64)
    expected = [found.run(["probabilities"], {"input": rows})[0] for found in sessions]
    total, answered, late, swaps = int(RATE * seconds), [0, 0], [0, 0], 0
    begin = time.perf_counter() + 0.1

    def client(number: int) -> None:
        for index in range(number, total, 2):
            wait = begin + index / RATE - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            elif wait < -0.1:
                late[number] += 1
            try:
                found = service.predict_one(rows[index % 64]).probabilities
            except Exception as error:  # any failure is a lost request
                print(f"lost: {error!r}", file=sys.stderr)
                continue
            answered[number] += any(np.allclose(found, of[index % 64], atol=1e-4) for of in expected)

    clients = [threading.Thread(target=client, args=(number,)) for number in (0, 1)]
    for thread in clients:
        thread.start()
    while any(thread.is_alive() for thread in clients):
        version = service.current.info.version + 1
        put(slots, version, schema, models[version % 8])
        swaps += service.reload()
        time.sleep(0.2)
    took = time.perf_counter() - begin
    return {
        "lost_requests": total - sum(answered),
        "requests": total,
        "rate_per_second": round(total / took),
        "late_requests": sum(late),
        "swaps": swaps,
    }


def floor() -> dict[str, object] | None:
    """Run the baseline beside us; None and a word on stderr when it is not there."""
    if not FLOOR.exists():
        print(f"{FLOOR} is missing: no floor beside these figures", file=sys.stderr)
        return None
    command = [sys.executable, str(FLOOR), "--models", "mlp", "--seconds", "0.5"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        print(f"{FLOOR} failed: {found.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    result: dict[str, object] = json.loads(found.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=3.0, help="time spent on each group of figures")
    options.add_argument("--no-floor", action="store_true", help="do not run the baseline")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {name: measure_model(name, Path(folder) / name, arguments.seconds) for name in ("mlp", "table")}
        swap = swap_under_load(Path(folder) / "swap", max(2.0, 2 * arguments.seconds))
    for name, figures in models.items():
        print(f"{name:6s} {figures}", file=sys.stderr)
    print(f"swap   {swap}", file=sys.stderr)
    worst = {key: max(figures[key] for figures in models.values()) for key in HEADLINES}
    document = {
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
        **worst,
        **swap,
    }
    document |= {"models": models, "floor": None if arguments.no_floor else floor()}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
