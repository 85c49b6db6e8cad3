"""digits with a clipping norm that adapts: whole runs with every trust, what their records say, and an audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedinfer.audit import run_audit
from fedinfer.audit.report import AuditSettings, NoiseUnderAudit
from fedinfer.config import load_scenario
from fedinfer.privacy.accounting.audit import AuditMethod
from fedinfer.simulation.engine import prepare_local
from fedinfer.system import SystemClock
from fedinfer.types import Trust
from tests.scenarios.record_shape import missing
from tests.scenarios.runs import run, scenario

pytestmark = pytest.mark.slow
SMALL = (
    "data.partition.devices=60", "privacy.clipping=adaptive", "privacy.clipping_norm=20", "privacy.epsilon=40",
    "privacy.delta=1e-4", "training.rounds=4", "drift.epsilon=5", "drift.rounds=2", "rollout.canary_epsilon=0",
    "drift.windows=3", "drift.inject.at_window=2", "secure_aggregation.mode=ideal",
)  # fmt: skip


@pytest.mark.parametrize("trust", list(Trust))
def test_a_whole_run_adapts_and_stays_within_its_budget(tmp_path: Path, trust: Trust) -> None:
    done = run(scenario("digits", *SMALL, f"privacy.trust={trust}"), tmp_path / "run")
    assert done.failure is None
    assert missing(done.record) == []
    rounds = [row for row in done.record["rounds"] if row["status"] == "released"]
    assert rounds[0]["clipping_norm"] == 20
    if trust is not Trust.LOCAL:  # there the fraction is mostly noise
        assert [row["clipping_norm"] for row in rounds[:3]] == sorted(
            (row["clipping_norm"] for row in rounds[:3]), reverse=True
        )
    assert all(isinstance(row["unclipped"], float) for row in rounds)
    assert done.record["privacy"]["epsilon"] <= 40


def test_an_audit_knows_the_norm_of_every_round() -> None:
    """Sound noise is not accused; without noise the canaries are found, although the norm moved meanwhile."""
    more = ("drift.enabled=false", "rollout.canary_epsilon=0", "privacy.clipping=adaptive", "privacy.clipping_norm=20")
    prepared = prepare_local(load_scenario("digits", [*more, "training.rounds=5"]))
    for noise, violated in ((NoiseUnderAudit.PLANNED, False), (NoiseUnderAudit.UNSAFE_NO_NOISE, True)):
        report = run_audit(prepared, AuditSettings(AuditMethod.CANARY, 0, 0.95, noise), SystemClock())
        assert report.violated is violated
        assert report.can_fail
