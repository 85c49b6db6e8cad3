"""Every model kind, end to end: trained federated with privacy, exported, quantized by gates, pushed, run on a device.

Accuracy (of numbers RMSE) on the same held-out rows: without privacy on all training rows in one place (pooled), of the
private float model, of the file that devices got, and what a device answers. Bytes and median microseconds are those
of the build.

    python simulations/model_kinds.py [KIND ...]
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from fedinfer.config import load_scenario
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.answers import Predictions
from fedinfer.inference.predict.session import SessionCache
from fedinfer.simulation.engine import DEVICES_FOLDER, Prepared, prepare_local, run_local
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.text import raw_rows
from fedinfer.training import load_trainer

POOLED_EPOCHS = (5, 15, 40)
QUIET = ("drift.enabled=false", "training.pretrain_epochs=40")
PUBLIC = ("data.public_fraction=0.1", "training.pretrain=true")
SAMPLED = ("training.rounds=40", "training.sampling_rate=0.3", "privacy.clipping_norm=1")
KINDS = {  # scenario, and what is changed in it
    "logistic": ("heart", ()),
    "linear": ("deliveries", ("model.pairs=[]", "secure_aggregation.mode=ideal")),
    "additive": ("churn", ("secure_aggregation.mode=ideal",)),
    "mlp": ("credit", ("model.hidden=[32]", "training.server_learning_rate=0.03", *SAMPLED)),
    "cnn": ("digits", ("model.hidden=[8,16]", "training.tune=head", "training.learning_rate=0.3")),
    "tcn": ("watch", ()),
    "gru": ("watch", ("model.hidden=[24]", "training.rounds=60", "training.sampling_rate=0.5", *PUBLIC)),
    "bag": ("reviews", ("training.pretrain_epochs=20",)),
    "transformer": ("reviews", ("model.hidden=[8]", "training.rounds=15", "training.pretrain_epochs=8")),
    "recommender": ("ratings", ()),
}


def pooled(prepared: Prepared) -> float:
    """The figure without privacy: Adam on all training and public rows in one place, the best of three lengths."""
    scenario, federation = prepared.scenario, prepared.federation
    held = [(device.train_x, device.train_y) for device in federation.devices.values()] + [federation.public]
    x, y = (np.concatenate(parts) for parts in zip(*held, strict=True))
    found = []
    for epochs in POOLED_EPOCHS:
        settings = scenario.training.model_copy(update={"pretrain_epochs": epochs, "tune": "all"})
        trainer = load_trainer(scenario.model, federation.schema, settings, scenario.scenario.seed)
        weights = trainer.pretrain(trainer.initial(), x, y, simulation_rng("pooled"))
        figures = trainer.evaluate(weights, *federation.test)
        found.append(figures.get("accuracy", figures.get("rmse", 0.0)))
    return max(found) if federation.schema.label_range is None else min(found)


def simplest(y: np.ndarray) -> float:
    """Accuracy of always answering the most frequent class, or the RMSE of always answering the mean."""
    return float(y.std()) if y.dtype.kind == "f" else float(np.bincount(y).max() / len(y))


def score(answers: Predictions, y: np.ndarray) -> float:
    """Accuracy, or RMSE of numbers."""
    if answers.naming.bounds is not None:
        return float(np.sqrt(np.mean((answers.values - y) ** 2)))
    return float((answers.classes == y).mean())


def line(kind: str) -> dict[str, object]:
    """Run one kind and read its figures."""
    name, changes = KINDS[kind]
    prepared = prepare_local(load_scenario(name, [f"model.kind={kind}", *QUIET, *changes]))
    with tempfile.TemporaryDirectory() as folder:
        record = run_local(prepared, Path(folder), SystemClock(), lambda name, fields: None)
        slots = Slots(Path(folder) / DEVICES_FOLDER / min(prepared.federation.devices) / "slots")
        installed = open_installed(slots, SessionCache(1))
        x, y = prepared.federation.test
        answers = installed.predictor.predict(raw_rows(prepared.federation.schema, x))
        on_device = score(answers, y)
    model, privacy, us = record["models"][-1], record["privacy"], {v.name: v for v in installed.manifest.variants}
    return {
        "kind": kind, "data": name, "unit": privacy["unit"], "epsilon": round(privacy["epsilon"], 2),
        "majority": round(simplest(y), 3), "pooled": round(pooled(prepared), 3),
        "float": round(model["float_metric"], 3), "int8": round(model["quantized_metric"], 3),
        "device": round(on_device, 3), "recipe": model["recipe"], "agreement": round(model["agreement"], 3),
        "float_bytes": model["float_bytes"], "bytes": model["quantized_bytes"],
        "float_us": round(us["float"].latency_us, 1), "us": round(installed.manifest.variants[0].latency_us, 1),
        "seconds": round(record["seconds"]),
    }  # fmt: skip


if __name__ == "__main__":
    lines = []
    for kind in sys.argv[1:] or KINDS:
        lines.append(line(kind))
        print("  ".join(f"{key} {value}" for key, value in lines[-1].items()), flush=True)
    print(json.dumps({"simulation": "model_kinds", "kinds": lines}))
