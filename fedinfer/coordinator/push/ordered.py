"""A rollout that an operator started by a signed request: a version that the repository holds goes to devices again.

Versions never fall on a device, so the files are signed under the next number. The waves are the operator's or the
scenario's; acknowledged installs decide about each, because no budget was planned for canary evaluations of it. When it
fails, devices go back to the version that the whole fleet got last.

Rules:
* Signing and the weights come before the rollout's own state: a process that is killed does both again, under the next
  number.
* A run does not go on beside such a rollout: what it trained is no longer what devices run.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.canary import WRONG_PASS_RATE, WRONG_STOP_RATE
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.orders import attend
from fedinfer.coordinator.push.publish import offer
from fedinfer.coordinator.push.rollout import Steps, drive, installs_gate, reachable
from fedinfer.coordinator.released import keep_weights_as, mark_released, released_version
from fedinfer.errors import ConfigError, GateFailed, TransportError
from fedinfer.rollout import (
    Approval,
    Begin,
    GateSettings,
    OrderInbox,
    Phase,
    RolloutState,
    Standing,
    StartRequest,
    Wave,
    begin,
    is_under_way,
    wave_sizes,
)
from fedinfer.types import DeviceId

ORDERED = "ordered-v"
"""How the name of a rollout begins that an operator started; the number of its version follows."""


def starter(server: Server) -> Begin | None:
    """What carries out a start, while one waits and devices can be reached; else None, and the start waits on.

    Args:
        server: wiring of the run; its devices are asked which version they run.

    Raises:
        StoreError: rollout.sqlite cannot be read.
    """
    requests = OrderInbox(server.rollouts).requests()
    if not any(isinstance(each.request, StartRequest) and each.standing is Standing.SUBMITTED for each in requests):
        return None
    try:
        active = reachable(server.fleet, server.repository.newest_version)
    except TransportError:
        return None
    return lambda asked: _begin(server, asked, active)


def is_ordered(state: RolloutState) -> bool:
    """Whether an operator started a rollout.

    Args:
        state: of the rollout.
    """
    return state.rollout.startswith(ORDERED)


def drive_ordered(server: Server, plan: RunPlan, progress: Progress, state: RolloutState) -> RolloutState:
    """Bring what an operator started to the devices; a rollout that a process began that is gone goes on where it was.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run; its version is raised.
        state: of the rollout.

    Returns:
        The state in which it rests.

    Raises:
        TransportError: no device can be reached.
        StoreError: a file of the server cannot be written.
    """
    progress.version = max(progress.version, server.repository.newest_version)
    if is_under_way(state):
        active = reachable(server.fleet, int(state.version))
        server.emit("phase", {"phase": f"push of version {state.version} to {len(active)} devices, as ordered"})
        state = drive(server, plan, progress, state.rollout, active, Steps())
    if state.phase is Phase.DONE:
        mark_released(server.folder, int(state.version))
    elif state.phase is Phase.ROLLED_BACK:
        mark_released(server.folder, int(state.previous or 0))
    offer(server.folder, state)
    return state


def carry_out_starts(server: Server, plan: RunPlan) -> str:
    """A run that trains nothing: it carries out what operators started, and ends.

    Args:
        server: wiring of the run.
        plan: of the run; nothing is charged.

    Returns:
        Name of the rollout; empty when none was started.

    Raises:
        GateFailed: it did not reach the whole fleet.
        TransportError: no device can be reached.
        StoreError: a file of the server cannot be written.
    """
    server.emit("started", {"engine": "deployment", "orders": True})
    attend(server, starter(server))
    names = server.rollouts.names()
    state = server.rollouts.load(names[-1]) if names else None
    if state is None or not is_ordered(state):
        server.emit("finished", {"status": "completed"})
        return ""
    progress = Progress(server.trainer.initial(), None, server.scenario.privacy.clipping_norm)
    state = drive_ordered(server, plan, progress, state)
    done = state.phase is Phase.DONE
    facts = {"rollout": state.rollout, "version": state.version, "phase": str(state.phase), "reason": state.reason}
    server.emit("finished", {"status": "completed" if done else "aborted", **facts})
    if not done:
        raise GateFailed(f"version {state.version} was {state.phase} in wave {state.wave + 1}: {state.reason}")
    return state.rollout


def _begin(server: Server, asked: StartRequest, active: Mapping[DeviceId, int]) -> RolloutState:
    """Sign the version under the next number and plan its rollout.

    Raises:
        ConfigError: the repository does not hold the version, or a wave could never pass.
    """
    repository, section = server.repository, server.scenario.rollout
    known, released = repository.versions(), released_version(server.folder)
    if asked.version not in known:
        raise ConfigError(f"the repository holds no version {asked.version}: {', '.join(map(str, known)) or 'none'}")
    waves = asked.waves or section.waves
    fewest = min(wave_sizes(len(active), waves))
    if fewest < section.min_judged:
        raise ConfigError(
            f"a wave of {fewest} devices could never pass: [rollout] min_judged is {section.min_judged}, and "
            f"{len(active)} devices can be reached"
        )
    number = repository.reissue(asked.version, server.clock.now()).version
    keep_weights_as(server.folder, asked.version, number)
    gates = GateSettings((installs_gate(section),), section.min_judged, WRONG_PASS_RATE, WRONG_STOP_RATE, 1)
    previous = str(released) if released in known else ""
    fleet: dict[DeviceId, dict[str, str]] = {device: {} for device in active}
    planned = [Wave(fraction) for fraction in waves]
    return begin(f"{ORDERED}{number}", str(number), previous, fleet, planned, gates, Approval.NONE)
