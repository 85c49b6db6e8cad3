"""The loop as one sequence of steps: training rounds and drift windows in the order in which they happened.

The order comes from events.jsonl: `round` events (rows of run.json `rounds`), `window` events (rows of run.json
`drift.timeline`), `pushed` and `reused` events (rows of `models`). Without them it is put together from run.json: first
rounds, windows up to the first alarm, the rounds that the alarm started, the other windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fedinfer.report.figures import count, finite, rows, section, words
from fedinfer.types import Json

MOST_WINDOWS = 10_000
ROUND, WINDOW = "round", "window"
PUSHED = ("pushed", "reused")


@dataclass(frozen=True, slots=True)
class LoopStep:
    """One place on the time axis.

    Args:
        kind: ROUND or WINDOW.
        label: number of the round or window.
        phase: "initial", "drift", ... for rounds, "watching" for windows.
        metric: metric after the round on held-out rows, or of the window on the devices' own streams.
        epsilon: spent so far, budget at the run's delta.
        aborted: True for a round without a release.
        ratios: per drift channel, test statistic divided by its alarm threshold.
        alarms: channels that raised an alarm in this window.
        versions: model versions that were pushed after this step.
    """

    kind: str
    label: str
    phase: str
    metric: float | None = None
    epsilon: float | None = None
    aborted: bool = False
    ratios: tuple[tuple[str, float], ...] = ()
    alarms: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()


def steps(run: Json, events: Sequence[Json]) -> tuple[LoopStep, ...]:
    """The steps of a run, from its events, or from run.json when no event describes a step.

    Args:
        run: run.json, schema 1.
        events: of events.jsonl, in order; may be empty.
    """
    found = _from_events(run, events)
    return found or _from_run(run)


def phases(sequence: Sequence[LoopStep]) -> tuple[tuple[str, int, int], ...]:
    """Runs of equal phases: (phase, first index, last index).

    Args:
        sequence: in order.
    """
    spans: list[tuple[str, int, int]] = []
    for index, step in enumerate(sequence):
        if spans and spans[-1][0] == step.phase:
            spans[-1] = (step.phase, spans[-1][1], index)
        else:
            spans.append((step.phase, index, index))
    return tuple(spans)


def _from_events(run: Json, events: Sequence[Json]) -> tuple[LoopStep, ...]:
    alarms = _alarms(run)
    found: list[LoopStep] = []
    for event in events:
        name = event.get("event")
        if name == ROUND:
            found.append(_round_step(event))
        elif name == WINDOW:
            found.append(_window_step(event, alarms.get(words(event.get("window")), ())))
        elif name in PUSHED and found:
            found[-1] = replace(found[-1], versions=(*found[-1].versions, words(event.get("version"))))
    return tuple(found)


def _from_run(run: Json) -> tuple[LoopStep, ...]:
    windows = _windows(run)
    split = next((place + 1 for place, step in enumerate(windows) if step.alarms), len(windows))
    rounds = [_round_step(row) for row in rows(run, "rounds")]
    first = [step for step in rounds if step.phase == "initial"]
    later = [step for step in rounds if step.phase != "initial"]
    models = [words(row.get("version")) for row in rows(run, "models") if row.get("reason") != "reuse"]
    return (*_pushed(first, models[:1]), *windows[:split], *_pushed(later, models[1:]), *windows[split:])


def _windows(run: Json) -> list[LoopStep]:
    """One step per window; only its number where the run kept no row for it."""
    drift, alarms = section(run, "drift"), _alarms(run)
    total = min(count(drift.get("windows")) or 0, MOST_WINDOWS)
    lines = rows(drift, "timeline") or [{"window": index} for index in range(1, total + 1)]
    return [_window_step(line, alarms.get(words(line.get("window")), ())) for line in lines]


def _pushed(steps_: list[LoopStep], versions: list[str]) -> list[LoopStep]:
    """The steps with the versions that were pushed after the last of them."""
    return [*steps_[:-1], replace(steps_[-1], versions=tuple(versions))] if steps_ else []


def _round_step(row: Json) -> LoopStep:
    return LoopStep(
        kind=ROUND,
        label=words(row.get("round"), "?"),
        phase=words(row.get("reason"), "initial"),
        metric=finite(row.get("metric")),
        epsilon=finite(row.get("epsilon")),
        aborted=row.get("status") == "aborted",
    )


def _window_step(event: Json, alarms: Iterable[str]) -> LoopStep:
    tests = rows(event, "channels")
    ratios = [(_plain(test), ratio) for test in tests if (ratio := _ratio(test)) is not None]
    raised = [_plain(test) for test in tests if test.get("alarm") is True]
    return LoopStep(
        kind=WINDOW,
        label=words(event.get("window"), "?"),
        phase="watching",
        metric=finite(event.get("metric")),
        epsilon=finite(event.get("epsilon")),
        ratios=tuple(ratios),
        alarms=tuple(dict.fromkeys((*alarms, *raised))),
    )


def _ratio(test: Json) -> float | None:
    """Statistic over threshold; both must be finite and the threshold positive."""
    statistic, threshold = finite(test.get("statistic")), finite(test.get("threshold"))
    if statistic is None or threshold is None or threshold <= 0:
        return None
    return max(statistic, 0.0) / threshold


def _alarms(run: Json) -> dict[str, tuple[str, ...]]:
    """Channels that raised an alarm, by window."""
    found: dict[str, tuple[str, ...]] = {}
    for alarm in rows(section(run, "drift"), "alarms"):
        window = words(alarm.get("window"))
        found[window] = (*found.get(window, ()), _plain(alarm))
    return found


def _plain(test: Json) -> str:
    """Name of a channel as people write it."""
    return words(test.get("channel")).replace("_", " ")
