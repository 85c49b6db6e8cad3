"""Tiny graphs and a repository in memory for the tests of the device. Not a test itself."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import zstandard
from onnx import numpy_helper, parser
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from fedinfer.inference.install.slots import Slots
from fedinfer.inference.install.updater import Updater, UpdateSettings
from fedinfer.inference.predict.session import SessionCache
from fedinfer.manifest import Delta, DeltaMethod, Manifest, Privacy, Variant, current_path, delta_path, model_path
from fedinfer.model_file.sandbox import Isolation
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.system import FrozenClock

NOW = datetime(2030, 5, 1, tzinfo=UTC)
SCHEMA = Schema(
    columns=(
        Numeric("age", 0, 100),
        Numeric("pressure", 80, 200),
        Categorical("ward", ("north", "south", "7")),
        Categorical("smoker", ("no", "yes")),
    ),
    label="outcome",
    labels=("well", "ill", "unclear"),
)
SETTINGS = UpdateSettings(most_latency_us=1e6, stale_after_seconds=3600, isolation=Isolation.NONE)
BODY = {
    "good": "l = Add(m, b)",
    "nan": "h = Add(m, b) q = Sqrt(neg) l = Add(h, q)",
}


def make_model(
    schema: Schema = SCHEMA, seed: int = 0, body: str = "good", labels: Sequence[str] = (), double: bool = False
) -> bytes:
    """Softmax regression on raw values; a missing value counts 0. `body` "nan" makes every answer NaN."""
    rng = np.random.default_rng(seed)
    width, classes = schema.width, schema.classes
    names = ", ".join(f'"{name}"' for name in (labels or schema.labels))
    numbers = ", ".join(str(i) for i in range(classes))
    text = f"""<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml": 4]>
    g (float[batch, {width}] input) => (string[batch] label, float[batch, {classes}] probabilities)
      <float[{width}, {classes}] w, float[{classes}] b, float[1] neg = {{-1.0}}> {{
        zero = Constant<value_float: float = 0.0>()
        missing = IsNaN(input)
        x = Where(missing, zero, input)
        m = MatMul(x, w)
        {BODY[body]}
        probabilities = Softmax<axis: int = -1>(l)
        k = ArgMax<axis: int = 1, keepdims: int = 0>(probabilities)
        label = ai.onnx.ml.LabelEncoder<keys_int64s: ints = [{numbers}], values_strings: strings = [{names}],
                                        default_string: string = "?">(k)
    }}"""
    model = parser.parse_model(text)
    del model.graph.value_info[:]
    scale = rng.standard_normal((width, classes)) / (10 * np.maximum(1, width))
    model.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(classes).astype(np.float32), "b"))
    if double:
        model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return model.SerializeToString()


def softmax_of(model: bytes, rows: np.ndarray) -> np.ndarray:
    """The answers of `make_model`, worked out by numpy from its weights."""
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}
    logits = np.nan_to_num(rows.astype(np.float32), nan=0.0) @ weights["w"] + weights["b"]
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def make_rows(schema: Schema = SCHEMA, count: int = 8, seed: int = 1) -> np.ndarray:
    """Valid raw rows with some missing values."""
    rng = np.random.default_rng(seed)
    rows = np.empty((count, schema.width), np.float32)
    for place, column in enumerate(schema.columns):
        if isinstance(column, Categorical):
            rows[:, place] = rng.integers(0, len(column.categories), count)
        else:
            rows[:, place] = rng.uniform(column.low, column.high, count)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows


def make_variant(version: int, model: bytes, rows: np.ndarray, name: str = "float", chosen: bool = True) -> Variant:
    """What the server writes about a model file of `make_model`."""
    answers = softmax_of(model, rows)
    return Variant(
        name=name,
        path=model_path(version) if chosen else model_path(version, name),
        sha256=hashlib.sha256(model).hexdigest(),
        bytes=len(model),
        recipe="none",
        metric=0.9,
        agreement=1.0,
        calibration_error=0.0,
        temperature=1.0,
        latency_us=10.0,
        labels=tuple(int(k) for k in answers.argmax(1)),
        probabilities=tuple(tuple(float(p) for p in row) for row in answers),
        tolerance=1e-4,
    )


def make_manifest(
    version: int, models: Mapping[str, bytes], schema: Schema = SCHEMA, deltas: tuple[Delta, ...] = ()
) -> Manifest:
    """A manifest whose variants are `models`, the chosen one first."""
    rows = make_rows(schema)
    variants = [make_variant(version, m, rows, name, i == 0) for i, (name, m) in enumerate(models.items())]
    return Manifest(
        version=version,
        task="triage",
        schema=schema,
        variants=tuple(variants),
        check_rows=tuple(tuple(float(v) for v in row) for row in rows),
        float_metric=0.9,
        metrics={"accuracy": 0.9},
        isa="x86_64 avx2",
        created="2030-05-01T00:00:00+00:00",
        privacy=Privacy("1.0", "1e-5", "a test"),
        deltas=deltas,
    )


class Repository:
    """A TUF repository in two dicts: root 2 of 3, consistent snapshots. `fetch` is the transport."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.keys = {
            "root": [CryptoSigner.generate_ed25519() for _ in range(3)],
            **{role: [CryptoSigner.generate_ed25519()] for role in ("timestamp", "snapshot", "targets")},
        }
        self.root = Root(expires=NOW + timedelta(days=365), consistent_snapshot=True)
        for role, signers in self.keys.items():
            for signer in signers:
                self.root.add_key(signer.public_key, role)
        self.root.roles["root"].threshold = 2
        self.targets = Targets(expires=NOW + timedelta(days=90))
        self.snapshot = Snapshot(expires=NOW + timedelta(days=7))
        self.timestamp = Timestamp(expires=NOW + timedelta(days=1))
        self.trusted_root = self.sign(self.root, self.keys["root"][:2])
        self.files["metadata/1.root.json"] = self.trusted_root
        self.sign_all()

    def sign(self, signed: Signed, signers: Sequence[CryptoSigner]) -> bytes:
        document = Metadata(copy.deepcopy(signed))
        for signer in signers:
            document.sign(signer, append=True)
        return document.to_bytes()

    def sign_all(self) -> None:
        """New targets, snapshot and timestamp."""
        for signed in (self.targets, self.snapshot, self.timestamp):
            signed.version += 1
        number = self.targets.version
        self.files[f"metadata/{number}.targets.json"] = self.sign(self.targets, self.keys["targets"])
        self.snapshot.meta["targets.json"] = MetaFile(version=number)
        number = self.snapshot.version
        self.files[f"metadata/{number}.snapshot.json"] = self.sign(self.snapshot, self.keys["snapshot"])
        self.timestamp.snapshot_meta = MetaFile(version=number)
        self.files["metadata/timestamp.json"] = self.sign(self.timestamp, self.keys["timestamp"])

    def add(self, path: str, data: bytes) -> None:
        target = TargetFile.from_data(path, data, ["sha256"])
        self.targets.targets[path] = target
        self.files[self.place(path)] = data

    def place(self, path: str) -> str:
        """Where the bytes of a target are fetched from."""
        folder, _, name = path.rpartition("/")
        return f"targets/{folder}/{self.targets.targets[path].hashes['sha256']}.{name}"

    def publish(
        self,
        version: int,
        models: Mapping[str, bytes] | None = None,
        manifest: Manifest | None = None,
        cohort: str = "",
    ) -> Manifest:
        models = models or {"float": make_model(seed=version)}
        manifest = manifest or make_manifest(version, models)
        for variant in manifest.variants:
            self.add(variant.path, models[variant.name])
        self.add(current_path(cohort), manifest.to_bytes())
        self.sign_all()
        return manifest

    def publish_patch(self, version: int, old: int) -> None:
        """The next version, with a patch from the model of an older one."""
        before, model = make_model(seed=old), make_model(seed=version)
        dictionary = zstandard.ZstdCompressionDict(before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        packed = zstandard.ZstdCompressor(level=19, dict_data=dictionary).compress(model)
        plain, digest = make_manifest(version, {"float": model}), hashlib.sha256(before).hexdigest()
        path = delta_path(version, "float", digest)
        delta = Delta(path, len(packed), DeltaMethod.ZSTD_PATCH, digest, plain.chosen.sha256)
        self.add(path, packed)
        self.publish(version, {"float": model}, replace(plain, deltas=(delta,)))

    def fetch(self, path: str) -> bytes | None:
        self.requests.append(path)
        return self.files.get(path)


def make_updater(
    folder: Path, repository: Repository, settings: UpdateSettings = SETTINGS, cache: SessionCache | None = None
) -> Updater:
    """A device in a folder."""
    slots = Slots(folder / "slots", flush=lambda descriptor: None)
    clock = FrozenClock(NOW)
    return Updater(
        slots,
        repository.trusted_root,
        folder / "metadata",
        settings,
        clock,
        SessionCache(8) if cache is None else cache,
    )


def with_variant(manifest: Manifest, **changes: object) -> Manifest:
    """The manifest with another first variant."""
    first = replace(manifest.variants[0], **changes)
    return replace(manifest, variants=(first, *manifest.variants[1:]))
