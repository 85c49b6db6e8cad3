"""Fashion-MNIST at (3, 1e-5) per picture, beside Tramèr and Boneh 2021: DP-SGD, Poisson samples of 2,048 pictures.

Published: *Differentially private learning needs better features (or much more data)*, ftramer/Handcrafted-DP: 0.860
with their small CNN (step 4, momentum 0.9, clipping norm 0.1, 40 passes, noise 2.15 by the accountant of that time).
There one trainer holds all rows and adds the noise; here four devices hold 15,000 pictures each and add shares of it.

    python simulations/reproduce_fashion.py [SEEDS] [PASSES]
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _fashion import federation
from torch import nn

from fedinfer.config import load_scenario
from fedinfer.schema import Schema
from fedinfer.simulation.engine import prepare_federation, run_local
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.training import load_checkpoint, load_trainer

PICTURES, DEVICES, BATCH = 60_000, 4, 2048
COMMON = (
    "drift.enabled=false", "rollout.canary_epsilon=0", "fleet.dropout=0", "secure_aggregation.mode=ideal",
    "report.pooled=false", "training.metric=accuracy", "training.pretrain=false", "privacy.unit=example",
    "privacy.trust=distributed", "privacy.epsilon=3", "privacy.delta=1e-5", "privacy.clipping_norm=0.1",
    "secure_aggregation.dropout_rate=0", "secure_aggregation.corruption_rate=0",
    "training.server_optimizer=fedavgm", "training.server_momentum=0.9", "training.server_learning_rate=4",
    f"training.sampling_rate={BATCH / PICTURES}",
)  # fmt: skip


def small_cnn(schema: Schema) -> nn.Module:
    """Their `MNIST_CNN` (26,010 parameters), with a longer stride in place of two max-pools of stride 1.

    Args:
        schema: of the pictures.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, 2), nn.Tanh(), nn.Conv2d(16, 32, 4, 3, 0), nn.Tanh(),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 32), nn.Tanh(), nn.Linear(32, schema.classes),
    )  # fmt: skip


def once(seed: int, passes: float) -> dict[str, float]:
    """One run."""
    order = simulation_rng(seed, "deal").permutation(PICTURES)
    held = federation(np.array_split(order, DEVICES))
    rounds = round(passes * PICTURES / BATCH)
    scenario = load_scenario(
        "digits",
        [
            *COMMON,
            f"model.factory=reproduce_fashion:{small_cnn.__name__}",
            f"training.rounds={rounds}",
            f"scenario.seed={seed}",
        ],
    )
    scenario = scenario.model_copy(update={"base": Path(__file__).parent})
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        record = run_local(prepare_federation(scenario, held), Path(folder), SystemClock(), lambda *_: None)
        weights = load_checkpoint(max(Path(folder, "checkpoints").glob("v*.npz"))).arrays["weights"]
    trainer = load_trainer(scenario.model, held.schema, scenario.training, seed)
    return {
        "accuracy": trainer.evaluate(weights, *held.test)["accuracy"],
        "noise_multiplier": record["privacy"]["noise_multiplier"],
        "epsilon": record["privacy"]["epsilon"],
        "cpu_seconds": time.process_time() - begin,
    }


def main(seeds: int, passes: float) -> None:
    """A table, and as the last line one JSON object."""
    runs = [once(seed, passes) for seed in range(1, seeds + 1)]
    print("| | published | here | noise z there | noise z here | epsilon here | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    mean = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    print(
        f"| CNN, {passes:g} passes | 0.860 | {mean['accuracy']:.3f} | 2.15 | {mean['noise_multiplier']:.2f} | "
        f"{mean['epsilon']:.2f} | {mean['cpu_seconds']:.0f} |"
    )
    print(json.dumps({"seeds": seeds, "passes": passes, **mean}))


if __name__ == "__main__":
    main(*(int(sys.argv[1]) if len(sys.argv) > 1 else 1, float(sys.argv[2]) if len(sys.argv) > 2 else 40.0))
