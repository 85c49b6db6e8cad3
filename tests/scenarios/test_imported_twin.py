"""A model that was trained elsewhere learns on: its torch twin, the last layer under privacy, the same contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedinfer.artifact import ModelTask, Wishes, answers_of, finish, imported_from
from fedinfer.config import ModelSection, Tune, load_scenario
from fedinfer.inference import SessionCache, Slots, open_installed
from fedinfer.simulation.engine import DEVICES_FOLDER
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.training import load_checkpoint, load_trainer
from tests.scenarios.runs import run

HERE = "tests.scenarios.test_imported_twin"
COLUMNS, LABELS = ("a", "b", "c", "d"), ("no", "yes")
SCENARIO = """
[scenario]
name = "twin"
description = "the last layer of a model that was trained elsewhere"
[data]
source = "csv"
path = "rows.csv"
label = "label"
labels = ["no", "yes"]
ranges = {{ a = [-4, 4], b = [-4, 4], c = [-4, 4], d = [-4, 4] }}
[data.partition]
devices = 30
[model]
factory = "{here}:twin"
[training]
tune = "head"
rounds = 10
local_epochs = 2
learning_rate = 0.5
[privacy]
unit = "device"
trust = "central"
epsilon = 8.0
delta = 1e-5
clipping_norm = 1.0
[drift]
enabled = false
"""


class Twin(nn.Sequential):
    """Raw rows (n, 4) to two logits, as it was trained elsewhere: a + b above 0."""

    raw_rows = True

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 2))


def twin(schema: object) -> nn.Module:
    """Its weights, from one pass over rows of the old place."""
    del schema
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, x = Twin(), torch.from_numpy(rows(800, 5)[0])
        y = (x[:, 0] + x[:, 1] > 0).long()
        optimizer = torch.optim.Adam(model.parameters(), 0.03)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the fleet, where a - b decides."""
    x = simulation_rng("twin", seed).normal(0, 1.2, (count, 4)).clip(-4, 4).astype(np.float32)
    return x, (x[:, 0] - x[:, 1] > 0).astype(np.int64)


@pytest.mark.slow
def test_the_last_layer_learns_under_privacy_and_devices_get_the_same_contract(tmp_path: Path) -> None:
    x, y = rows(1500, 1)
    lines = [",".join([*(f"{value:.4f}" for value in row), LABELS[label]]) for row, label in zip(x, y, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join([",".join([*COLUMNS, "label"]), *lines]) + "\n")
    (tmp_path / "twin.toml").write_text(SCENARIO.format(here=HERE))
    wishes = Wishes(ModelTask.CLASSIFICATION, LABELS, columns=COLUMNS, ranges={"input": (-4, 4)})
    imported = imported_from(twin(None), x[:64], "twin", "label", wishes, SystemClock(), simulation_rng("twin"))
    before = answers_of(finish(imported.core, imported.head(1)), x, imported.schema)

    scenario = load_scenario(str(tmp_path / "twin.toml"), [])
    trainer = load_trainer(ModelSection(factory=f"{HERE}:twin"), imported.schema, scenario.training, 0)
    assert scenario.training.tune is Tune.HEAD
    assert trainer.dimension == 2 * 24 + 2
    np.testing.assert_allclose(trainer.predict(trainer.initial(), x), before, atol=1e-5)  # a twin, before it learns

    done = run(scenario, tmp_path / "run")
    assert done.failure is None
    weights = load_checkpoint(sorted((tmp_path / "run/checkpoints").glob("*.npz"))[-1]).arrays["weights"]
    moved = np.flatnonzero(weights != trainer.initial())
    assert moved.min() >= trainer.size - trainer.dimension  # what lies below the head is as it came
    device = next(path for path in sorted((tmp_path / "run" / DEVICES_FOLDER).iterdir()) if path.is_dir())
    installed = open_installed(Slots(device / "slots"), SessionCache(1))
    schema = installed.predictor.schema
    assert (schema.columns, schema.labels, schema.label) == (
        imported.schema.columns, imported.schema.labels, imported.schema.label,
    )  # fmt: skip
    after = installed.predictor.predict_matrix(x).raw
    was, is_now = ((answers.argmax(axis=1) == y).mean() for answers in (before, after))
    assert was < 0.6
    assert is_now > 0.85
