"""Auditing a run that was, of real devices too: weights that no row can move hold nothing but the noise of its rounds.

A scenario with `data.canary_levels` declares categories that no row has (a canary is what should never be seen; here
it is the noise that must be seen). Nobody's vectors have to be known: the gradient of such a weight is zero for every
row, so the released weights are the server's optimizer applied to noise alone, and have at least the variance that the
plan guarantees. A row that has such a level after all adds to the variance, so a sound run is never accused for it.

Two variances are tested. The guaranteed one is what epsilon rests on. That of the shares of all devices in the sums is
larger, because shares are sized for the fewest honest survivors: less than that says that some devices add less than
their share, which the claim may still stand.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.audit.checks import Check, noise_check
from fedinfer.audit.report import LEVEL
from fedinfer.errors import ConfigError
from fedinfer.types import Json

REPLAY_ERROR = 0.05
"""The deviation in a record is a replay of 2,048 coordinates, so it is known to 1.6 %: three times that is allowed."""


@dataclass(frozen=True, slots=True)
class RunAudit:
    """What the released weights of a run show.

    Args:
        run, scenario, setting: which run; simulation or deployment.
        rounds: that moved the weights.
        epsilon, delta: claimed by its statement, as text.
        checks: of its noise.
    """

    run: str
    scenario: str
    setting: str
    rounds: int
    epsilon: str
    delta: str
    checks: tuple[Check, ...]

    @property
    def found(self) -> tuple[str, ...]:
        """Names of the checks that refute the plan."""
        return tuple(check.name for check in self.checks if check.failed)

    def to_json(self) -> Json:
        """All figures, and the verdict."""
        return {
            "run": self.run,
            "scenario": self.scenario,
            "setting": self.setting,
            "rounds": self.rounds,
            "claimed_epsilon": self.epsilon,
            "delta": self.delta,
            "checks": [check.to_json() for check in self.checks],
            "found": list(self.found),
            "verdict": "violated" if self.found else "consistent",
        }


def audit_run(folder: Path) -> RunAudit:
    """Audit a run by its record.

    Args:
        folder: of the run, with its run.json.

    Raises:
        ConfigError: there is no record, or it says nothing of canary levels.
    """
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return _of_record(record, path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error!r}", hint="name the folder of a run, with its run.json") from error


def _of_record(record: Any, path: Path) -> RunAudit:
    canaries, statement = record.get("canaries") or {}, record["statement"]
    weights = np.array(canaries.get("weights", ()), np.float64)
    guaranteed, usual = (float(canaries.get(name, 0.0)) for name in ("guaranteed", "usual"))
    if not weights.size:
        raise ConfigError(
            f"{path} says nothing of canary levels",
            hint="[data] canary_levels = 40, and a model of kind logistic, linear or additive",
        )
    if not (0 < guaranteed <= usual < math.inf and np.isfinite(weights).all()):
        raise ConfigError(
            f"{path}: it is not known how much noise the weights hold",
            hint="that needs noise of the sum: not DP-SGD on devices, nor correlated noise, nor a robust rule",
        )
    checks = tuple(
        noise_check(name, f"weights of levels that no row has, and {what}", weights / std / (1 - REPLAY_ERROR), LEVEL)
        for name, what, std in (
            ("guaranteed noise", "what the plan guarantees", guaranteed),
            ("noise of all devices", "the shares of all devices that were in the sums", usual),
        )
    )
    released = sum(1 for row in record["rounds"] if row["status"] == "released")
    names = (str(record["run_id"]), str(record["scenario"]), str(statement["setting"]))
    return RunAudit(*names, released, str(statement["epsilon"]), str(statement["delta"]), checks)
