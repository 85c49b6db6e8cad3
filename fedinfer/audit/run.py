"""Auditing a scenario: run it with known vectors through the real mechanism, and test all that then can be seen.

What runs is the product: device ledgers, clipping, encoding, noise shares, sums (mode `ideal`: the same integers, no
masks), decoding, the server's noise and optimizer. Only as many devices stay as the plan guarantees, so no noise counts
that is not promised. Three methods, each blind to something that another one sees:

* canaries: how well it is seen who was in (`canaries`). The view is what the scenario trusts nobody with less than: the
  released sums, or with trust `local` every device's own vectors. A bound on epsilon for the rounds alone, with the
  noise that the whole plan, windows included, was calibrated to.
* checks: the auditor knows every vector, so what is left of a release is its noise. Its size, its freshness, each
  device's share, the clipping, the freshness of samples and the entries of the ledgers are tested one by one
  (`residuals`, `probes`, `checks`): of rounds, of drift reports and of canary evaluations of models.
* trials: the mechanism in one coordinate, tens of thousands of times (`trials`).

No model is exported, and no window is watched: drift reports are made of sketches that the auditor wrote.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np

from fedinfer.audit.canaries import Floats
from fedinfer.audit.checks import Check, ledger_check
from fedinfer.audit.engine_checks import engine_checks
from fedinfer.audit.known import known_reports, prepared_vectors
from fedinfer.audit.mechanism import mechanism_bound
from fedinfer.audit.opening import Audited, open_audit
from fedinfer.audit.report import LEVEL, AuditReport, AuditSettings, audit_bounds
from fedinfer.audit.residuals import Residuals
from fedinfer.coordinator import LEDGER_OWNER, Group, SumSettings, apply_release, ask_next, noise_std, release, sum_plan
from fedinfer.device import score_histograms, trainer_of
from fedinfer.errors import TooFewSurvivors
from fedinfer.messages import (
    INDEPENDENT,
    ONE_GROUP,
    FitWork,
    GateWork,
    PlainReply,
    Purpose,
    ReportWork,
    ScheduledRound,
    SumPlan,
    ThresholdWork,
)
from fedinfer.metrics import edges_of
from fedinfer.ports import Clock
from fedinfer.privacy import (
    Event,
    Repeated,
    Spent,
    account,
    charge,
    clipping_of,
    flatten,
    mechanism_of,
    noise_model,
    relation_of,
    server_charge,
    split_of,
)
from fedinfer.privacy import Work as PrivateWork
from fedinfer.privacy import decode as decode_sum
from fedinfer.secagg import unpack
from fedinfer.simulation import Prepared
from fedinfer.types import DeviceId, FloatVector, Trust
from fedinfer.wire import decode, encode

NO_MODEL = 1
"""Version of the model in canary evaluations: no device has it, so that every device's answer is zeros."""
Vectors = Mapping[DeviceId, Floats]
Std = Callable[[DeviceId], float]


def run_audit(prepared: Prepared, settings: AuditSettings, clock: Clock) -> AuditReport:
    """Run the sums of a scenario with known vectors and report what they show.

    Args:
        prepared: from `prepare_local`; drift windows and triggered rounds count in its plan but are not run.
        settings: what is done.
        clock: time.

    Raises:
        ConfigError: nothing is protected, nothing is trained, or too few canaries fit.
        FedInferError: whatever stops a round.
    """
    with tempfile.TemporaryDirectory() as name:
        audit = open_audit(prepared, settings, Path(name), clock)
        seen = Seen(audit)
        for number in range(1, audit.plan.rounds + 1):
            _round(audit, seen, f"round-{number:04d}")
        _quiet_rounds(audit, seen)
        _reports(audit, seen)
        _evaluations(audit, seen)
        _histograms(audit, seen)
        checks = [*seen.checks(), *engine_checks(audit, seen.promises[0]), _ledgers(audit, seen)]
    return _report(audit, settings, tuple(checks))


class Seen:
    """What was released, by purpose, and what was promised for it.

    Args:
        audit: its wiring.
    """

    def __init__(self, audit: Audited) -> None:
        self._audit = audit
        self._residuals: dict[str, Residuals] = {}
        self.promises: list[SumPlan] = []

    def add(
        self, title: str, settings: SumSettings, std: Std, promise: SumPlan, total: FloatVector, true: Vectors
    ) -> None:
        """Take in one release.

        Args:
            title: of its kind.
            settings: of the sum.
            std: promised standard deviation of a device's noise, or of the server's where devices bring none.
            promise: as the devices got it.
            total: as it was released, (d,).
            true: what each surviving device contributed, without noise, (d,) each.
        """
        shares = {device: std(device) for device in true} if self._of_devices else {}
        whole = math.sqrt(sum(share**2 for share in shares.values())) if shares else std("")
        rounding = math.sqrt(len(true) / 4) / mechanism_of(promise).scale
        kept = self._residuals.setdefault(title, Residuals(title, whole, shares, settings.corrupt, rounding))
        kept.totals.append(total.astype(np.float64) - np.sum(list(true.values()), axis=0))
        if shares:
            own = own_vectors(self._audit, promise, true)
            kept.own.append({device: own[device] - true[device] for device in true})

    @property
    def _of_devices(self) -> bool:
        match self._audit.server.scenario.privacy.trust:
            case Trust.LOCAL | Trust.DISTRIBUTED:
                return True
            case Trust.CENTRAL:
                return False
            case trust:
                assert_never(trust)

    def checks(self) -> list[Check]:
        """Every test of every kind of noise; that of rounds knows how it is correlated."""
        strategy = self._audit.evidence.strategy
        return [
            check
            for title, residuals in self._residuals.items()
            for check in residuals.checks(strategy if title == ROUNDS else (1.0,), LEVEL)
        ]


LEAST_REPORTS = 20
"""More sums of small vectors than a plan has: five would not show half of their noise."""
ROUNDS, QUIET, REPORTS, EVALUATIONS = "rounds", "quiet rounds", "drift reports", "canary evaluations"
HISTOGRAMS = "choices of a threshold"


def _promise(
    audit: Audited,
    settings: SumSettings,
    purpose: Purpose,
    name: str,
    cohort: tuple[DeviceId, ...],
    work: bytes,
    scheduled: ScheduledRound = INDEPENDENT,
) -> SumPlan:
    server, group = audit.server, Group(name, cohort, ONE_GROUP)
    return sum_plan(server.scenario, server.run_id, server.entropy, settings, purpose, group, work, scheduled)


def _round(audit: Audited, seen: Seen, name: str) -> None:
    server, progress = audit.server, audit.progress
    audit.trainer.norm = progress.clipping_norm
    work = encode(FitWork(progress.weights, 0, progress.clipping_norm))
    cohort, staying = audit.cohort(audit.plan.train, audit.plan.cohort)
    asked, noise, scheduled = cohort, None, INDEPENDENT
    if progress.schedule is not None:
        turn = ask_next(progress.schedule, server.devices, server.generator, server.noise, audit.plan.cohort, name)
        asked, noise, scheduled = turn.cohort, None if audit.silent else turn.noise, turn.scheduled
        staying = asked
    audit.staying[name] = frozenset(staying)
    promise = _promise(audit, audit.train, Purpose.TRAIN, name, asked, work, scheduled)
    released, result = release(server, promise, work, noise)
    if released is None:
        raise TooFewSurvivors(f"round {name} of the audit has only {len(result.survivors)} survivors")
    seen.promises.append(promise)
    homes = np.isin(audit.trainer.canaries.homes, staying)
    audit.evidence.add(name, _views(audit, promise, released.total, staying), audit.trainer.effects * homes)
    if noise_model(promise.trust, promise.unit).work is not PrivateWork.PRIVATE_STEPS:  # there noise is in the steps
        true = prepared_vectors(server.scenario.privacy, audit.trainer.sent, staying, audit.trainer.norm)
        seen.add(ROUNDS, audit.plan.train, _one_std(audit, audit.plan.train), promise, released.total, true)
    apply_release(server.scenario, server.trainer, server.rows, audit.plan, progress, released)


def _quiet_rounds(audit: Audited, seen: Seen) -> None:
    """Rounds in which hardly anything is learned, where noise cannot be told from what is: DP-SGD on the device."""
    privacy, plan, training = audit.server.scenario.privacy, audit.plan, audit.server.scenario.training
    if noise_model(privacy.trust, privacy.unit).work is not PrivateWork.PRIVATE_STEPS:
        return
    audit.trainer.quiet = True
    cohort, staying = audit.cohort(plan.train, plan.cohort)
    # Each step adds noise over the expected size of a sample, times the learning rate; FedProx pulls it back.
    kept = 1 - training.learning_rate * training.proximal
    steps = math.sqrt(sum(kept ** (2 * step) for step in range(plan.train.local_steps)))
    noise = training.learning_rate * plan.train.noise_multiplier * privacy.clipping_norm * steps
    rows = {device: audit.host.rows.training_count(device) for device in staying}

    def std(device: DeviceId) -> float:
        return noise / max(1.0, plan.train.sampling_rate * rows[device])

    for number in range(1, plan.rounds + 1):
        name = f"quiet-{number:04d}"
        audit.staying[name] = frozenset(staying)
        work = encode(FitWork(audit.progress.weights, 0, audit.progress.clipping_norm))
        promise = _promise(audit, audit.train, Purpose.TRAIN, name, cohort, work)
        released, _ = release(audit.server, promise, work)
        if released is not None:
            seen.promises.append(promise)
            true = {device: np.zeros(released.total.size) for device in staying}
            seen.add(QUIET, plan.train, std, promise, released.total, true)


def _reports(audit: Audited, seen: Seen) -> None:
    """Drift reports of sketches that the auditor wrote."""
    settings = audit.plan.drift
    if settings is None:
        return
    cohort, staying = audit.cohort(settings, len(audit.order))
    for window in range(1, max(audit.plan.windows, LEAST_REPORTS) + 1):
        name = f"window-{window:04d}"
        true = known_reports(audit, settings, window, cohort)
        kind = _Small(REPORTS, settings, Purpose.DRIFT)
        _small_sum(audit, seen, kind, name, encode(ReportWork(window)), cohort, staying, true)


def _evaluations(audit: Audited, seen: Seen) -> None:
    """Canary evaluations of a model that no device has: their figures are zeros."""
    for number in range(max(len(audit.plan.gates), LEAST_REPORTS) if audit.plan.gates else 0):
        settings = audit.plan.gates[number % len(audit.plan.gates)]
        cohort, staying = audit.cohort(settings, len(audit.order))
        true = {device: np.zeros(settings.mechanism.dimension) for device in cohort}
        work = encode(GateWork(NO_MODEL, 0))
        kind = _Small(EVALUATIONS, settings, Purpose.GATE)
        _small_sum(audit, seen, kind, f"gate-{number + 1:04d}", work, cohort, staying, true)


def _histograms(audit: Audited, seen: Seen) -> None:
    """Choices of a threshold by the start weights."""
    settings = audit.plan.threshold
    if settings is None:
        return
    cohort, staying = audit.cohort(settings, len(audit.order))
    edges = edges_of(np.linspace(-1.0, 1.0, 100))
    message = ThresholdWork(audit.progress.weights, edges, 0)
    counts = score_histograms(audit.host, trainer_of(audit.host), audit.server.scenario.privacy.unit, message, cohort)
    true = dict(zip(cohort, counts.astype(np.float64), strict=True))
    for number in range(LEAST_REPORTS):
        kind = _Small(HISTOGRAMS, settings, Purpose.THRESHOLD)
        _small_sum(audit, seen, kind, f"threshold-{number + 1:04d}", encode(message), cohort, staying, true)


@dataclass(frozen=True, slots=True)
class _Small:
    """A kind of sum of small vectors."""

    title: str
    settings: SumSettings
    purpose: Purpose


def _small_sum(
    audit: Audited,
    seen: Seen,
    kind: _Small,
    name: str,
    work: bytes,
    cohort: tuple[DeviceId, ...],
    staying: tuple[DeviceId, ...],
    true: Vectors,
) -> None:
    settings = kind.settings
    audit.staying[name] = frozenset(staying)
    promise = _promise(audit, audit.settings(settings), kind.purpose, name, cohort, work)
    released, result = release(audit.server, promise, work)
    if released is None:
        raise TooFewSurvivors(f"{name} of the audit has only {len(result.survivors)} survivors")
    seen.promises.append(promise)
    kept = {device: true[device] for device in staying}
    seen.add(kind.title, settings, _one_std(audit, settings), promise, released.total, kept)


def _one_std(audit: Audited, settings: SumSettings) -> Std:
    """Noise of one device, or of the server where devices bring none."""
    std = noise_std(audit.server.scenario, settings, 1)
    return lambda _device: std


def own_vectors(audit: Audited, promise: SumPlan, devices: Mapping[DeviceId, object]) -> dict[DeviceId, Floats]:
    """What each device sent in the sum just made, decoded, float64 (d,).

    Args:
        audit: its recorder holds the messages.
        promise: of the sum.
        devices: whose vectors are wanted.
    """
    mechanism = mechanism_of(promise)
    bodies = {device: decode(PlainReply, audit.recorder.bodies[device]).packed for device in devices}
    return {
        device: decode_sum(unpack(packed, mechanism.bits, mechanism.padded), mechanism, promise.rotation_seed).astype(
            np.float64
        )
        for device, packed in bodies.items()
    }


def _views(audit: Audited, promise: SumPlan, total: np.ndarray, staying: tuple[DeviceId, ...]) -> Floats:
    """(groups, d) what is seen of this round, minus what is known."""
    expected = audit.trainer.expected
    clipping, norm = clipping_of(audit.server.scenario.privacy), audit.trainer.norm
    match promise.trust:
        case Trust.DISTRIBUTED | Trust.CENTRAL:
            known = np.sum([expected[device] for device in staying], axis=0)
            return np.asarray(clipping.updates(total, norm) - known, np.float64)[None, :]
        case Trust.LOCAL:
            homes = sorted(set(audit.trainer.canaries.homes))
            own = own_vectors(audit, promise, dict.fromkeys(homes))
            views = [clipping.updates(own[home].astype(np.float32), norm) - expected[home] for home in homes]
            return np.stack(views)
        case _:
            assert_never(promise.trust)


def _ledgers(audit: Audited, seen: Seen) -> Check:
    """Whether every sum is in the ledgers, of the server and of each device that was asked, with what it costs."""
    server, wrong = audit.server, []
    kept = {(entry.owner, entry.reference): entry for entry in server.ledger.entries(LEDGER_OWNER)}
    kept |= {(entry.owner, entry.reference): entry for entry in audit.host.ledger.entries(None)}
    for promise in seen.promises:
        split = split_of(server.scenario, server.windows)
        due = {device: charge(promise, split) for device in audit.staying[promise.round_id]}
        due |= {LEDGER_OWNER: server_charge(promise, split)}
        for owner, events in due.items():
            entry = kept.get((owner, promise.round_id))
            if entry is None or not entry.committed_at or flatten([entry.event]) != flatten(events):
                wrong.append(f"{owner} {promise.round_id}")
    return ledger_check(len(seen.promises), tuple(wrong), LEVEL)


def _claimed(audit: Audited) -> Spent:
    """The claim comes from the plan as it was made, whatever noise was added."""
    privacy, plan = audit.server.scenario.privacy, audit.plan
    if plan.factorization is not None:
        events: list[Event] = [plan.factorization.event(plan.train.noise_multiplier)]
    else:
        cohort, _ = audit.cohort(plan.train, plan.cohort)
        promise = _promise(audit, plan.train, Purpose.TRAIN, "claim", cohort, b"")
        events = [Repeated(event, plan.rounds) for event in charge(promise)]
    return account(events, privacy.delta, relation_of(privacy.unit))


def _report(audit: Audited, settings: AuditSettings, checks: tuple[Check, ...]) -> AuditReport:
    scenario = audit.server.scenario
    privacy, canaries = scenario.privacy, audit.trainer.canaries
    bound, ceiling = audit_bounds(audit.evidence, canaries, privacy.delta, settings)
    return AuditReport(
        scenario=scenario.scenario.name,
        unit=privacy.unit,
        trust=privacy.trust,
        rounds=audit.plan.rounds,
        noise=settings.noise,
        claimed=_claimed(audit),
        bound=bound,
        ceiling=ceiling,
        trials=mechanism_bound(audit, settings),
        checks=checks,
    )
