"""What a run has still to do, as a value: which step is next, and what follows from a step. Pure.

    rounds -> publish -> roll out -> windows -> (alarm -> rounds -> publish -> roll out -> windows)
                                             -> (alarm -> reuse -> windows)

A run is kept after every step together with its agenda, so whoever goes on with it needs no other memory of the order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

INITIAL, DRIFT = "initial", "drift"
"""Why there are training rounds."""
REUSE = "reuse"
"""Why a version serves that was not trained anew."""


class RunStep(StrEnum):
    """One step of a run; a run that was stopped goes on at the beginning of one."""

    ROUND = "round"
    PUBLISH = "publish"
    ROLL_OUT = "roll_out"
    WINDOW = "window"
    REUSE = "reuse"


@dataclass(frozen=True, slots=True)
class Agenda:
    """What is left.

    Args:
        reason: of the rounds that are due, or were the last: INITIAL or DRIFT.
        rounds: training rounds that are due, >= 0.
        together: rounds of which at least one must be released, those that are over included; 0 when none is due.
        publish: a version is to be built and signed after them.
        roll_out: the newest version is to be brought to the devices.
        windows: inference windows that are due, >= 0.
        reuse: an earlier version that is to serve again; 0: none.
    """

    reason: str = INITIAL
    rounds: int = 0
    together: int = 0
    publish: bool = False
    roll_out: bool = False
    windows: int = 0
    reuse: int = 0

    @property
    def next(self) -> RunStep | None:
        """The next step; None when the run is over."""
        if self.reuse:
            return RunStep.REUSE
        if self.rounds:
            return RunStep.ROUND
        if self.publish:
            return RunStep.PUBLISH
        if self.roll_out:
            return RunStep.ROLL_OUT
        return RunStep.WINDOW if self.windows else None


def whole_run(rounds: int, windows: int) -> Agenda:
    """The agenda before the first step.

    Args:
        rounds: planned ones, >= 0.
        windows: inference windows after the push, >= 0.
    """
    return Agenda(INITIAL, rounds, rounds, publish=True, windows=windows)


def after(agenda: Agenda) -> Agenda:
    """What is left when the next step is done.

    Args:
        agenda: with a next step; the one that is over is returned as it is.
    """
    match agenda.next:
        case RunStep.ROUND:
            return replace(agenda, rounds=agenda.rounds - 1)
        case RunStep.PUBLISH:
            return replace(agenda, publish=False, roll_out=True, together=0)
        case RunStep.ROLL_OUT:
            return replace(agenda, roll_out=False)
        case RunStep.WINDOW:
            return replace(agenda, windows=agenda.windows - 1)
        case RunStep.REUSE:
            return replace(agenda, reuse=0)
        case None:
            return agenda


def retrained(agenda: Agenda, rounds: int, after_windows: int) -> tuple[Agenda, int]:
    """What is left when a window asks for training: rounds, a push, and enough windows to see what came of it.

    Args:
        agenda: after that window.
        rounds: to train, >= 0.
        after_windows: windows that must follow the push, >= 0.

    Returns:
        The agenda, and how many windows it has gained.
    """
    more = max(after_windows - agenda.windows, 0)
    return replace(
        agenda, reason=DRIFT, rounds=rounds, together=rounds, publish=True, windows=agenda.windows + more
    ), more
