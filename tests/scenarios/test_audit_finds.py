"""Faults that no canary of heart sees are found by the audit, each by the check that is made for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedinfer.audit import AuditReport, AuditSettings, NoiseUnderAudit, audit_run, opening, run_audit
from fedinfer.config import load_scenario
from fedinfer.coordinator.context import RunAccount
from fedinfer.privacy import AuditMethod
from fedinfer.privacy.mechanism import encoding
from fedinfer.privacy.mechanism.noise import whole_variance
from fedinfer.simulation import population, prepare_local
from fedinfer.system import SystemClock
from fedinfer.training.engines import batched
from tests.scenarios.runs import run, scenario

Patch = pytest.MonkeyPatch


def _audit(*overrides: str, trials: int = 0) -> AuditReport:
    prepared = prepare_local(load_scenario("heart", list(overrides)))
    settings = AuditSettings(AuditMethod.ONE_RUN, 0, 0.95, NoiseUnderAudit.PLANNED, trials)
    return run_audit(prepared, settings, SystemClock())


def _share_of(part: float) -> Callable[[Patch], None]:
    def patch(monkeypatch: Patch) -> None:
        real = encoding.skellam
        monkeypatch.setattr(
            encoding, "skellam", lambda variance, *rest: real(whole_variance(variance * part**2), *rest)
        )

    return patch


def _first_device_alone(monkeypatch: Patch) -> None:
    """The first of three hospitals adds all the noise, the others none: the sum looks as it should."""
    real, calls = encoding.draw_shares, iter(range(10**9))

    def shares(count: int, mechanism: Any, noise: Any) -> Any:
        if next(calls) % 3:
            return 0
        return real(count, replace(mechanism, noise_multiplier=mechanism.noise_multiplier * 3**0.5), noise)

    monkeypatch.setattr(encoding, "draw_shares", shares)


def _noise_again(monkeypatch: Patch) -> None:
    real = population._noise

    def noise(*arguments: Any) -> Any:
        drawn = real(*arguments)
        return lambda plan, device, use: drawn(replace(plan, round_id="always"), device, use)

    monkeypatch.setattr(population, "_noise", noise)


def _rows_again(monkeypatch: Patch) -> None:
    real = opening.simulated_host

    def host(*arguments: Any) -> Any:
        made = real(*arguments)
        drawn = made.generator
        made.generator = lambda plan, device: drawn(replace(plan, round_id="always"), device)
        return made

    monkeypatch.setattr(opening, "simulated_host", host)


def _rows_for_all_steps(monkeypatch: Patch) -> None:
    real, kept = batched.poisson_rows, {}

    def rows(source: Any, *rest: Any) -> Any:
        return kept.setdefault(id(source), (source, real(source, *rest)))[1]

    monkeypatch.setattr(batched, "poisson_rows", rows)


def _rows_not_clipped(monkeypatch: Patch) -> None:
    def ones(found: Any, _norm: float) -> Any:
        return torch.ones_like(torch.stack([tap.squared() for tap in found if tap is not None]).sum(0))

    monkeypatch.setattr(batched, "_clip_factor", ones)


def _reports_not_charged(monkeypatch: Patch) -> None:
    for method in ("reserve", "commit"):
        real = getattr(RunAccount, method)

        def patched(self: RunAccount, name: str, *rest: Any, real: Any = real) -> None:
            if not name.startswith("window"):
                real(self, name, *rest)

        monkeypatch.setattr(RunAccount, method, patched)


LOCAL = "privacy.trust=local"
FAULTS = {
    "half of every share": (_share_of(0.5), "noise of rounds", ()),
    "a tenth of every share is missing": (_share_of(0.9), "noise of rounds", ()),
    "one device adds all the noise": (_first_device_alone, "shares of noise in rounds", ()),
    "devices use their noise again": (_noise_again, "own noise in rounds", ()),
    "the same rows in every round": (_rows_again, "rows of every round", ()),
    "one sample for all local steps": (_rows_for_all_steps, "rows of every step", (LOCAL,)),
    "rows are not clipped": (_rows_not_clipped, "clipping of rows", ()),
    "the server does not charge drift reports": (_reports_not_charged, "ledgers", ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_the_check_that_is_made_for_it(fault: str, monkeypatch: Patch) -> None:
    patch, check, overrides = FAULTS[fault]
    patch(monkeypatch)
    report = _audit(*overrides)
    assert check in report.found
    assert report.violated


@pytest.mark.slow
@pytest.mark.parametrize("trust", ["distributed", "local", "central"])
def test_a_sound_run_is_not_accused_and_says_what_it_would_have_found(trust: str) -> None:
    report = _audit(f"privacy.trust={trust}")
    assert report.found == ()
    noise = [check for check in report.checks if check.name.startswith("noise of")]
    assert noise[0].figures["least_ratio"] > 0.9, "a tenth less noise in the rounds of heart would have been found"
    assert all(check.figures["least_ratio"] > 0.7 for check in noise)


@pytest.mark.slow
def test_correlated_noise_is_audited_in_the_order_of_its_strategy() -> None:
    overrides = ("privacy.trust=central", "privacy.correlation=banded", "training.rounds=8")
    prepared = prepare_local(load_scenario("digits", [*overrides, "rollout.canary_epsilon=0"]))
    settings = AuditSettings(AuditMethod.CANARY, 0, 0.95, NoiseUnderAudit.PLANNED)
    report = run_audit(prepared, settings, SystemClock())
    assert report.found == ()
    assert any(check.name == "fresh noise of rounds" for check in report.checks)


@pytest.mark.soak
def test_trials_alone_refute_half_of_the_noise(monkeypatch: Patch) -> None:
    assert "trials" not in _audit(trials=60_000).found
    _share_of(0.5)(monkeypatch)
    assert "trials" in _audit(trials=60_000).found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "additive"])
def test_the_weights_of_levels_that_no_row_has_show_half_of_the_noise_of_a_run(
    kind: str, monkeypatch: Patch, tmp_path: Path
) -> None:
    """As of a run of real devices: nothing is known but what was released."""
    wanted = scenario(
        "heart", "data.canary_levels=40", f"model.kind={kind}", "drift.enabled=false", "rollout.canary_epsilon=0",
        "report.pooled=false", "secure_aggregation.mode=ideal", "fleet.dropout=0",
    )  # fmt: skip
    run(wanted, tmp_path / "whole")
    whole = audit_run(tmp_path / "whole")
    assert whole.found == ()
    assert whole.checks[1].figures["noise_ratio"] == pytest.approx(1 / 0.95, abs=4 / (2 * 80) ** 0.5)
    _share_of(0.5)(monkeypatch)
    run(wanted, tmp_path / "half")
    assert audit_run(tmp_path / "half").found == ("noise of all devices",)
