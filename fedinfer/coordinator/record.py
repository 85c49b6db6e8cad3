"""What happened, as typed records: made once, never changed, written to JSON in this file alone.

Decisions are made on states and results, never on a record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median_low

from fedinfer.drift import BLIND_SPOT, AccuracyEstimate, BinChange, ChannelResult, Decision, WindowResult
from fedinfer.types import Json


class TransferMode(StrEnum):
    """How the model came to a device."""

    WHOLE = "whole"
    """The whole file, compressed or not."""
    PATCH = "patch"
    BOTH = "both"
    """A patch that the device could not use, then the whole file."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one device was sent.

    Args:
        way: transfer mode of the model.
        model_bytes: of the model file or patch, both for TransferMode.BOTH.
        bytes: of the messages, signed metadata included.
    """

    way: TransferMode
    model_bytes: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One training round.

    Args:
        round: number, from 1.
        reason: why it was run: "initial" or "drift".
        cohort, survivors, refused: numbers of devices.
        groups, groups_released: how many groups there were, and how many have a sum.
        released: the weights were moved.
        detail: why groups have no sum.
        metric: name of the one that the task is judged by.
        metrics: of the weights after the round, by name; empty at a server that holds no labelled rows, and in rounds
            without figures (`training.evaluate_every`).
        clipping_norm: of this round.
        unclipped: noisy fraction of devices that were not clipped; None where the norm is fixed.
        epsilon: spent by the run so far.
        seconds: that the round took.
        bytes_up, bytes_down: mean per device of the cohort.
    """

    round: int
    reason: str
    cohort: int
    survivors: int
    refused: int
    groups: int
    groups_released: int
    released: bool
    detail: str
    metric: str
    metrics: Mapping[str, float]
    clipping_norm: float
    unclipped: float | None
    epsilon: float
    seconds: float
    bytes_up: int
    bytes_down: int

    def to_json(self) -> Json:
        """For the event and run.json."""
        return {
            "round": self.round,
            "reason": self.reason,
            "cohort": self.cohort,
            "survivors": self.survivors,
            "refused": self.refused,
            "groups": self.groups,
            "groups_released": self.groups_released,
            "status": "released" if self.released else "aborted",
            "detail": self.detail,
            "metric": self.metrics.get(self.metric),
            "metrics": dict(self.metrics),
            "loss": self.metrics.get("loss"),
            "clipping_norm": self.clipping_norm,
            "unclipped": self.unclipped,
            "epsilon": self.epsilon,
            "seconds": self.seconds,
            "bytes_up_per_device": self.bytes_up,
            "bytes_down_per_device": self.bytes_down,
        }


@dataclass(frozen=True, slots=True)
class CanaryRecord:
    """What a canary evaluation of one wave said.

    Args:
        version, wave: which; waves from 1.
        judged: devices in the sum.
        figures: mean, standard deviation of the noise, bounds and verdict, by figure.
        detail: why there was no sum.
        epsilon: spent by the run so far.
        state, reason: of the rollout afterwards.
    """

    version: int
    wave: int
    judged: int
    figures: Mapping[str, Json]
    detail: str
    epsilon: float
    state: str
    reason: str

    def to_json(self) -> Json:
        """For the event and run.json."""
        return {
            "version": self.version,
            "wave": self.wave,
            "judged": self.judged,
            "figures": dict(self.figures),
            "detail": self.detail,
            "epsilon": self.epsilon,
            "state": self.state,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class WaveRecord:
    """What came of pushing to one wave.

    Args:
        version, wave: which; waves from 1.
        installed, failed: numbers of devices.
        first_failure: in words; empty when there was none.
        sent: what each device was sent.
        state, reason: of the rollout afterwards.
    """

    version: int
    wave: int
    installed: int
    failed: int
    first_failure: str
    sent: tuple[Sent, ...]
    state: str
    reason: str

    def to_json(self) -> Json:
        """For the event and run.json."""
        return {
            "version": self.version,
            "wave": self.wave,
            "installed": self.installed,
            "failed": self.failed,
            "first_failure": self.first_failure,
            "pushed": sent_by_kind(self.sent),
            "state": self.state,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """A held wave that went on because the scenario said so beforehand.

    Args:
        version, wave: which; waves from 1.
        reason: why it was held.
    """

    version: int
    wave: int
    reason: str

    def to_json(self) -> Json:
        """For the event and run.json."""
        return {"version": self.version, "wave": self.wave, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """A rollout as far as this process saw it.

    Args:
        phase: in which it rests; empty when it was interrupted.
        steps: what happened, in order.
        devices_active: that serve the version.
    """

    phase: str
    steps: tuple[WaveRecord | CanaryRecord | HoldRecord, ...]
    devices_active: int

    def to_json(self) -> Json:
        """For run.json: waves with what was pushed and what canary evaluations said, in one row a wave."""
        rows: dict[int, Json] = {}
        for step in self.steps:
            if not isinstance(step, HoldRecord):
                rows[step.wave] = rows.get(step.wave, {}) | step.to_json()
        pushed = [step.sent for step in self.steps if isinstance(step, WaveRecord)]
        holds = [step.to_json() for step in self.steps if isinstance(step, HoldRecord)]
        row: Json = {"devices_active": self.devices_active}
        if rows:
            row["waves"] = list(rows.values())
        if pushed:
            row["pushed"] = sent_figures([each for sent in pushed for each in sent])
        if holds:
            row["proceeded"] = holds
        if self.phase:
            row["rollout"] = self.phase
        return row


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One version.

    Args:
        version, reason, window: which, why, and after which inference window.
        figures: what its build measured, as `Built.to_json` says it.
        rollout: how it came to the devices; None before that.
    """

    version: int
    reason: str
    window: int
    figures: Json
    rollout: RolloutRecord | None = None

    def to_json(self) -> Json:
        """For the events and run.json."""
        kept = (
            "sha256", "float_metric", "quantized_metric", "float_bytes", "quantized_bytes", "recipe", "agreement",
            "calibration_error", "temperature", "threshold", "metric", "slimming",
        )  # fmt: skip
        start: Json = {"version": self.version, "reason": self.reason, "window": self.window}
        row = start | {key: self.figures[key] for key in kept} | {"devices_active": 0}
        return row | self.rollout.to_json() if self.rollout is not None else row


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """One private drift report.

    Args:
        reporters: devices in the sum.
        groups, groups_released: how many groups there were, and how many have a sum.
        epsilon: spent by the run so far.
        result: verdict of the monitor; None when the report aborted.
        estimated: accuracy without labels; None where the report has no confidence or says too little.
        labelled: accuracy on rows whose label came in the window; None where the report has no errors, or too few.
    """

    reporters: int
    groups: int
    groups_released: int
    epsilon: float
    result: WindowResult | None
    estimated: AccuracyEstimate | None = None
    labelled: AccuracyEstimate | None = None


MOST_MOVED = 5
"""Bins that an alarm names."""


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """A channel above its alarm level.

    Args:
        window: number, from 1.
        channel: name.
        p_value: of the test in this window, in [0, 1].
        moved: bins that moved, the most surprising first, at most `MOST_MOVED`.
    """

    window: int
    channel: str
    p_value: float
    moved: tuple[BinChange, ...] = ()

    @classmethod
    def of(cls, window: int, channel: ChannelResult) -> AlarmRecord:
        """The alarm of a channel.

        Args:
            window: number, from 1.
            channel: above its alarm level.
        """
        return cls(window, channel.channel, channel.p_value, channel.moved[:MOST_MOVED])

    def to_json(self) -> Json:
        """For the event and run.json."""
        moved = [change.to_json() for change in self.moved]
        return {"window": self.window, "channel": self.channel, "p_value": self.p_value, "moved": moved}


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One inference window.

    Args:
        window: number, from 1.
        metric: of the task on the devices' rows, known to simulations only.
        latency_us: median of one prediction in microseconds, known to simulations only.
        report: None when nobody reported.
        state: of the policy.
        decision: what the policy decided.
    """

    window: int
    metric: float | None
    latency_us: float | None
    report: ReportRecord | None
    state: str
    decision: Decision

    def to_json(self) -> Json:
        """For the event and run.json."""
        row: Json = {
            "window": self.window,
            "reporters": 0,
            "metric": self.metric,
            "latency_us": self.latency_us,
            "channels": [],
        }
        if (report := self.report) is not None:
            row |= {
                "reporters": report.reporters,
                "groups": report.groups,
                "groups_released": report.groups_released,
                "epsilon": report.epsilon,
            }
            row |= report.result.to_json() if report.result is not None else {}
            estimated, labelled = report.estimated, report.labelled
            row["estimated"] = None if estimated is None else estimated.to_json() | {"but": BLIND_SPOT}
            row["labelled"] = None if labelled is None else labelled.to_json()
        return row | {"state": self.state, "decision": self.decision.to_json()}


def sent_by_kind(sent: Sequence[Sent]) -> list[Json]:
    """What was sent, without names: one row for all devices that were sent the same.

    Args:
        sent: what each device was sent.

    Returns:
        Rows in a fixed order, so that they say nothing about the order of the devices.
    """
    counts = Counter(sent)
    return [
        {"way": str(each.way), "devices": counts[each], "model_bytes": each.model_bytes, "bytes": each.bytes}
        for each in sorted(counts, key=lambda each: (each.way, each.model_bytes, each.bytes))
    ]


def sent_figures(sent: Sequence[Sent]) -> Json:
    """Counts by transfer mode, and the median device's bytes.

    Args:
        sent: what each device was sent; may be empty.
    """
    counts = Counter(each.way for each in sent)
    medians = {
        "model_bytes": median_low(each.model_bytes for each in sent) if sent else 0,
        "bytes": median_low(each.bytes for each in sent) if sent else 0,
    }
    return {str(way): counts[way] for way in TransferMode} | medians
