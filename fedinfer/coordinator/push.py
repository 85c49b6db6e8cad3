"""From weights to a model on every device: build, gate, sign, push in waves, judge each wave before the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedinfer.artifact.build import Built, build_artifact
from fedinfer.artifact.calibration import synthetic_rows
from fedinfer.artifact.graph import Ending
from fedinfer.artifact.measure import Evidence
from fedinfer.coordinator.planning import RunPlan
from fedinfer.coordinator.round import LEDGER_OWNER
from fedinfer.coordinator.server import Progress, Server
from fedinfer.errors import GateFailed, TransportError
from fedinfer.manifest import Privacy
from fedinfer.messages import HealthRequest, Kind, PushReply, PushRequest
from fedinfer.ports import Ask
from fedinfer.rollout.controller import (
    INSTALL_FAILURE,
    Approval,
    Phase,
    RolloutState,
    TakenBack,
    Task,
    begin,
)
from fedinfer.rollout.gates import Bound, Gate, GateSettings, Scope
from fedinfer.rollout.waves import Wave, members
from fedinfer.training.checkpoints import Checkpoint, save_checkpoint
from fedinfer.types import DeviceId, Json, Unit
from fedinfer.wire import decode, encode

OPERATOR = "coordinator"
SYNTHETIC_ROWS = 256
FEWEST_PUBLIC_ROWS = 32
"""With fewer public rows calibration and self-check rows are drawn from the public ranges."""


@dataclass(frozen=True, slots=True)
class _Acknowledged:
    """What the devices of a wave said."""

    installed: tuple[DeviceId, ...]
    failed: dict[DeviceId, str]


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
    server.repository.publish(manifest, built.targets())
    row = _model_row(built, reason, progress.window, progress.version)
    progress.models.append(row)
    server.emit("built", row)
    row["devices_active"] = len(_roll_out(server, progress, previous, row))
    server.emit("pushed", row)


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


def _roll_out(server: Server, progress: Progress, previous: int, row: Json) -> tuple[DeviceId, ...]:
    """Push wave by wave, judged by fedinfer.rollout; a failed wave takes the model back from everybody who has it.

    State, acknowledgements and the audit log are kept in rollout.sqlite, so a coordinator that was killed knows where
    it was.

    Returns:
        Devices that run the new version.

    Raises:
        GateFailed: when the rollout did not reach the whole fleet; the message says why.
    """
    fleet: dict[DeviceId, dict[str, str]] = {device: {} for device in _reachable(server, progress.version)}
    waves = [Wave(fraction) for fraction in server.scenario.rollout.waves]
    name, before = f"{server.run_id}-v{progress.version}", str(previous or "")
    state = begin(name, str(progress.version), before, fleet, waves, _gates(server), Approval.NONE)
    actions = server.rollouts.start(state, OPERATOR, server.clock.now())
    installed: set[DeviceId] = set()
    while actions:
        action = actions[0]
        if action.task is Task.TAKE_BACK:
            _take_back(server, progress, previous, sorted(installed))
            installed.clear()
            state, actions = server.rollouts.apply(name, TakenBack(), server.clock.now())
            continue
        devices = server.rollouts.waiting(name, action.wave, members(fleet, state.waves, state.rollout, action.wave))
        acknowledged = _push(server, progress.version, devices, row)
        installed |= set(acknowledged.installed)
        server.rollouts.acknowledge(name, action.wave, dict.fromkeys(acknowledged.installed, "") | acknowledged.failed)
        delivered = server.rollouts.delivered(name, action.wave)
        state, actions = server.rollouts.apply(name, delivered, server.clock.now())
        _note(server, progress.version, action.wave, acknowledged, state, row)
    row["rollout"] = str(state.phase)
    if state.phase is not Phase.DONE:
        raise GateFailed(f"version {progress.version} was {state.phase} in wave {state.wave + 1}: {state.reason}")
    return tuple(sorted(installed))


def _reachable(server: Server, version: int) -> tuple[DeviceId, ...]:
    """Devices that answer now; the others get the newest allowed version when they are back.

    Raises:
        TransportError: nobody answers.
    """
    common = encode(HealthRequest(version))
    asks = [Ask(device, Kind.HEALTH, common) for device in sorted(server.devices)]
    answers = server.transport.ask(asks, server.scenario.training.deadline_seconds)
    found = tuple(sorted(answer.device for answer in answers if not answer.error))
    if not found:
        raise TransportError(f"none of {len(asks)} devices can be reached for version {version}")
    return found


def _gates(server: Server) -> GateSettings:
    """Acknowledged installs decide: an exact count, so the judged devices are all there is to know."""
    limit = server.scenario.rollout.max_failure_rate
    gate = Gate(INSTALL_FAILURE, Bound.AT_MOST, limit, limit, 0.0, 1.0, Scope.WAVE)
    return GateSettings((gate,), server.scenario.rollout.min_judged, 0.05, 0.05, 1)


def _push(server: Server, version: int, devices: Sequence[DeviceId], row: Json) -> _Acknowledged:
    bundle = server.repository.bundle(version)
    row["bundle_bytes"] = sum(len(data) for data in bundle.values())
    common = encode(PushRequest(version, bundle))
    installed: list[DeviceId] = []
    failed: dict[DeviceId, str] = {}
    asks = [Ask(device, Kind.PUSH, common) for device in devices]
    for answer in server.transport.ask(asks, server.scenario.training.deadline_seconds):
        if answer.error == TransportError.__name__:
            continue  # it was not reached: nothing is known about the model
        if answer.error:
            failed[answer.device] = f"{answer.error}: {answer.detail}"
            continue
        reply = decode(PushReply, answer.body)
        if reply.installed and reply.version == version:
            installed.append(answer.device)
        else:
            failed[answer.device] = reply.reason or f"runs version {reply.version}"
    return _Acknowledged(tuple(installed), failed)


def _take_back(server: Server, progress: Progress, previous: int, devices: Sequence[DeviceId]) -> None:
    """The files of the version before go out again under a new number: versions never fall on a device."""
    manifest = server.repository.reissue(previous, server.clock.now())
    progress.version = manifest.version
    acknowledged = _push(server, manifest.version, devices, {})
    server.emit(
        "rolled_back",
        {"to": previous, "as": manifest.version, "devices": len(acknowledged.installed), "failed": acknowledged.failed},
    )


def _note(server: Server, version: int, wave: int, acknowledged: _Acknowledged, state: RolloutState, row: Json) -> None:
    figures = {
        "version": version,
        "wave": wave + 1,
        "installed": len(acknowledged.installed),
        "failed": len(acknowledged.failed),
        "first_failure": next(iter(acknowledged.failed.values()), ""),
        "state": str(state.phase),
        "reason": state.reason,
    }
    row.setdefault("waves", []).append(figures)
    server.emit("wave", figures)


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
