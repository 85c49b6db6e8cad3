"""`fedinfer audit` passes every sound combination of unit and trust, and finds each one out when noise is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from fedinfer.audit import run as audit_run
from fedinfer.audit import run_audit
from fedinfer.audit.report import AuditReport, AuditSettings, NoiseUnderAudit
from fedinfer.cli.main import app
from fedinfer.config import load_scenario
from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.audit import AuditMethod
from fedinfer.simulation.engine import prepare_local
from fedinfer.system import SystemClock
from fedinfer.types import Trust

QUICK = ("drift.enabled=false", "rollout.canary_epsilon=0")
HEART = ("heart", AuditMethod.ONE_RUN, *QUICK)
DIGITS = ("digits", AuditMethod.CANARY, *QUICK)


def _audit(
    case: tuple[Any, ...], *more: str, noise: NoiseUnderAudit = NoiseUnderAudit.PLANNED, canaries: int = 0
) -> AuditReport:
    name, method, *overrides = case
    prepared = prepare_local(load_scenario(name, [*overrides, *more]))
    return run_audit(prepared, AuditSettings(method, canaries, 0.95, noise), SystemClock())


@pytest.mark.slow
@pytest.mark.parametrize("trust", list(Trust))
@pytest.mark.parametrize("case", [HEART, DIGITS], ids=["example", "device"])
def test_every_combination_is_sound_and_is_found_out_without_noise(case: tuple[Any, ...], trust: Trust) -> None:
    sound = _audit(case, f"privacy.trust={trust}")
    assert not sound.violated
    assert sound.can_fail
    silent = _audit(case, f"privacy.trust={trust}", noise=NoiseUnderAudit.UNSAFE_NO_NOISE)
    assert silent.claimed == sound.claimed, "the claim stays that of the plan"
    assert silent.violated
    assert silent.bound.epsilon > 2 * silent.claimed.epsilon


@pytest.mark.slow
def test_whole_devices_are_audited_in_one_run_too() -> None:
    case = ("digits", AuditMethod.ONE_RUN, *QUICK, "privacy.epsilon=1.5")
    assert not _audit(case).violated
    silent = _audit(case, noise=NoiseUnderAudit.UNSAFE_NO_NOISE)
    assert silent.violated
    assert silent.bound.epsilon > 2 * silent.claimed.epsilon


@pytest.mark.slow
def test_eight_sound_runs_in_a_row_are_not_accused() -> None:
    runs = [_audit(HEART, f"scenario.seed={seed}") for seed in range(6)]
    runs += [_audit(DIGITS, f"scenario.seed={seed}") for seed in range(2)]
    assert [run.bound.epsilon for run in runs if run.violated] == []
    assert max(run.bound.epsilon for run in runs) > 0, "and the bound is no empty statement"


@pytest.mark.slow
def test_a_forgotten_factor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server noise that is relative to the clipping norm of one update out of 200, as after a mean: the classic bug."""
    from fedinfer.privacy import Central

    real = Central.server_noise
    monkeypatch.setattr(
        Central,
        "server_noise",
        lambda self, total, mechanism, z, stream: real(self, total, mechanism, z / 200, stream),
    )
    report = _audit(DIGITS, "privacy.trust=central")
    assert report.violated


@pytest.mark.slow
def test_the_claim_is_that_of_the_rounds_alone() -> None:
    watched = _audit(("heart", AuditMethod.ONE_RUN), canaries=20)
    alone = _audit(HEART, canaries=20)
    assert watched.claimed.epsilon < alone.claimed.epsilon <= 1.0
    assert watched.rounds == alone.rounds == 20


def test_too_few_canaries_cannot_fail_and_the_report_says_so() -> None:
    report = _audit(HEART, canaries=10, noise=NoiseUnderAudit.UNSAFE_NO_NOISE)
    assert not report.can_fail
    assert "canaries" not in report.found
    assert "noise of rounds" in report.found, "that there is no noise is seen without them"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("privacy.unit=none",), "nothing is claimed"),
        (("training.rounds=0",), "no rounds"),
        (("privacy.unit=device", "privacy.epsilon=50"), "canaries: at least 10"),
        (("privacy.trust=local", "training.momentum=0.9"), "plain SGD"),
    ],
)
def test_what_cannot_be_audited_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _audit(HEART, *overrides)


def test_the_command_prints_one_document_and_ends_with_the_verdict() -> None:
    arguments = ["audit", "heart", "--rounds", "12", "--json", *(f"--set={text}" for text in QUICK)]
    sound = CliRunner().invoke(app, arguments)
    assert sound.exit_code == 0, sound.output
    document = json.loads(sound.stdout)
    assert document["verdict"] == "consistent"
    assert document["epsilon_lower_bound"] <= document["claimed_epsilon"] <= 1.0
    assert (document["rounds"], document["confidence"], document["method"]) == (12, 0.95, "one-run")
    silent = CliRunner().invoke(app, [*arguments, "--unsafe-no-noise"])
    assert silent.exit_code == 1, silent.output
    assert json.loads(silent.stdout)["verdict"] == "violated"


def test_the_command_says_what_the_figures_mean() -> None:
    arguments = ["audit", "heart", "--rounds", "12", *(f"--set={text}" for text in QUICK)]
    said = CliRunner().invoke(app, arguments).stdout
    assert "claimed   epsilon <=" in said
    assert "canaries  epsilon >=" in said
    assert "would be found" in said
    assert "That proves nothing" in said
    assert "less private than they say" in CliRunner().invoke(app, [*arguments, "--unsafe-no-noise"]).stdout
    assert "canaries could not have failed" in CliRunner().invoke(app, [*arguments, "--canaries", "10"]).stdout


def test_a_confidence_that_is_none_is_refused() -> None:
    assert CliRunner().invoke(app, ["audit", "heart", "--confidence", "1"]).exit_code == 2


def test_nothing_stays_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(audit_run.tempfile, "tempdir", str(tmp_path))
    _audit(HEART, "training.rounds=5", canaries=20)
    assert list(tmp_path.iterdir()) == []
