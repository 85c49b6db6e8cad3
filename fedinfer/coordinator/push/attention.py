"""A coordinator that waits for devices and meanwhile does what operators order.

An operator may take a version back after its rollout was over, or start the rollout of another one. Either ends the
run: windows would watch a model that is gone, and a later run begins with the weights of the version that devices got.
"""

from __future__ import annotations

from dataclasses import replace

from fedinfer.artifact import mirror
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push.ordered import drive_ordered, is_ordered, starter
from fedinfer.coordinator.push.orders import ATTENTION_SECONDS, attend
from fedinfer.coordinator.push.rollout import take_back
from fedinfer.coordinator.released import RELEASED, mark_released
from fedinfer.errors import GateFailed
from fedinfer.rollout import Phase, read_operators


def attentive(server: Server, plan: RunPlan, progress: Progress) -> Server:
    """The same server, which carries out orders while it rests.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run.
    """

    def rest(seconds: float) -> None:
        if read_operators(server.folder) is None:
            server.rest(seconds)
            return
        end = server.clock.seconds() + seconds
        while (left := end - server.clock.seconds()) > 0:
            heed(server, plan, progress)
            server.rest(min(left, ATTENTION_SECONDS))
        heed(server, plan, progress)

    return replace(server, rest=rest)


def heed(server: Server, plan: RunPlan, progress: Progress) -> None:
    """Carry out what operators asked for while no rollout goes on.

    Args:
        server: wiring of the run.
        plan: of the run.
        progress: of the run; a rollback or a start raises its version.

    Raises:
        GateFailed: the newest version was taken back, or another one was started in its place.
        TransportError: devices that are to get another version cannot be reached.
        ConfigError: the list of operators cannot be read.
        StoreError: a file of the server cannot be written.
    """
    if server.simulated:
        return
    attend(server, starter(server))
    names = server.rollouts.names()
    state = server.rollouts.load(names[-1]) if names else None
    if state is not None and is_ordered(state):
        state = drive_ordered(server, plan, progress, state)
        raise GateFailed(
            f"an operator started version {state.version} in place of what this run made; it is {state.phase} in wave "
            f"{state.wave + 1}: {state.reason}"
        )
    if state is None or state.phase not in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return
    if state.phase is Phase.ROLLING_BACK:
        state = take_back(server, progress, state)
    mirror(server.folder / "artifacts", server.folder / RELEASED)
    mark_released(server.folder, int(state.previous or 0))
    raise GateFailed(f"version {state.version} was {state.phase}: {state.reason}")
