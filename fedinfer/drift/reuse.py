"""Worlds that come back: winter after summer, the night shift after the day shift.

A version was trained for the world of its time, and its reference says what that world looked like. When the watch
alarms and an earlier world fits the windows of now, its version is brought back instead of training anew: that takes
one push, and no epsilon, because every histogram that is compared was released before.

Rules:
* A version's references are kept when another version takes its place.
* What channels of inputs count is the same whichever model answers. A world is possible when the last window fits its
  references of every such channel. Without any, nothing is known before the push: the one that served last goes first.
* Answers of two models cannot be compared. So the reused version gets its own references back, and its first window
  is tested at once: a wrong choice alarms, and is not tried again while the change lasts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedinfer.drift.channels import Channel, split
from fedinfer.drift.monitor import MonitorPlan, WindowSum, compare
from fedinfer.drift.reference import ReferenceSum, composition
from fedinfer.drift.state import ChannelState, MonitorState, fresh
from fedinfer.drift.statistics import NoisySum, chi2_tail, degrees_of_freedom

POSSIBLE = 0.001
"""Least p-value of a window under the references of a world that may have come back."""
MOST_WORLDS = 8


@dataclass(frozen=True, slots=True)
class KnownWorld:
    """What windows looked like while a version served.

    Args:
        version: its number.
        references: of the channels of the plan, in order; one of too few windows is learned anew.
    """

    version: int
    references: tuple[ReferenceSum, ...]


@dataclass(frozen=True, slots=True)
class Worlds:
    """Worlds that are known, the last one that was left at the end; encodable with fedinfer.wire."""

    known: tuple[KnownWorld, ...] = ()


def remember(plan: MonitorPlan, worlds: Worlds, version: int, state: MonitorState) -> Worlds:
    """Keep the references of the version that is about to be replaced.

    Args:
        plan: what is watched.
        worlds: known so far.
        version: that served.
        state: of the monitor.

    Returns:
        At most `MOST_WORLDS`. The same as before when the references of answers were not complete yet.
    """
    answers = [s for c, s in zip(plan.channels, state.channels, strict=True) if c.source.answers]
    if any(channel.reference.windows < plan.reference_windows for channel in answers):
        return worlds
    left = KnownWorld(version, tuple(channel.reference for channel in state.channels))
    return Worlds((*without(worlds, version).known, left)[-MOST_WORLDS:])


def without(worlds: Worlds, version: int) -> Worlds:
    """A version serves again without having been chosen here: it is no earlier one.

    Args:
        worlds: known.
        version: that serves.
    """
    return Worlds(tuple(world for world in worlds.known if world.version != version))


def renumbered(worlds: Worlds, old: int, new: int) -> Worlds:
    """A version goes out again under another number.

    Args:
        worlds: known.
        old: its number.
        new: its next one.
    """
    return Worlds(tuple(replace(world, version=new) if world.version == old else world for world in worlds.known))


def possible(plan: MonitorPlan, worlds: Worlds, report: WindowSum) -> tuple[int, ...]:
    """Versions whose world may have come back.

    Args:
        plan: what is watched.
        worlds: known.
        report: sum of the last window.

    Returns:
        The likeliest first: by the least p-value over the channels of inputs, then by when a version served.
    """
    found = [(_fit(plan, world, report), place, world.version) for place, world in enumerate(worlds.known)]
    return tuple(version for fit, _, version in sorted(found, reverse=True) if fit >= POSSIBLE)


def resumed(plan: MonitorPlan, worlds: Worlds, version: int, last_window: int) -> MonitorState:
    """The monitor on the references of a world that is known.

    Args:
        plan: what is watched.
        worlds: known.
        version: whose world it is; one that is not known begins anew.
        last_window: number of the last window.
    """
    references = next((world.references for world in worlds.known if world.version == version), None)
    if references is None:
        return MonitorState(tuple(fresh(channel) for channel in plan.channels), last_window)
    channels = tuple(_back(plan, *pair) for pair in zip(plan.channels, references, strict=True))
    return MonitorState(channels, last_window)


def _back(plan: MonitorPlan, channel: Channel, reference: ReferenceSum) -> ChannelState:
    """What devices compare by themselves begins anew with every version, and so does what was not complete."""
    if channel.source.of_windows or reference.windows < plan.reference_windows:
        return fresh(channel)
    return replace(fresh(channel), reference=reference, seen=channel.warm_up + reference.windows)


def _fit(plan: MonitorPlan, world: KnownWorld, report: WindowSum) -> float:
    """Least p-value of a window over the channels of inputs; 1 without any."""
    pieces = split(report.total, plan.channels)
    size = len(report.reporters) * plan.unit.counted(report.rows)
    values = [1.0]
    for channel, reference in zip(plan.channels, world.references, strict=True):
        if not channel.source.needs_no_answer or reference.windows < plan.reference_windows:
            continue
        observed = NoisySum(pieces[channel.name], size, report.noise_std**2)
        moved = composition(reference, report.reporters)
        _, figures = compare(plan, channel, replace(fresh(channel), reference=reference), observed, moved)
        # Of a first window the running mean is that window; its statistic knows of other reporters too.
        values.append(chi2_tail(float(figures.statistic), degrees_of_freedom(channel)))
    return min(values)
