"""Pruning and fine-tuning for int8: what they cost and what they save, per model kind, on privately trained weights.

Each kind is trained federated with privacy once, as in `model_kinds.py` but with a tenth of the rows as public ones.
Its last weights then become the plain file and slim ones. A file that the default gates refuse is shown all the same,
built with open gates and marked: a run would push the plain file instead.

    python simulations/slimming.py [KIND ...]
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from model_kinds import KINDS, QUIET

from fedinfer.artifact.build import Built, build_artifact
from fedinfer.artifact.choice import download_bytes
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.graph import OutputHead
from fedinfer.artifact.export.torch import Templates
from fedinfer.artifact.quantize.schemes import rounds_inputs
from fedinfer.config import ArtifactSection, load_scenario
from fedinfer.errors import GateFailed
from fedinfer.simulation.engine import Prepared, prepare_local, run_local
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.training import load_trainer
from fedinfer.training.checkpoints import load_checkpoint
from fedinfer.training.compression import CompressionPlan, Rounded
from fedinfer.training.trainer import Trainer
from fedinfer.types import FloatVector

SHOWN = ("mlp", "cnn", "gru", "bag", "transformer")
LARGER = {"cnn": ("model.hidden=[32,64]",)}
IDEAL = "secure_aggregation.mode=ideal"  # the same integers without masks: only the weights matter here
SLIM = ((0.0, 300), (0.5, 0), (0.5, 300), (0.8, 0), (0.8, 300))
OPEN = ArtifactSection(min_agreement=0.0, max_metric_drop=1.0, max_calibration_gap=1.0)
CLOCK = SystemClock()


@dataclass(frozen=True)
class EvaluationContext:
    """One trained model and the rows to work and to judge with."""

    prepared: Prepared
    trainer: Trainer
    weights: FloatVector
    evidence: Evidence
    templates: Templates

    def build(self, weights: FloatVector, settings: ArtifactSection, plain: Built | None) -> Built:
        """Export, gate and measure weights; against the float model of `plain` when there is one."""
        head = OutputHead(self.prepared.federation.schema, 1.0, "slimming", 1)
        module, baseline = self.trainer.module(weights), plain.baseline if plain else None
        return build_artifact(module, head, self.evidence, settings, self.templates, CLOCK, baseline)


def trained(kind: str) -> EvaluationContext:
    """The private weights of a kind after its last round, and its rows."""
    name, changes = KINDS[kind]
    public = () if name == "reviews" else ("data.public_fraction=0.1",)
    changed = [f"model.kind={kind}", *QUIET, *changes, *LARGER.get(kind, ()), *public, IDEAL]
    prepared = prepare_local(load_scenario(name, changed))
    with tempfile.TemporaryDirectory() as folder:
        run_local(prepared, Path(folder), CLOCK, lambda name, fields: None)
        weights = load_checkpoint(Path(folder) / "checkpoints" / "v1.npz").arrays["weights"]
    scenario, federation = prepared.scenario, prepared.federation
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, scenario.scenario.seed)
    public_x = federation.public[0]
    evidence = Evidence(*federation.test, np.ascontiguousarray(public_x[:256]), public_x)
    return EvaluationContext(prepared, trainer, weights, evidence, Templates())


def lines(kind: str) -> Iterator[dict[str, object]]:
    """The plain file of a kind, then the slim ones."""
    context = trained(kind)
    plain = context.build(context.weights, ArtifactSection(), None)
    start = CLOCK.seconds()
    context.build(context.weights, ArtifactSection(), None)  # again: the first build exports, later ones swap weights
    yield reported(kind, 0.0, 0, plain, "", CLOCK.seconds() - start)
    inputs = rounds_inputs(plain.chosen.recipe, plain.family)
    batch = context.prepared.scenario.training.batch_size
    for pruning, steps in SLIM:
        plan = CompressionPlan(pruning, steps, batch, Rounded.INPUTS if inputs else Rounded.WEIGHTS)
        start, gates = CLOCK.seconds(), "pass"
        compress = context.trainer.compress(
            context.weights, context.prepared.federation.public[0], plan, simulation_rng(1, kind)
        )
        try:
            built = context.build(compress, ArtifactSection(), plain)
            taken = CLOCK.seconds() - start
        except GateFailed:
            taken, gates = CLOCK.seconds() - start, "refuse"
            built = context.build(compress, OPEN, plain)
        yield reported(kind, pruning, steps, built, gates, taken)


def reported(kind: str, pruning: float, steps: int, built: Built, gates: str, taken: float) -> dict[str, object]:
    """One line of the table."""
    return {
        "kind": kind, "pruning": pruning, "qat_steps": steps, "float_metric": round(built.float_metric, 3),
        "metric": round(built.chosen.metric, 3), "agreement": round(built.chosen.agreement, 3),
        "recipe": built.chosen.recipe, "bytes": built.chosen.bytes, "zstd_bytes": download_bytes(built),
        "seconds": round(taken, 1), "gates": gates,
    }  # fmt: skip


if __name__ == "__main__":
    found = []
    for kind in sys.argv[1:] or SHOWN:
        for line in lines(kind):
            found.append(line)
            print("  ".join(f"{key} {value}" for key, value in line.items()), flush=True)
    print(json.dumps({"simulation": "slimming", "files": found}))
