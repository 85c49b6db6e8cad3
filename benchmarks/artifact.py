"""Export, quantize, publish: one line per model kind, and the update channel.

    python benchmarks/artifact.py

Digits (scikit-learn) for the image models and heart (in the wheel) for the tables are real data; series, text and shop
rows are drawn, so there only agreement and bytes mean something. Models are trained for seconds, in one place: the
table is about what quantization does to them, not about how good they are. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from fedinfer.artifact.build import Built, build_artifact
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.graph import OutputHead
from fedinfer.artifact.export.torch import Templates, export_core
from fedinfer.artifact.quantize.calibration import synthetic_rows
from fedinfer.artifact.release.delta import add_deltas
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.signing import generate_keys
from fedinfer.config import ArtifactSection, ModelKind, ModelSection, TrainingSection, load_scenario
from fedinfer.data import load
from fedinfer.manifest import Privacy
from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.system import SystemClock, SystemEntropy, simulation_rng
from fedinfer.training.models.build import Model, build_model
from fedinfer.training.models.parts import make_native
from fedinfer.training.objective import labels_of, objective_of

CLOCK = SystemClock()
RNG = simulation_rng("benchmark artifact")
PRIVACY = Privacy("inf", "1", "benchmark")
Rows = tuple[Schema, np.ndarray, np.ndarray]
HIDDEN = {
    ModelKind.LOGISTIC: (1,), ModelKind.LINEAR: (1,), ModelKind.ADDITIVE: (1,),
    ModelKind.MLP: (64, 32), ModelKind.CNN: (16, 32), ModelKind.TCN: (32, 32),
    ModelKind.GRU: (32,), ModelKind.TRANSFORMER: (32,), ModelKind.BAG: (32,), ModelKind.RECOMMENDER: (16, 32),
}  # fmt: skip


def pooled(name: str) -> Rows:
    """All rows of a built-in scenario."""
    federation = load(load_scenario(name))
    parts = [(d.train_x, d.train_y) for d in federation.devices.values()] + [federation.test]
    x, y = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = RNG.permutation(len(y))
    return federation.schema, x[order], y[order]


def series() -> Rows:
    y, t = RNG.integers(0, 3, 2000), np.arange(32)
    phase = RNG.uniform(0, 1, (2000, 3, 1)) + np.arange(3)[:, None]
    x = 0.5 + 0.3 * np.sin((0.3 + 0.1 * y)[:, None, None] * t + phase) + RNG.normal(0, 0.2, (2000, 3, 32))
    return Schema((), "state", ("rest", "walk", "run"), (3, 1, 32), 1.0), x.reshape(2000, -1).astype(np.float32), y


def text() -> Rows:
    x = RNG.integers(1, 1000, (2000, 24)).astype(np.float32)
    y = np.digitize((x % 3 == 1).sum(1) - (x % 3 == 2).sum(1), [-1, 2])
    return Schema((Text("note", 24, tuple(f"w{i}" for i in range(998))),), "topic", ("a", "b", "c")), x, y


def shop() -> Rows:
    users, items = tuple(f"u{i}" for i in range(100)), tuple(f"i{i}" for i in range(200))
    schema = Schema(
        (Categorical("user", users), Categorical("item", items), Numeric("age", 0, 99)), "buy", ("no", "yes")
    )
    x = synthetic_rows(schema, 2000, RNG)
    taste = RNG.normal(0, 1, (100, 3)) @ RNG.normal(0, 1, (3, 200))
    return schema, x, (taste[np.nan_to_num(x[:, 0]).astype(int), np.nan_to_num(x[:, 1]).astype(int)] > 0).astype(int)


DATA: dict[ModelKind, Callable[[], Rows]] = {
    ModelKind.LOGISTIC: lambda: pooled("heart"), ModelKind.LINEAR: lambda: pooled("deliveries"),
    ModelKind.ADDITIVE: lambda: pooled("churn"), ModelKind.MLP: lambda: pooled("heart"),
    ModelKind.CNN: lambda: pooled("digits"), ModelKind.TCN: series, ModelKind.GRU: series,
    ModelKind.TRANSFORMER: text, ModelKind.BAG: text, ModelKind.RECOMMENDER: shop,
}  # fmt: skip


def train(module: Model, schema: Schema, x: np.ndarray, y: np.ndarray, steps: int = 150) -> None:
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    objective = objective_of(schema, TrainingSection())
    rows, labels = torch.tensor(x), labels_of(y, schema)
    for _ in range(steps):
        some = torch.from_numpy(RNG.integers(0, len(rows), 128))
        optimizer.zero_grad()
        objective.mean(module(rows[some]), labels[some]).backward()
        optimizer.step()
    make_native(module)
    module.eval()


def terms_of_model(module: Model) -> tuple[tuple[str, ...], ...]:
    return tuple(term.columns for term in getattr(module.prepare, "terms", ()))


def seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def one(kind: ModelKind) -> tuple[dict[str, object], Built]:
    schema, x, y = DATA[kind]()
    module = build_model(ModelSection(kind=kind, hidden=HIDDEN[kind]), schema, 1)
    half = len(y) // 2
    train(module, schema, x[:half], y[:half])
    calibration = x[:256] if kind in (ModelKind.CNN, ModelKind.TCN, ModelKind.GRU) else synthetic_rows(schema, 256, RNG)
    evidence = Evidence(np.ascontiguousarray(x[half:]), y[half:], calibration, x[:100])
    templates, settings = Templates(), ArtifactSection()
    export_seconds = seconds(lambda: export_core(module, schema, calibration[:64], templates), 9)
    head = OutputHead(schema, 1.0, str(kind), 1, terms=terms_of_model(module))
    built = build_artifact(module, head, evidence, settings, templates, CLOCK)
    build_seconds = seconds(lambda: build_artifact(module, head, evidence, settings, templates, CLOCK), 1)
    line = {
        "kind": str(kind), "recipe": built.chosen.recipe, "float_metric": round(built.float_metric, 4),
        "int8_metric": round(built.chosen.metric, 4), "agreement": round(built.chosen.agreement, 4),
        "float_bytes": built.float_bytes, "int8_bytes": built.chosen.bytes,
        "float_us": round(built.tried[0].latency_us, 1), "int8_us": round(built.chosen.latency_us, 1),
        "export_ms": round(1e3 * export_seconds, 2), "build_s": round(build_seconds, 2),
    }  # fmt: skip
    return line, built


def channel(built: Built) -> dict[str, float]:
    """Publish three versions of one model: milliseconds and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder), generate_keys(SystemEntropy()), CLOCK, lambda keys: None)
        manifest, files = built.manifest(PRIVACY, "2030-01-01T00:00:00+00:00"), built.targets()
        plain = add_deltas(manifest, files, manifest.variants, [])[0]
        publish = seconds(lambda: repository.publish(manifest, files), 1)
        bundle = seconds(lambda: repository.bundle(1), 9)
        return {
            "publish_ms": round(1e3 * publish, 2), "bundle_ms": round(1e3 * bundle, 2),
            "bundle_bytes": sum(map(len, repository.bundle(1).values())),
            "zstd_bytes": plain.deltas[0].bytes if plain.deltas else built.chosen.bytes,
        }  # fmt: skip


def main() -> None:
    lines, cnn = [], None
    for kind in ModelKind:
        line, built = one(kind)
        lines.append(line)
        cnn = built if kind is ModelKind.CNN else cnn
        print("  ".join(f"{key} {value}" for key, value in line.items()), flush=True)
    assert cnn is not None
    print(json.dumps({"isa": cnn.isa, "kinds": lines, **channel(cnn)}))


if __name__ == "__main__":
    main()
