"""Fitted scikit-learn models as gated ONNX files: accuracy before, in the file, and as a device predicts.

Trained on all rows in one place, without privacy: boosted trees are not trained federated here.

    python simulations/sklearn_models.py
"""

import json

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedinfer.artifact.build import build_from_core
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.estimators import export_estimator
from fedinfer.artifact.export.graph import OutputHead
from fedinfer.artifact.quantize.calibration import synthetic_rows
from fedinfer.config import ArtifactSection, load_scenario
from fedinfer.data import load
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.system import SystemClock, simulation_rng

ESTIMATORS = {
    "LogisticRegression": make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=2000)),
    "RandomForestClassifier": RandomForestClassifier(100, max_depth=6, random_state=1),
    "HistGradientBoostingClassifier": HistGradientBoostingClassifier(max_iter=60, random_state=1),
}


def line(name: str, kind: str) -> dict[str, object]:
    """Fit, convert, gate and predict with one estimator."""
    federation, estimator = load(load_scenario(name)), ESTIMATORS[kind]
    rows = [(device.train_x, device.train_y) for device in federation.devices.values()]
    x, y = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    estimator.fit(x, y)
    calibration = synthetic_rows(federation.schema, 256, simulation_rng("calibration"))
    evidence = Evidence(*federation.test, calibration, calibration[:0])
    core, head = export_estimator(estimator, federation.schema, x[:200]), OutputHead(federation.schema, 1.0, name, 1)
    built = build_from_core(core.model, head, evidence, ArtifactSection(), SystemClock())
    held_x, held_y = federation.test
    answers = Predictor.open(built.files[built.chosen.name]).predict(held_x).probabilities.argmax(axis=1)
    return {
        "data": name, "estimator": kind, "sklearn": round(estimator.score(held_x, held_y), 3),
        "file": round(built.chosen.metric, 3), "device": round(float((answers == held_y).mean()), 3),
        "recipe": built.chosen.recipe, "bytes": built.chosen.bytes, "us": round(built.chosen.latency_us, 1),
    }  # fmt: skip


if __name__ == "__main__":
    lines = [line(name, kind) for name in ("heart", "credit") for kind in ESTIMATORS]
    for figures in lines:
        print("  ".join(f"{key} {value}" for key, value in figures.items()))
    print(json.dumps({"simulation": "sklearn_models", "models": lines}))
