"""Rollouts in words: what an event brought, for the audit log, and where a rollout stands, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence

from fedinfer.errors import ConfigError
from fedinfer.rollout.controller import (
    OPEN,
    Command,
    Delivered,
    Event,
    Measured,
    Order,
    Phase,
    RolloutState,
    evidence,
    step,
    todo,
)
from fedinfer.types import Json


def facts_of(before: RolloutState, event: Event) -> Json:
    """What an event brought, for the audit log.

    Args:
        before: state that it came to.
        event: an order or something that happened.
    """
    if isinstance(event, Command):
        return {"by": event.by, "order": str(event.order), "why": event.reason}
    if isinstance(event, Delivered):
        return {"wave": event.wave + 1, "installed": event.installed, "failed": event.failed}
    if isinstance(event, Measured):
        return {"wave": event.wave + 1, "look": len(before.evaluations) + 1, "groups": _groups(event)}
    return {}


def _groups(event: Measured) -> Sequence[Json]:
    return [
        {
            "group": entry.group,
            "judged": entry.judged,
            "figures": {
                figure.name: {"total": figure.total, "noise_std": figure.noise_std} for figure in entry.figures
            },
        }
        for entry in event.groups
    ]


def status(state: RolloutState) -> Json:
    """A rollout for people and programs.

    Args:
        state: of the rollout.

    Returns:
        JSON-able; waves are counted from 1 in it.
    """
    judged = evidence(state) if state.opened > state.wave else None
    return {
        "rollout": state.rollout,
        "version": state.version,
        "previous": state.previous,
        "phase": str(state.phase),
        "wave": state.wave + 1,
        "waves": [{"devices": wave.size, "where": dict(wave.where)} for wave in state.waves],
        "pushed_waves": state.opened,
        "installed": state.installed,
        "failed": state.failed,
        "looks": len(state.evaluations),
        "reason": state.reason,
        "findings": [finding.to_json() for finding in judged.findings] if judged else [],
        "todo": [{"task": str(action.task), "wave": action.wave + 1} for action in todo(state)],
    }


def is_under_way(state: RolloutState) -> bool:
    """Whether devices may still be sent something for a rollout; another one does not begin before its end.

    Args:
        state: of the rollout.
    """
    return state.phase in OPEN or state.phase is Phase.ROLLING_BACK


def possible_orders(state: RolloutState) -> tuple[Order, ...]:
    """Orders that the phase of a rollout allows now.

    Args:
        state: of the rollout.
    """
    return tuple(order for order in Order if _is_possible(state, order))


def _is_possible(state: RolloutState, order: Order) -> bool:
    try:
        step(state, Command(order, "", ""))
    except ConfigError:
        return False
    return True
