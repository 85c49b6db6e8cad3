"""A run whose coordinator was killed is started again by `server up`, without a person.

What was seen decides: a coordinator was at work, is gone, and said nothing of an end. Nobody else's decision is undone:
a run that failed says why and stays where it is, because it would fail again; a run that nobody saw at work, for
instance because the server was taken down meanwhile, waits for `fedinfer server run`. So does one that had not begun:
what was at work may have been a coordinator that carries out orders, and nobody asked for training.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from fedinfer.deployment import pause_after
from fedinfer.errors import FedInferError
from fedinfer.ports import Clock
from fedinfer.site.server import ServerFolder
from fedinfer.site.watch import LAST, begin_run, coordinator_of, last_words, newest_event

STATE = "state/state.npz"
SOON_STARTS = 5
"""Starts in a row after which no step was finished; later ones are ever further apart, and a person should look."""
START_SECONDS, LONGEST_PAUSE = 60.0, 900.0
"""A coordinator that was started is waited for so long before the next start; the longest pause between two."""
_log = logging.getLogger(__name__)


class RestartDecision(StrEnum):
    """What to do about a run."""

    WAIT = "wait"
    START = "start"


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run folder at a moment.

    Args:
        at_work: whether a coordinator works on it.
        step: changes with every finished step of a run; 0: no run waits to be gone on with.
        ended: whether the newest event is the last one of a run.
    """

    at_work: bool
    step: int
    ended: bool


class CarryOn:
    """When a run is started again. Pure: it is shown what there is."""

    def __init__(self) -> None:
        self._at_work = False
        self._starts, self._step, self._next = 0, 0, 0.0
        self._forgiven = False

    @property
    def seen_at_work(self) -> bool:
        """Whether a coordinator was seen whose end nobody has looked at yet."""
        return self._at_work

    @property
    def starts(self) -> int:
        """Starts in a row after which no step was finished."""
        return self._starts

    def server_died(self) -> None:
        """The SuperLink ended by itself: a coordinator that said so at its end was in the right and goes on."""
        self._forgiven = self._at_work

    def look(self, seen: RunSeen, now: float) -> RestartDecision:
        """What to do now.

        Args:
            seen: of the run folder.
            now: seconds, of any clock that does not go back.
        """
        if seen.at_work:
            self._at_work, self._forgiven = True, False
            self._next = now + pause_before_start(self._starts)  # what it says last may come after its lock is free
            return RestartDecision.WAIT
        if not self._at_work or now < self._next:
            return RestartDecision.WAIT
        if seen.step != self._step:
            self._starts, self._step = 0, seen.step
        if not seen.step or (seen.ended and not self._forgiven):
            self._at_work = False
            return RestartDecision.WAIT
        self._starts += 1
        self._next = now + max(START_SECONDS, pause_before_start(self._starts))
        return RestartDecision.START


def pause_before_start(starts: int) -> float:
    """Seconds between the end of a coordinator and the start of the next one, in [1, LONGEST_PAUSE].

    Args:
        starts: in a row after which no step was finished, >= 0.
    """
    if starts <= SOON_STARTS:
        return pause_after(starts)
    return min(START_SECONDS * 2.0 ** min(starts - SOON_STARTS, 10), LONGEST_PAUSE)


def carry_on(server: ServerFolder, carried: CarryOn, clock: Clock) -> None:
    """Start the run of a site again if its coordinator was killed.

    Args:
        server: of the site; its SuperLink answers.
        carried: what was seen so far.
        clock: measures pauses.
    """
    if not (carried.seen_at_work or coordinator_of(server)):
        return
    decision = carried.look(run_seen(server), clock.seconds())
    match decision:
        case RestartDecision.WAIT:
            return
        case RestartDecision.START:
            said = last_words(server)
            if carried.starts > SOON_STARTS:
                _log.error("the run does not get on: %d coordinators ended before a step was finished", carried.starts)
            _log.warning("the coordinator %s: its run goes on", f"ended ({said})" if said else "was killed")
            try:
                begin_run(server)
            except FedInferError as error:
                _log.error("the run does not go on yet: %s", error)
        case _:
            assert_never(decision)


def run_seen(server: ServerFolder) -> RunSeen:
    """The run folder of a site now.

    Args:
        server: of the site.
    """
    state, process = server.run / STATE, coordinator_of(server)
    step = state.stat().st_mtime_ns if state.exists() else 0
    return RunSeen(process > 0 and _is_server_app(process), step, newest_event(server).get("event") in LAST)


def _is_server_app(process: int) -> bool:
    """Whether it is Flower's process for a coordinator, and not one that carries out orders meanwhile (Linux)."""
    try:
        return b"flwr-serverapp" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
