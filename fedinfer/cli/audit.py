"""`fedinfer audit`: train a scenario with canaries and see whether its epsilon can be refuted."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer
from rich.table import Table

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stdout
from fedinfer.cli.run import QUIET_ENVIRONMENT
from fedinfer.config import Scenario, load_scenario
from fedinfer.errors import ConfigError
from fedinfer.privacy import AuditMethod, at_least, at_most
from fedinfer.system import SystemClock
from fedinfer.types import Unit

if TYPE_CHECKING:
    from fedinfer.audit import AuditReport, Check, RunAudit

VIOLATED = 1
"""Exit code when the canaries refute the claim."""


def audit(
    scenario: Annotated[
        str,
        typer.Argument(help="built-in name (see `fedinfer scenarios`) or TOML file; or the folder of a run that was"),
    ],
    method: Annotated[
        AuditMethod | None, typer.Option(help="default: one-run for unit example, canary for unit device")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="planned rounds (training.rounds)")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of everything random (scenario.seed)")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated")] = None,
    canaries: Annotated[int, typer.Option(help="how many are planted; 0: chosen from dimension and rounds")] = 0,
    confidence: Annotated[float, typer.Option(help="of the lower bound, in (0, 1)")] = 0.95,
    trials: Annotated[int, typer.Option(help="runs of the mechanism alone, with and without one unit; 0: none")] = 0,
    unsafe_no_noise: Annotated[
        bool, typer.Option("--unsafe-no-noise", help="add no noise, keep the claim: shows that the audit can fail")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run a scenario with known vectors: test its noise, samples, clipping and ledgers, bound epsilon by canaries.

    Or measure the noise in the released weights of a run that was, of real devices too, by the levels that no row has
    (`data.canary_levels`). Ends with exit code 1 when anything refutes the claim.
    """
    folder = Path(scenario)
    if (folder / "run.json").is_file():
        given = (method, rounds, seed, overrides, canaries, trials, unsafe_no_noise)
        return _audit_run(folder, any(given), json)
    with errors_to_exit():
        short = {"training.rounds": rounds, "scenario.seed": seed}
        texts = [*(overrides or ()), *(f"{key}={value}" for key, value in short.items() if value is not None)]
        loaded = load_scenario(scenario, texts)
        if not 0 < confidence < 1 or canaries < 0 or trials < 0:
            raise ConfigError(
                f"confidence {confidence} must be in (0, 1), canaries {canaries}, trials {trials} at least 0"
            )
        noise = "UnsafeNoNoise" if unsafe_no_noise else "planned"
        report = _audit(loaded, method or _method_for(loaded), canaries, confidence, noise, trials)
    if json:
        print_json(report.to_json())
    else:
        _explain(report)
    if report.violated:
        raise typer.Exit(VIOLATED)


def _audit_run(folder: Path, has_options: bool, as_json: bool) -> None:
    with errors_to_exit():
        if has_options:
            raise ConfigError(f"{folder} is a run that was: only --json goes with it", hint="or name a scenario")
        from fedinfer.audit import audit_run

        report = audit_run(folder)
    if as_json:
        print_json(report.to_json())
    else:
        _say(
            f"audit of run {report.run}: {report.scenario}, {report.rounds} rounds, {report.setting}",
            f"claimed   epsilon <= {report.epsilon} at delta {report.delta} for the whole run",
        )
        _table(report.checks)
        _say(f"verdict   {'violated' if report.found else 'consistent'}", _meaning_of_run(report))
    if report.found:
        raise typer.Exit(VIOLATED)


def _meaning_of_run(report: RunAudit) -> str:
    if not report.found:
        return (
            "The released weights hold the noise that was promised, as far as these weights show. A fault smaller than "
            "what would be found (with probability 0.9), or of a kind that is not looked at, is not seen."
        )
    if "guaranteed noise" in report.found:
        return "The rounds hold less noise than epsilon rests on: the claim does not hold for this run."
    return "Some devices add less than their share of the noise. More of them, and the claim does not hold."


def _method_for(scenario: Scenario) -> AuditMethod:
    unit = scenario.privacy.unit
    match unit:
        case Unit.DEVICE:
            return AuditMethod.CANARY
        case Unit.EXAMPLE | Unit.NONE:  # none: the audit itself says that there is nothing to audit
            return AuditMethod.ONE_RUN
        case _:
            assert_never(unit)


def _audit(
    scenario: Scenario, method: AuditMethod, canaries: int, confidence: float, noise: str, trials: int
) -> AuditReport:
    os.environ.update(QUIET_ENVIRONMENT)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    from fedinfer.audit import AuditSettings, NoiseUnderAudit, run_audit
    from fedinfer.simulation import prepare_local

    settings = AuditSettings(method, canaries, confidence, NoiseUnderAudit(noise), trials)
    return run_audit(prepare_local(scenario), settings, SystemClock())


def _explain(report: AuditReport) -> None:
    claimed, bound = report.claimed, report.bound
    _say(
        f"audit of {report.scenario}: {report.rounds} rounds, unit {report.unit}, trust {report.trust}, "
        f"noise {report.noise}",
        f"claimed   epsilon <= {at_most(claimed.epsilon)} at delta {at_most(claimed.delta, 6)} "
        f"({claimed.accountant}, {claimed.relation}, sampling {claimed.sampling})",
        f"canaries  epsilon >= {at_least(bound.epsilon)} with confidence {bound.confidence:g} "
        f"({bound.method}, {bound.canaries} of them)",
    )
    if report.trials is not None:
        _say(
            f"trials    epsilon >= {at_least(report.trials.epsilon)} with confidence {report.trials.confidence:g} "
            f"({report.trials.canaries} runs of the mechanism alone)"
        )
    _table(report.checks)
    _say(f"verdict   {'violated' if report.violated else 'consistent'}", _meaning(report))


def _table(checks: Sequence[Check]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("check", "seen", "would be found"):
        table.add_column(title, overflow="fold")
    for check in checks:
        table.add_row(check.name, check.seen, "FOUND" if check.failed else check.least)
    stdout.print(table, markup=False, highlight=False)


def _say(*lines: str) -> None:
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def _meaning(report: AuditReport) -> str:
    if report.violated:
        return (
            f"Refuted by: {', '.join(report.found)}. These rounds are less private than they say. A sound run is "
            "accused by canaries or trials in one audit of twenty at most, by checks in one of five hundred; try "
            "another --seed."
        )
    alone = (
        f"Without noise the canaries would show about {report.ceiling:.1f}."
        if report.can_fail
        else f"The canaries could not have failed: {report.bound.canaries} show at most epsilon {report.ceiling:.3f}, "
        "even without noise."
    )
    return (
        "Nothing refutes the claim. That proves nothing: it is what a sound mechanism must give, and a fault smaller "
        "than what would be found (with probability 0.9), or of a kind that is not looked at, gives it too. " + alone
    )
