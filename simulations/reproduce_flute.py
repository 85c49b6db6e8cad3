"""FLUTE's LR-MNIST shape: 1,000 clients, 10 in a round, 100 rounds of FedAvg with a logistic regression.

Published: microsoft/msrflute README: 200 s on CPUs for FLUTE, 1,814 s for Flower 1.0's simulation, 189 s on GPUs for
FedML, all near 81 % accuracy on MNIST. MNIST is in no package, so the pictures are those of Fashion-MNIST
(`_fashion.py`): of the same shape, and harder. Each client has 60 of two classes. `fedinfer run` does more than they:
every client has a ledger and a store, sums are made of integers, and at the end a signed int8 model is pushed to all.

    python simulations/reproduce_flute.py [SEEDS]
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _fashion import federation, pictures
from torch import nn

from fedinfer.config import load_scenario
from fedinfer.schema import Schema
from fedinfer.simulation.engine import prepare_federation, run_local
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.training import load_checkpoint, load_trainer
from fedinfer.types import Json

CLIENTS, SHARDS = 1000, 2
COMMON = (
    "drift.enabled=false", "rollout.canary_epsilon=0", "fleet.dropout=0", "secure_aggregation.mode=ideal",
    "report.pooled=false", "training.metric=accuracy", "training.pretrain=false", "privacy.unit=none",
    "privacy.clipping_norm=10", "training.cohort=10", "training.rounds=100", "training.local_epochs=1",
    "training.local_steps=0", "training.batch_size=10", "training.learning_rate=0.03",
    "training.server_learning_rate=1",
)  # fmt: skip
PUBLISHED = (("FLUTE, CPU", 200), ("Flower 1.0, CPU", 1814), ("FedML 0.7, GPU", 189), ("FLUTE, GPU", 95))


def plain_regression(schema: Schema) -> nn.Module:
    """784 pixels in [0, 1] to ten logits.

    Args:
        schema: of the pictures.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(schema.width, schema.classes))


def deal(seed: int) -> list[np.ndarray]:
    """Two shards of one class each for every client (McMahan et al. 2017, section 3)."""
    rng = simulation_rng(seed, "deal")
    _, y = pictures("train")
    mixed = rng.permutation(len(y))
    shards = np.array_split(mixed[np.argsort(y[mixed], kind="stable")], CLIENTS * SHARDS)
    order = rng.permutation(len(shards)).reshape(CLIENTS, SHARDS)
    return [np.concatenate([shards[place] for place in places]) for places in order]


def once(seed: int) -> Json:
    """One run: seconds of its rounds and of the whole command, and accuracy on the 10,000 test pictures."""
    held = federation(deal(seed))
    scenario = load_scenario(
        "digits", [*COMMON, f"model.factory=reproduce_flute:{plain_regression.__name__}", f"scenario.seed={seed}"]
    )
    scenario = scenario.model_copy(update={"base": Path(__file__).parent})
    begin, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        record = run_local(prepare_federation(scenario, held), Path(folder), SystemClock(), lambda *_: None)
        weights = load_checkpoint(max(Path(folder, "checkpoints").glob("v*.npz"))).arrays["weights"]
    whole, cpu = time.perf_counter() - begin, time.process_time() - cpu
    trainer = load_trainer(scenario.model, held.schema, scenario.training, seed)
    return {
        "accuracy": trainer.evaluate(weights, *held.test)["accuracy"],
        "rounds_seconds": sum(row["seconds"] for row in record["rounds"]),
        "whole_seconds": whole,
        "whole_cpu_seconds": cpu,
    }


def main(seeds: int) -> None:
    """A table, and as the last line one JSON object."""
    runs = [once(seed) for seed in range(1, seeds + 1)]
    mean = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    print("| | seconds | accuracy |\n|---|---|---|")
    for name, seconds in PUBLISHED:
        print(f"| {name}, published | {seconds:,} | about 0.81, MNIST |")
    accuracy = f"{mean['accuracy']:.3f}, Fashion-MNIST"
    print(f"| fedinfer, 100 rounds | {mean['rounds_seconds']:.1f} | {accuracy} |")
    print(f"| fedinfer, whole run with push to 1,000 devices | {mean['whole_seconds']:.1f} | {accuracy} |")
    print(f"| the same, CPU seconds | {mean['whole_cpu_seconds']:.1f} | |")
    print(json.dumps({"seeds": seeds, **mean}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
