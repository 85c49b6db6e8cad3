"""From weights to a model on every device: build, gate, sign, push in waves, judge each wave before the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from fedinfer.artifact.build import Built, build_artifact
from fedinfer.artifact.calibration import synthetic_rows
from fedinfer.artifact.delta import add_deltas
from fedinfer.artifact.graph import Ending
from fedinfer.artifact.measure import Evidence
from fedinfer.coordinator.planning import RunPlan
from fedinfer.coordinator.round import LEDGER_OWNER
from fedinfer.coordinator.server import Progress, Server
from fedinfer.coordinator.waves import reachable, roll_out
from fedinfer.manifest import Manifest, Privacy
from fedinfer.training.checkpoints import Checkpoint, save_checkpoint
from fedinfer.types import DeviceId, Json, Unit

SYNTHETIC_ROWS = 256
FEWEST_PUBLIC_ROWS = 32
"""With fewer public rows calibration and self-check rows are drawn from the public ranges."""


def publish_and_push(server: Server, plan: RunPlan, progress: Progress) -> None:
    """Bring the present weights to the fleet as the next version.

    Raises:
        GateFailed: when the artifact does not pass its gates, or a wave fails on the devices; what is installed stays
            or goes back to the version before.
    """
    previous = progress.version
    progress.version += 1
    reason = progress.rounds[-1]["reason"] if progress.rounds else "initial"
    path = server.folder / "checkpoints" / f"v{progress.version}.npz"
    save_checkpoint(path, Checkpoint({"weights": progress.weights}, {"version": progress.version, "reason": reason}))
    built = build(server, progress)
    manifest = built.manifest(_guarantee(server, plan), server.clock.now().isoformat(timespec="seconds"))
    active = reachable(server, progress.version)
    publish(server, manifest, built.targets(), active)
    row = _model_row(built, reason, progress.window, progress.version)
    progress.models.append(row)
    server.emit("built", row)
    roll_out(server, plan, progress, previous, active, row)
    server.emit("pushed", row)
    # The newest is never pruned; these are what one may have to go back to, and what devices may still run.
    server.repository.prune(server.scenario.rollout.keep_versions, {previous, *active.values()})


def publish(server: Server, manifest: Manifest, files: Mapping[str, bytes], active: Mapping[DeviceId, int]) -> None:
    """Sign a version, with patches from the versions that devices say they run, the most frequent ones first."""
    versions = [version for version, _ in Counter(active.values()).most_common()]
    bases = [server.repository.model_files(version) for version in versions]
    server.repository.publish(*add_deltas(manifest, files, [manifest.chosen], bases))


def build(server: Server, progress: Progress) -> Built:
    """Export, quantize and gate the present weights.

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
    ending = Ending(server.schema, 1.0, task, progress.version, section.top, section.abstain_below)
    module = server.trainer.module(progress.weights)
    return build_artifact(module, ending, evidence, section, server.templates, server.clock)


def _guarantee(server: Server, plan: RunPlan) -> Privacy:
    """What the manifest says about the training data of this version; numbers as text, as they were proved."""
    privacy = server.scenario.privacy
    if privacy.unit is Unit.NONE:
        return Privacy("inf", "1", "no privacy guarantee: trained without noise")
    spent = server.ledger.spent(LEDGER_OWNER, server.run_id)
    return Privacy(
        f"{spent.epsilon:.6g}",
        f"{spent.delta:g}",
        f"({spent.epsilon:.3g}, {spent.delta:g})-differential privacy per {privacy.unit} ({plan.relation}), accountant "
        f"{spent.accountant}, sampling {spent.sampling}, trust {privacy.trust}",
    )


def _model_row(built: Built, reason: str, window: int, version: int) -> Json:
    figures = built.to_json()
    return {
        "version": version,
        "reason": reason,
        "window": window,
        "sha256": figures["sha256"],
        "float_metric": figures["float_metric"],
        "quantized_metric": figures["quantized_metric"],
        "float_bytes": figures["float_bytes"],
        "quantized_bytes": figures["quantized_bytes"],
        "recipe": figures["recipe"],
        "agreement": figures["agreement"],
        "calibration_error": figures["calibration_error"],
        "devices_active": 0,
    }
