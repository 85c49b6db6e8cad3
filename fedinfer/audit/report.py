"""What an audit is asked for and what it says: settings, report, and the bound from the canaries' scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from fedinfer.audit.canaries import AuditEvidence, Canaries
from fedinfer.audit.checks import Check
from fedinfer.privacy import AuditBound, AuditMethod, Spent, canary_device_bound, one_run_bound
from fedinfer.types import Json, Trust, Unit

LEVEL = 1e-4
"""Of each check: a sound run with twenty of them is accused in at most one audit of five hundred."""


class NoiseUnderAudit(StrEnum):
    """Which noise the audited run adds."""

    PLANNED = "planned"
    UNSAFE_NO_NOISE = "UnsafeNoNoise"
    """None, while the claim stays that of the plan: shows that the audit can fail."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What is done.

    Args:
        method: see fedinfer.privacy.accounting.audit.
        canaries: how many; 0: chosen.
        confidence: of the bound, in (0, 1).
        noise: see `NoiseUnderAudit`.
        trials: runs of the mechanism alone, of each kind; 0: none.
    """

    method: AuditMethod
    canaries: int
    confidence: float
    noise: NoiseUnderAudit
    trials: int = 0


@dataclass(frozen=True, slots=True)
class AuditReport:
    """An audit's result.

    Args:
        scenario, unit, trust, rounds: what was trained.
        noise: which noise was added.
        claimed: proved upper bound for these rounds, if the mechanism is what it says.
        bound: what the canaries show.
        ceiling: the bound if every canary had been found; canaries with a ceiling below the claim cannot fail.
        trials: what repeated runs of the mechanism alone show; None where there is no mechanism apart from training.
        checks: of noise, samples, clipping and ledgers.
    """

    scenario: str
    unit: Unit
    trust: Trust
    rounds: int
    noise: NoiseUnderAudit
    claimed: Spent
    bound: AuditBound
    ceiling: float
    trials: AuditBound | None
    checks: tuple[Check, ...]

    @property
    def found(self) -> tuple[str, ...]:
        """What refutes the claim: "canaries", "trials", or the name of a check."""
        bounds = {"canaries": self.bound, "trials": self.trials}
        names = [name for name, bound in bounds.items() if bound and bound.epsilon > self.claimed.epsilon]
        return (*names, *(check.name for check in self.checks if check.failed))

    @property
    def violated(self) -> bool:
        """The claim is refuted."""
        return bool(self.found)

    @property
    def can_fail(self) -> bool:
        """The canaries would have found out a mechanism without any noise."""
        return self.ceiling > self.claimed.epsilon

    def to_json(self) -> Json:
        """All figures, and the verdict."""
        return {
            "scenario": self.scenario,
            "unit": str(self.unit),
            "trust": str(self.trust),
            "rounds": self.rounds,
            "noise": str(self.noise),
            "claimed_epsilon": self.claimed.epsilon,
            "accountant": self.claimed.accountant,
            "relation": str(self.claimed.relation),
            "sampling": self.claimed.sampling,
            **self.bound.to_json(),
            "ceiling": self.ceiling,
            "can_fail": self.can_fail,
            "trials": None if self.trials is None else self.trials.to_json(),
            "checks": [check.to_json() for check in self.checks],
            "found": list(self.found),
            "verdict": "violated" if self.violated else "consistent",
        }


def audit_bounds(
    evidence: AuditEvidence, canaries: Canaries, delta: float, settings: AuditSettings
) -> tuple[AuditBound, float]:
    """What the canaries show, and what they would show if every one had been found.

    Args:
        evidence: scores of the canaries in every round.
        canaries: what was planted.
        delta: of the claim, in (0, 1).
        settings: method and confidence.

    Returns:
        The lower bound on epsilon, and the largest one that this audit could give: the canaries' own noise for one
        another remains.
    """
    m, k = canaries.included.size, canaries.dimension
    if settings.method is AuditMethod.ONE_RUN:
        guesses = max(2, m // 4 * 2)  # the clearest half, fixed in advance
        best = one_run_bound(
            canaries.included.astype(np.float64), canaries.included, delta, settings.confidence, guesses
        )
        bound = one_run_bound(evidence.scores(), canaries.included, delta, settings.confidence, guesses)
        return bound, best.epsilon
    shared = m / (int(evidence.groups.max()) + 1)
    normal = np.array([NormalDist().inv_cdf((i + 0.5) / m) for i in range(m)])
    perfect = (1 / math.sqrt(shared)) + normal / math.sqrt(k)
    best = canary_device_bound(perfect, k, delta, settings.confidence)
    return canary_device_bound(evidence.cosines(), k, delta, settings.confidence), best.epsilon
