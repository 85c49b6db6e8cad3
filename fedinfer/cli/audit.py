"""`fedinfer audit`: train a scenario with canaries and see whether its epsilon can be refuted."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stdout
from fedinfer.cli.run import QUIET_ENVIRONMENT
from fedinfer.config import Scenario, load_scenario
from fedinfer.errors import ConfigError
from fedinfer.privacy import AuditMethod, at_least, at_most
from fedinfer.system import SystemClock
from fedinfer.types import Unit

if TYPE_CHECKING:
    from fedinfer.simulation import AuditReport

VIOLATED = 1
"""Exit code when the canaries refute the claim."""


def audit(
    scenario: Annotated[str, typer.Argument(help="built-in name (see `fedinfer scenarios`) or TOML file")],
    method: Annotated[
        AuditMethod | None, typer.Option(help="default: one-run for unit example, canary for unit device")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="planned rounds (training.rounds)")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of everything random (scenario.seed)")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated")] = None,
    canaries: Annotated[int, typer.Option(help="how many are planted; 0: chosen from dimension and rounds")] = 0,
    confidence: Annotated[float, typer.Option(help="of the lower bound, in (0, 1)")] = 0.95,
    unsafe_no_noise: Annotated[
        bool, typer.Option("--unsafe-no-noise", help="add no noise, keep the claim: shows that the audit can fail")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train with canaries through the real mechanism: an empirical lower bound beside the claimed epsilon.

    Ends with exit code 1 when the bound is above the claim.
    """
    with errors_to_exit():
        short = {"training.rounds": rounds, "scenario.seed": seed}
        texts = [*(overrides or ()), *(f"{key}={value}" for key, value in short.items() if value is not None)]
        loaded = load_scenario(scenario, texts)
        report = _audit(loaded, method or _method_for(loaded), canaries, confidence, unsafe=unsafe_no_noise)
    if json:
        print_json(report.to_json())
    else:
        _explain(report)
    if report.violated:
        raise typer.Exit(VIOLATED)


def _method_for(scenario: Scenario) -> AuditMethod:
    unit = scenario.privacy.unit
    match unit:
        case Unit.DEVICE:
            return AuditMethod.CANARY
        case Unit.EXAMPLE | Unit.NONE:  # none: the audit itself says that there is nothing to audit
            return AuditMethod.ONE_RUN
        case _:
            assert_never(unit)


def _audit(scenario: Scenario, method: AuditMethod, canaries: int, confidence: float, *, unsafe: bool) -> AuditReport:
    if not 0 < confidence < 1 or canaries < 0:
        raise ConfigError(f"confidence {confidence} must be in (0, 1), canaries {canaries} at least 0")
    os.environ.update(QUIET_ENVIRONMENT)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    from fedinfer.simulation import AuditSettings, NoiseUnderAudit, prepare_local, run_audit

    noise = NoiseUnderAudit.UNSAFE_NO_NOISE if unsafe else NoiseUnderAudit.PLANNED
    settings = AuditSettings(method, canaries, confidence, noise)
    return run_audit(prepare_local(scenario), settings, SystemClock())


def _explain(report: AuditReport) -> None:
    claimed, bound = report.claimed, report.bound
    lines = [
        f"audit of {report.scenario}: {report.rounds} rounds, unit {report.unit}, trust {report.trust}, "
        f"noise {report.noise}",
        f"method {bound.method}: {bound.canaries} canaries",
        f"claimed   epsilon <= {at_most(claimed.epsilon)} at delta {claimed.delta:g} "
        f"({claimed.accountant}, {claimed.relation}, sampling {claimed.sampling})",
        f"measured  epsilon >= {at_least(bound.epsilon)} with confidence {bound.confidence:g}",
        f"verdict   {'violated' if report.violated else 'consistent'}",
        _meaning(report),
    ]
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def _meaning(report: AuditReport) -> str:
    if report.violated:
        return (
            "The canaries can be recognised better than the claim allows: these rounds are less private than they say. "
            f"By chance that happens with probability at most {1 - report.bound.confidence:.3g}; try another --seed."
        )
    if not report.can_fail:
        return (
            f"This audit could not have failed: {report.bound.canaries} canaries show at most epsilon "
            f"{report.ceiling:.3f}, even without noise. Use more --canaries, more --rounds or --method canary."
        )
    return (
        "The canaries do not refute the claim. That proves nothing: it is what a sound mechanism must give, and a bug "
        f"that these canaries do not see gives it too. Without noise the bound would be about {report.ceiling:.1f}."
    )
