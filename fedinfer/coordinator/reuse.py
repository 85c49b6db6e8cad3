"""An earlier version serves again, because the world for which it was trained has come back.

Versions never fall on a device, so its files are signed under the next number. It served the whole fleet before, so all
devices get it in one wave, and acknowledged installs decide; nothing is charged.

Rules:
* Signing, weights and the rollout come before the record: a process that is killed does all of it again, under the next
  number.
* Training goes on from its weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedinfer.artifact import ChosenFile
from fedinfer.coordinator.agenda import REUSE
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.drift import Watch, in_service
from fedinfer.coordinator.judging import confidence_calibration
from fedinfer.coordinator.plan.canary import WRONG_PASS_RATE, WRONG_STOP_RATE
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.publish import offer
from fedinfer.coordinator.push.rollout import OPERATOR, Steps, drive, installs_gate, reachable
from fedinfer.coordinator.released import CHECKPOINTS, keep_weights_as, mark_released
from fedinfer.drift import policy, reuse
from fedinfer.errors import GateFailed
from fedinfer.rollout import Approval, GateSettings, Phase, Wave, begin
from fedinfer.training import load_checkpoint


def reuse_version(server: Server, plan: RunPlan, progress: Progress, watch: Watch, version: int) -> None:
    """Bring an earlier version back to every device that can be reached.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run; its version is raised, its weights become those of the version, a model is recorded.
        watch: its monitor goes on with the references of the version.
        version: whose files go out again; the repository holds it.

    Raises:
        GateFailed: the rollout did not reach the whole fleet; devices that have the version go back.
        TransportError: no device can be reached.
        StoreError: a file of the server cannot be written.
    """
    left, _ = in_service(server.repository.versions(), progress)
    number = server.repository.reissue(version, server.clock.now()).version
    keep_weights_as(server.folder, version, number)
    progress.previous, progress.version = left, number
    steps = _roll_out(server, plan, progress)
    weights = load_checkpoint(server.folder / CHECKPOINTS / f"v{number}.npz").arrays["weights"]
    progress.weights = weights.astype(np.float32)
    progress.newest = ChosenFile.of(server.repository.manifest(number), server.repository.model_files(number))
    progress.calibration = confidence_calibration(server.schema, server.judged(progress.window), progress.newest)
    mark_released(server.folder, number)
    before = next(model for model in progress.models if model.version == version)
    record = replace(before, version=number, reason=REUSE, window=progress.window, rollout=steps.record())
    progress.models.append(record)
    server.emit("reused", record.to_json() | {"reused": version})
    known = reuse.renumbered(reuse.remember(watch.plan, watch.worlds, left, watch.state), version, number)
    watch.worlds = known
    watch.state = reuse.resumed(watch.plan, known, number, watch.state.last_window)
    watch.policy = policy.reused(watch.policy, number)


def _roll_out(server: Server, plan: RunPlan, progress: Progress) -> Steps:
    """All devices in one wave.

    Raises:
        GateFailed: it did not reach the whole fleet.
    """
    active, section = reachable(server.fleet, progress.version), server.scenario.rollout
    server.emit("phase", {"phase": f"push of version {progress.version} to {len(active)} devices, an earlier one"})
    gates = GateSettings((installs_gate(section),), section.min_judged, WRONG_PASS_RATE, WRONG_STOP_RATE, 1)
    name, steps = f"{server.run_id}-v{progress.version}", Steps()
    everyone = {device: dict[str, str]() for device in active}
    state = begin(name, str(progress.version), str(progress.previous), everyone, [Wave(1.0)], gates, Approval.NONE)
    server.rollouts.start(state, OPERATOR, server.clock.now())
    state = drive(server, plan, progress, name, active, steps)
    steps.end(state.phase, len(server.rollouts.installed(name)))
    if not server.simulated:
        offer(server.folder, state)
    if state.phase is not Phase.DONE:
        raise GateFailed(f"version {state.version} was {state.phase} in wave {state.wave + 1}: {state.reason}")
    return steps
