"""Small cores, releases and repositories for the tests of the artifact room. Not a test itself."""

from __future__ import annotations

import hashlib
import itertools
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.signing import generate_keys, save_keys
from fedinfer.manifest import Manifest, Privacy, Variant, model_path
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.system import FrozenClock, SimulatedEntropy, simulation_rng

START = datetime(2030, 5, 1, tzinfo=UTC)
PRIVACY = Privacy("0.93", "1e-05", "(0.93, 1e-05)-differential privacy per example")
TABLE = Schema(
    columns=(
        Numeric("age", 0.0, 100.0),
        Numeric("pressure", 80.0, 200.0),
        Categorical("ward", ("north", "south", "7")),
    ),
    label="outcome",
    labels=("well", "ill", "unclear"),
)


def vector_schema(width: int, classes: int) -> Schema:
    """Numeric columns in [-1, 1]."""
    columns = tuple(Numeric(f"x{i}", -1.0, 1.0) for i in range(width))
    return Schema(columns, "y", tuple(f"class {i}" for i in range(classes)))


def dense_core(sizes: tuple[int, ...], seed: int = 1, scale: float = 1.0) -> onnx.ModelProto:
    """A perceptron core, input (batch, sizes[0]), logits (batch, sizes[-1]); Gemm and Relu as torch exports them."""
    rng = simulation_rng(seed, "core")
    nodes, weights, name = [], [], "input"
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        last = i == len(sizes) - 2
        weights.append(numpy_helper.from_array((scale * rng.normal(0, a**-0.5, (b, a))).astype(np.float32), f"w{i}"))
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, b).astype(np.float32), f"b{i}"))
        out = "logits" if last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [out], name=f"gemm{i}", transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"], name=f"relu{i}"))
            name = f"r{i}"
    return model_of(nodes, weights, sizes[0], sizes[-1])


def model_of(nodes: list, weights: list, width: int, classes: int) -> onnx.ModelProto:
    """A checked core from nodes and initializers."""
    graph = helper.make_graph(
        nodes,
        "core",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def evidence_for(core: onnx.ModelProto, width: int, rows: int = 400, seed: int = 2) -> Evidence:
    """Rows in [-1, 1] labelled by the core itself, one label in ten wrong."""
    from fedinfer.artifact.export.graph import run

    rng = simulation_rng(seed, "rows")
    x = rng.uniform(-1, 1, (rows, width)).astype(np.float32)
    logits = run(core.SerializeToString(), x, "logits")
    y = logits.argmax(axis=1).astype(np.int64)
    wrong = rng.random(rows) < 0.1
    y[wrong] = rng.integers(0, logits.shape[1], int(wrong.sum()))
    calibration = rng.uniform(-1, 1, (128, width)).astype(np.float32)
    return Evidence(x, y, calibration, calibration)


def graph_around(body: bytes) -> bytes:
    """A well-formed file that holds these bytes as a weight."""
    weight = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[len(body)], raw_data=body)
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])
    return bytes(helper.make_model(helper.make_graph([], "g", [], [output], [weight])).SerializeToString())


def release(version: int, body: bytes = b"model bytes", schema: Schema = TABLE) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest with one variant and its file, which is no model that runs: the repository looks at its rules only."""
    data = graph_around(body + b" of version %d" % version)
    rows = ((50.0, float("nan"), 1.0), (10.0, 120.0, 2.0))
    chosen = Variant(
        name="int8",
        path=model_path(version),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        recipe="static-qdq-s8s8",
        metric=0.81,
        agreement=0.99,
        calibration_error=0.03,
        temperature=1.2,
        latency_us=12.5,
        labels=(0, 2),
        probabilities=((0.7, 0.2, 0.1), (0.1, 0.1, 0.8)),
        tolerance=0.05,
    )
    manifest = Manifest(
        version=version,
        task="demo",
        schema=schema,
        variants=(chosen,),
        check_rows=rows,
        float_metric=0.82,
        metrics={"accuracy": 0.81},
        isa="x86_64 avx2",
        created=START.isoformat(),
        privacy=PRIVACY,
    )
    return manifest, {chosen.path: data}


class Site:
    """A repository on disk with its keys, its clock and what a device would be shipped with."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.folder, self.keys_folder = folder / "artifacts", folder / "keys"
        self.clock, self.entropy = FrozenClock(START), SimulatedEntropy("site", seed)
        self.repository = Repository(self.folder, generate_keys(self.entropy), self.clock, self.keep)
        self.trusted_root = self.repository.trusted_root()

    def keep(self, keys) -> None:
        save_keys(keys, self.keys_folder)

    def publish(self, *versions: int) -> None:
        for version in versions:
            self.repository.publish(*release(version))
