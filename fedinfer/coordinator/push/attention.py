"""A coordinator that waits for devices and meanwhile does what operators order.

An operator may take a version back after its rollout was over. That ends the run: windows would watch a model that is
gone, and a later run begins with the weights of the version before.
"""

from __future__ import annotations

from dataclasses import replace

from fedinfer.artifact import mirror
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.push.orders import ATTENTION_SECONDS, attend
from fedinfer.coordinator.push.rollout import take_back
from fedinfer.coordinator.released import RELEASED, mark_released
from fedinfer.errors import GateFailed
from fedinfer.rollout import Phase, read_operators


def attentive(server: Server, progress: Progress) -> Server:
    """The same server, which carries out orders while it rests.

    Args:
        server: wiring of the run.
        progress: of the run.
    """

    def rest(seconds: float) -> None:
        if read_operators(server.folder) is None:
            server.rest(seconds)
            return
        end = server.clock.seconds() + seconds
        while (left := end - server.clock.seconds()) > 0:
            heed(server, progress)
            server.rest(min(left, ATTENTION_SECONDS))
        heed(server, progress)

    return replace(server, rest=rest)


def heed(server: Server, progress: Progress) -> None:
    """Carry out what operators asked for while no rollout goes on.

    Args:
        server: wiring of the run.
        progress: of the run; a rollback raises its version.

    Raises:
        GateFailed: the newest version was taken back.
        ConfigError: the list of operators cannot be read.
        StoreError: a file of the server cannot be written.
    """
    attend(server)
    names = server.rollouts.names()
    state = server.rollouts.load(names[-1]) if names and not server.simulated else None
    if state is None or state.phase not in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return
    if state.phase is Phase.ROLLING_BACK:
        state = take_back(server, progress, state)
    mirror(server.folder / "artifacts", server.folder / RELEASED)
    mark_released(server.folder, int(state.previous or 0))
    raise GateFailed(f"version {state.version} was {state.phase}: {state.reason}")
