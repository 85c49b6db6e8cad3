"""What operators order while a run goes on: signed requests are carried out between two steps, and while it waits.

A held or paused rollout of a deployment waits for its operators, if the server has any. A rollout that was over and is
rolled back by an operator ends the run: what it trained is what they do not want.
"""

from __future__ import annotations

from fedinfer.coordinator.context import Server
from fedinfer.rollout import Begin, Handled, OrderInbox, Phase, RolloutState, read_operators
from fedinfer.secagg import verify_signature

ATTENTION_SECONDS = 2.0
"""Between two looks for requests while the coordinator waits for something else."""
WAITS = frozenset({Phase.READY, Phase.HELD, Phase.PAUSED})


def attend(server: Server, begin: Begin | None = None) -> tuple[Handled, ...]:
    """Carry out what operators asked for since the last time.

    Args:
        server: wiring of the run; receives an event `order` for each request.
        begin: begins a rollout that is to be started; None: that waits.

    Returns:
        What was judged, oldest first; nothing where no operators are listed.

    Raises:
        ConfigError: the list of operators cannot be read.
        StoreError: rollout.sqlite cannot be written.
    """
    operators = None if server.simulated else read_operators(server.folder)
    if operators is None:
        return ()
    handled = OrderInbox(server.rollouts).carry_out(operators, server.clock.now(), verify_signature, begin)
    for each in handled:
        server.emit("order", each.to_json())
    return handled


def attended(server: Server, name: str) -> RolloutState:
    """The state of a rollout after all orders; one that waits for a person waits here, as long as it may.

    Args:
        server: wiring of the run.
        name: of the rollout.

    Returns:
        The state in which there is something to do, or in which it rests.

    Raises:
        ConfigError: the list of operators cannot be read.
        StoreError: rollout.sqlite cannot be read or written.
    """
    began, told = server.clock.seconds(), False
    while True:
        attend(server)
        state = server.rollouts.load(name)
        waited = server.clock.seconds() - began
        if not _may_wait(server, state, waited):
            return state
        if not told:
            facts = {"rollout": name, "phase": str(state.phase), "wave": state.wave + 1, "reason": state.reason}
            server.emit("asks", facts)
            told = True
        server.rest(ATTENTION_SECONDS)


def _may_wait(server: Server, state: RolloutState, waited: float) -> bool:
    if server.simulated or state.phase not in WAITS or waited >= server.scenario.rollout.wait_seconds:
        return False
    if state.phase is Phase.HELD and server.scenario.rollout.on_hold == "proceed":
        return False
    return read_operators(server.folder) is not None
