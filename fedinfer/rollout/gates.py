"""Is the wave good? Decided from noisy sums, with the noise in the confidence bounds.

Rules:
* A figure is a sum over the evaluated devices of one bounded value each (error rate, share above a latency limit,
  agreement with the model before, confidence shift, metric), released by secure aggregation with Gaussian-like noise.
* PASS needs the bound on the bad side to be good enough for every gate and every group of devices; FAIL needs the
  bound on the good side to be too bad for one of them; anything else is HOLD. Few devices, much noise or a missing
  figure can therefore never pass.
* Error rates are per wave: `wrong_pass_rate` bounds the chance of passing when any one value is bad (all gates must
  pass, so no correction: intersection-union test, Berger 1982), `wrong_stop_rate` the chance of failing when all are
  good (Bonferroni over gates and groups). Both are divided by the number of evaluations.
* A gate is decided for every group of every canary evaluation that carries its figure; a group in such an evaluation
  without it is missing, and missing holds. Leave groups that are too small out of an evaluation, or join them.
* Evaluations of the same devices are not new devices: more of them average the noise, not the choice of devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import assert_never

from fedinfer.errors import BadMessage, ConfigError
from fedinfer.types import Json


class Verdict(StrEnum):
    """Outcome of a judgement."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    HOLD = "hold"
    FAIL = "fail"


class Bound(StrEnum):
    """Which side is good."""

    AT_MOST = "at_most"
    AT_LEAST = "at_least"


class GateScope(StrEnum):
    """Who the statement is about: the evaluated devices alone (all uncertainty is noise), or the fleet behind them."""

    WAVE = "wave"
    FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition on the mean of one figure.

    Args:
        figure: name of the figure.
        bound: whether small or large is good.
        passes_at: value that is certainly good enough.
        fails_at: value that is certainly too bad; not better than `passes_at`.
        low, high: range of one device's value (devices clip to it).
        scope: who the statement is about.
    """

    figure: str
    bound: Bound
    passes_at: float
    fails_at: float
    low: float
    high: float
    scope: GateScope

    def __post_init__(self) -> None:
        worse = self._worse(self.fails_at, self.passes_at)
        if not self.low <= min(self.passes_at, self.fails_at) <= max(self.passes_at, self.fails_at) <= self.high:
            raise ConfigError(f"gate {self.figure}: limits must lie within [{self.low}, {self.high}]")
        if not worse or not self.low < self.high:
            raise ConfigError(f"gate {self.figure}: fails_at {self.fails_at} is better than passes_at {self.passes_at}")

    @property
    def room(self) -> float:
        """How far the passing limit is from the best possible value."""
        match self.bound:
            case Bound.AT_MOST:
                return self.passes_at - self.low
            case Bound.AT_LEAST:
                return self.high - self.passes_at
            case _:
                assert_never(self.bound)

    def _worse(self, left: float, right: float) -> bool:
        """True when `left` is not better than `right`."""
        match self.bound:
            case Bound.AT_MOST:
                return left >= right
            case Bound.AT_LEAST:
                return left <= right
            case _:
                assert_never(self.bound)

    def sample(self, judged: int) -> float:
        """Independent values that the mean of some devices stands for.

        Args:
            judged: devices whose values were summed.

        Returns:
            `judged` for a statement about the fleet; infinity for one about these devices only, because
            then nothing depends on which ones they happen to be.
        """
        match self.scope:
            case GateScope.FLEET:
                return float(judged)
            case GateScope.WAVE:
                return math.inf
            case _:
                assert_never(self.scope)


MOST_LOOKS = 1000
MOST_JUDGED = 10**9


@dataclass(frozen=True, slots=True)
class GateSettings:
    """All conditions of a wave.

    Args:
        gates: at least one.
        min_judged: devices that every group must have, 1..`MOST_JUDGED`.
        wrong_pass_rate: largest chance per wave to pass when one value is bad, in (0, 0.5).
        wrong_stop_rate: largest chance per wave to fail when all values are good, in (0, 0.5).
        evaluations: canary evaluations that may be used per wave, 1..`MOST_LOOKS`.
    """

    gates: tuple[Gate, ...]
    min_judged: int
    wrong_pass_rate: float
    wrong_stop_rate: float
    evaluations: int

    def __post_init__(self) -> None:
        if not self.gates or self.min_judged < 1 or self.evaluations < 1:
            raise ConfigError("a wave needs at least one gate, one evaluated device and one canary evaluation")
        if self.evaluations > MOST_LOOKS or self.min_judged > MOST_JUDGED:
            raise ConfigError(f"looks and min_judged may be at most {MOST_LOOKS} and {MOST_JUDGED}")
        if not (0 < self.wrong_pass_rate < 0.5 and 0 < self.wrong_stop_rate < 0.5):
            raise ConfigError("wrong_pass_rate and wrong_stop_rate must be in (0, 0.5)")


@dataclass(frozen=True, slots=True)
class Figure:
    """A released sum.

    Args:
        name: what was summed.
        total: sum over the devices, with noise.
        noise_std: standard deviation of that noise, in the unit of `total`; 0 for exact counts.
    """

    name: str
    total: float
    noise_std: float


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """Sums of one group of devices in one canary evaluation.

    Args:
        group: "" for all devices, else for instance "hardware=armv8".
        judged: devices in the sums, >= 0.
        figures: their sums.
    """

    group: str
    judged: int
    figures: tuple[Figure, ...]

    def __post_init__(self) -> None:
        values = [value for figure in self.figures for value in (figure.total, figure.noise_std)]
        if self.judged < 0 or not all(map(math.isfinite, values)) or any(f.noise_std < 0 for f in self.figures):
            raise BadMessage(f"figures of group {self.group!r} are not finite or not counts")


@dataclass(frozen=True, slots=True)
class Finding:
    """One gate for one group.

    Args:
        group: as in `GroupFigures`.
        figure: of the gate.
        verdict: of this gate alone.
        estimate: mean over the devices; NaN when there are too few.
        lower, upper: the one-sided bounds that decide: one for passing, the other for failing.
        reason: one line with the numbers.
    """

    group: str
    figure: str
    verdict: Verdict
    estimate: float
    lower: float
    upper: float
    reason: str

    def to_json(self) -> Json:
        """For the audit log."""
        return {
            "group": self.group,
            "figure": self.figure,
            "verdict": str(self.verdict),
            "estimate": self.estimate,
            "lower": self.lower,
            "upper": self.upper,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Judgement:
    """Outcome with all findings."""

    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        """The findings that decide, in one line."""
        deciding = [finding.reason for finding in self.findings if finding.verdict is self.verdict]
        return "; ".join(deciding[:3]) + (f"; and {len(deciding) - 3} more" if len(deciding) > 3 else "")


def judge(settings: GateSettings, evaluations: Sequence[Sequence[GroupFigures]]) -> Judgement:
    """Decide a wave from all canary evaluations so far.

    Args:
        settings: conditions.
        evaluations: figures by canary evaluation, an entry per group.

    Returns:
        PASS, HOLD or FAIL with findings; one FAIL is enough, PASS needs all.
    """
    pairs = [(gate, group) for gate in settings.gates for group in _groups(gate, evaluations)]
    findings = tuple(_judge_gate(settings, gate, group, evaluations, len(pairs)) for gate, group in pairs)
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FAIL in verdicts:
        return Judgement(Verdict.FAIL, findings)
    return Judgement(Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.HOLD, findings)


def bounds(total: float, judged: int, noise_std: float, sample: float, z: float) -> tuple[float, float]:
    """Score bounds for the mean of values in [0, 1] from a noisy sum.

    Solves (x - m)^2 = z^2 (m(1 - m)/sample + (noise_std/judged)^2) for m: Wilson 1927 with the noise added; m(1 - m)
    bounds the variance of any value in [0, 1] with mean m (Bhatia and Davis 2000).

    Args:
        total: noisy sum.
        judged: values in it, > 0.
        noise_std: standard deviation of the noise of the sum.
        sample: independent values it stands for, > 0; infinity for a statement about the summed devices only.
        z: normal quantile of the wanted one-sided level, > 0.

    Returns:
        Lower and upper bound, within [0, 1].
    """
    x = min(max(total / judged, 0.0), 1.0)
    a, noise = z * z / sample, z * noise_std / judged
    middle = (2 * x + a) / (2 * (1 + a))
    half = math.sqrt(max(a * a + 4 * a * x * (1 - x) + 4 * (1 + a) * noise * noise, 0.0)) / (2 * (1 + a))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _groups(gate: Gate, evaluations: Sequence[Sequence[GroupFigures]]) -> list[str]:
    carrying = (
        evaluation
        for evaluation in evaluations
        if any(f.name == gate.figure for entry in evaluation for f in entry.figures)
    )
    return sorted({entry.group for evaluation in carrying for entry in evaluation}) or [""]


def _judge_gate(
    settings: GateSettings, gate: Gate, group: str, evaluations: Sequence[Sequence[GroupFigures]], tests: int
) -> Finding:
    label = f"{gate.figure}{f' of {group}' if group else ''}"
    found = [
        (entry.judged, figure)
        for evaluation in evaluations
        for entry in evaluation
        for figure in entry.figures
        if entry.group == group and figure.name == gate.figure
    ]
    largest = max((judged for judged, _ in found), default=0)
    if largest < settings.min_judged:
        reason = f"{label}: {largest} devices judged, {settings.min_judged} needed"
        return Finding(group, gate.figure, Verdict.HOLD, math.nan, gate.low, gate.high, reason)
    span, judged = gate.high - gate.low, sum(judged for judged, _ in found)
    total = sum(figure.total for _, figure in found)
    # Noise is drawn anew in every evaluation, so its variances add up; the devices may be the same ones each time.
    noise = math.sqrt(sum(figure.noise_std**2 for _, figure in found)) / span
    sample = gate.sample(largest)

    def at(error_rate: float) -> tuple[float, float]:
        # Every evaluation is another chance to be wrong, hence the division (Bonferroni).
        z = -NormalDist().inv_cdf(error_rate / settings.evaluations)
        lower, upper = bounds((total - judged * gate.low) / span, judged, noise, sample, z)
        return gate.low + span * lower, gate.low + span * upper

    passing, stopping = at(settings.wrong_pass_rate), at(settings.wrong_stop_rate / tests)
    return _finding(gate, group, label, total / judged, passing, stopping)


def _finding(
    gate: Gate, group: str, label: str, estimate: float, passing: tuple[float, float], stopping: tuple[float, float]
) -> Finding:
    match gate.bound:
        case Bound.AT_MOST:
            words, good, bad = "at most", passing[1] <= gate.passes_at, stopping[0] > gate.fails_at
            lower, upper = stopping[0], passing[1]
        case Bound.AT_LEAST:
            words, good, bad = "at least", passing[0] >= gate.passes_at, stopping[1] < gate.fails_at
            lower, upper = passing[0], stopping[1]
        case _:
            assert_never(gate.bound)
    verdict = Verdict.FAIL if bad else Verdict.PASS if good else Verdict.HOLD
    reason = (
        f"{label}: {estimate:.4g} (between {lower:.4g} and {upper:.4g}), "
        f"passes at {words} {gate.passes_at:.4g}, fails beyond {gate.fails_at:.4g}"
    )
    return Finding(group, gate.figure, verdict, estimate, lower, upper, reason)
