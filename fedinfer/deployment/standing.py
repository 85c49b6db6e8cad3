"""What a server does with orders while no run goes on: it carries them out with its signing keys alone.

It reaches no device; for what has to, a coordinator is needed. A version that is taken back is taken back in the signed
metadata and in the copy of the repository that devices fetch from by themselves; a device that does not fetch learns it
with the next push.

Rules:
* Signing, the copy and the note for the next run come before the rollout's own state, so a process that is killed does
  all of them again.
* It never works beside a coordinator: that one carries out orders itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedinfer.artifact import Repository, mirror
from fedinfer.coordinator import RELEASED, is_ordered, mark_released
from fedinfer.errors import ConfigError
from fedinfer.ports import Clock
from fedinfer.rollout import (
    Handled,
    OrderInbox,
    Phase,
    RolledBack,
    RolloutState,
    RolloutStore,
    Standing,
    StartRequest,
    Task,
    read_operators,
    todo,
)
from fedinfer.secagg import verify_signature

DATABASE, ARTIFACTS = "rollout.sqlite", "artifacts"


def has_work(folder: Path) -> bool:
    """Whether an order waits to be carried out, a rollback to be signed, or a wave that was ordered to be pushed.

    Args:
        folder: of the server's runs.

    Raises:
        ConfigError: no run has begun a rollout here.
        LogTampered: a rollout's state is not the one that its log speaks of.
    """
    store = _opened(folder)
    try:
        submitted = any(each.standing is Standing.SUBMITTED for each in OrderInbox(store).requests())
        newest = _newest(store)
        return submitted or (newest is not None and (newest.phase is Phase.ROLLING_BACK or _pushes(newest)))
    finally:
        store.close()


def needs_coordinator(folder: Path) -> str:
    """What only a coordinator can do, who reaches the devices: a start that was handed in, or a wave of one.

    Args:
        folder: of the server's runs; `stand_in` judged what was handed in.

    Returns:
        By what it is known: the digest of the request, or the rollout and its log's head; empty: nothing.

    Raises:
        ConfigError: no run has begun a rollout here.
        LogTampered: a rollout's state is not the one that its log speaks of.
    """
    store = _opened(folder)
    try:
        for each in OrderInbox(store).requests():
            if each.standing is Standing.SUBMITTED and isinstance(each.request, StartRequest):
                return each.digest
        newest = _newest(store)
        return f"{newest.rollout} {store.head()}" if newest is not None and _pushes(newest) else ""
    finally:
        store.close()


def stand_in(folder: Path, repository: Callable[[], Repository], clock: Clock) -> tuple[Handled, ...]:
    """Carry out what operators asked for; the caller is alone in the folder.

    Args:
        folder: of the server's runs.
        repository: opens the signed repository of the folder.
        clock: time.

    Returns:
        What was judged now, oldest first.

    Raises:
        ConfigError: no operators are listed, or no run has begun a rollout here.
        LogTampered: a rollout's state is not the one that its log speaks of.
        StoreError: a file cannot be written.
    """
    operators = read_operators(folder)
    if operators is None:
        raise ConfigError(f"{folder} lists no operators", hint="fedinfer rollout admit DIR FILE")
    store = _opened(folder)
    try:
        handled = OrderInbox(store).carry_out(operators, clock.now(), verify_signature)
        newest = _newest(store)
        if newest is not None and newest.phase is Phase.ROLLING_BACK:
            _take_back(folder, repository(), newest, clock)
            store.apply(newest.rollout, RolledBack(), clock.now())
    finally:
        store.close()
    return handled


def _pushes(state: RolloutState) -> bool:
    """Whether a rollout that an operator started has something to do with devices."""
    return is_ordered(state) and any(action.task is not Task.ROLL_BACK for action in todo(state))


def _opened(folder: Path) -> RolloutStore:
    if not (folder / DATABASE).exists():
        raise ConfigError(f"{folder} holds no rollouts", hint="it is made by the first run of a server")
    return RolloutStore(folder / DATABASE)


def _newest(store: RolloutStore) -> RolloutState | None:
    names = store.names()
    return store.load(names[-1]) if names else None


def _take_back(folder: Path, repository: Repository, state: RolloutState, clock: Clock) -> None:
    if state.previous:
        repository.reissue(int(state.previous), clock.now())
    else:
        repository.withdraw(int(state.version))
    mirror(folder / ARTIFACTS, folder / RELEASED)
    mark_released(folder, int(state.previous or 0))
