"""From weights to a model on every device: build, gate, sign, push in waves, judge each wave before the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from fedinfer.artifact.build import Built, build_artifact
from fedinfer.artifact.choice import choose
from fedinfer.artifact.evaluate.measure import Baseline, Evidence
from fedinfer.artifact.export.graph import OutputHead
from fedinfer.artifact.quantize.calibration import synthetic_rows
from fedinfer.artifact.quantize.schemes import rounds_inputs
from fedinfer.artifact.release.delta import add_deltas
from fedinfer.coordinator.aggregate.release import LEDGER_OWNER
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.rollout import Steps, hint_of, reachable, roll_out
from fedinfer.coordinator.record import ModelRecord
from fedinfer.errors import GateFailed
from fedinfer.manifest import Manifest, Privacy
from fedinfer.privacy.rounding import at_most
from fedinfer.rollout.controller import Phase
from fedinfer.training.checkpoints import Checkpoint, save_checkpoint
from fedinfer.types import DeviceId, FloatVector, Unit

SYNTHETIC_ROWS = 256
FEWEST_PUBLIC_ROWS = 32
"""With fewer public rows calibration and self-check rows are drawn from the public ranges."""


def publish_and_push(server: Server, plan: RunPlan, progress: Progress) -> None:
    """Bring the present weights to the fleet as the next version.

    Raises:
        GateFailed: when the artifact does not pass its gates, or a wave fails on the devices; what is installed stays
            or goes back to the version before.
    """
    previous = max(server.repository.versions(), default=0)  # never a withdrawn one: it would be the one to go back to
    progress.version += 1
    reason = progress.rounds[-1].reason if progress.rounds else "initial"
    path = server.folder / "checkpoints" / f"v{progress.version}.npz"
    save_checkpoint(path, Checkpoint({"weights": progress.weights}, {"version": progress.version, "reason": reason}))
    built = build(server, progress)
    manifest = built.manifest(_guarantee(server, plan), server.clock.now().isoformat(timespec="seconds"))
    active = reachable(server, progress.version)
    publish(server, manifest, built.targets(), active)
    record = ModelRecord(progress.version, reason, progress.window, built)
    server.emit("built", record.to_json())
    steps = Steps()
    try:
        state = roll_out(server, plan, progress, previous, active, steps)
    finally:  # an interrupted rollout is in the record as far as it came
        record = replace(record, rollout=steps.record())
        progress.models.append(record)
    if state.phase is not Phase.DONE:
        raise GateFailed(
            f"version {state.version} was {state.phase} in wave {state.wave + 1}: {state.reason}", hint=hint_of(state)
        )
    server.emit("pushed", record.to_json())
    # The newest is never pruned; these are what one may have to go back to, and what devices may still run.
    server.repository.prune(server.scenario.rollout.keep_versions, {previous, *active.values()})


def publish(server: Server, manifest: Manifest, files: Mapping[str, bytes], active: Mapping[DeviceId, int]) -> None:
    """Sign a version, with patches from the versions that devices say they run, the most frequent ones first."""
    versions = [version for version, _ in Counter(active.values()).most_common()]
    bases = [server.repository.model_files(version) for version in versions]
    server.repository.publish(*add_deltas(manifest, files, [manifest.chosen], bases))


def build(server: Server, progress: Progress) -> Built:
    """Export, quantize and gate the present weights; with `pruning` or `qat_steps` a slim file beside them.

    Pruning and fine-tuning change the pushed file only: the next round starts from all weights, unrounded.

    Raises:
        GateFailed: with the figures.
    """
    rng = server.generator(f"calibration {progress.version}")
    public_x, public_y = server.public
    enough = len(public_y) >= FEWEST_PUBLIC_ROWS
    calibration = public_x if enough else synthetic_rows(server.schema, SYNTHETIC_ROWS, rng)
    held_x, held_y = server.judged(progress.window)
    evidence = Evidence(held_x, held_y, np.ascontiguousarray(calibration[:SYNTHETIC_ROWS]), public_x)
    task = server.scenario.scenario.name
    section = server.scenario.artifact
    head = OutputHead(server.schema, 1.0, task, progress.version, section.top, section.abstain_below)
    make = partial(_exported, server, head, evidence)
    plain = make(progress.weights, None)
    if not (section.pruning or section.qat_steps):
        return plain
    return choose(
        plain, lambda float_model: make(_compressed(server, progress, plain), float_model), section, server.clock
    )


def _exported(
    server: Server, head: OutputHead, evidence: Evidence, weights: FloatVector, float_model: Baseline | None
) -> Built:
    section, module = server.scenario.artifact, server.trainer.module(weights)
    return build_artifact(module, head, evidence, section, server.templates, server.clock, float_model)


def _compressed(server: Server, progress: Progress, plain: Built) -> FloatVector:
    """The present weights pruned and fine-tuned for the recipe of the plain file, on rows the server holds anyway."""
    from fedinfer.training.compression import CompressionPlan, Rounded

    section, rng = server.scenario.artifact, server.generator(f"slimming {progress.version}")
    rounded = Rounded.INPUTS if rounds_inputs(plain.chosen.recipe, plain.family) else Rounded.WEIGHTS
    asked = CompressionPlan(section.pruning, section.qat_steps, server.scenario.training.batch_size, rounded)
    return server.trainer.compress(progress.weights, server.public[0], asked, rng)


def _guarantee(server: Server, plan: RunPlan) -> Privacy:
    """What the manifest says about the training data of this version; numbers as text, as they were proved."""
    privacy = server.scenario.privacy
    if privacy.unit is Unit.NONE:
        return Privacy("inf", "1", "no privacy guarantee: trained without noise")
    spent = server.ledger.spent(LEDGER_OWNER, server.run_id)
    return Privacy(
        at_most(spent.epsilon, 6),
        f"{spent.delta:g}",
        f"({at_most(spent.epsilon)}, {spent.delta:g})-differential privacy per {privacy.unit} ({plan.relation}), "
        f"accountant {spent.accountant}, sampling {spent.sampling}, trust {privacy.trust}",
    )
