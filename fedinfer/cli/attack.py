"""`fedinfer attack`: what attackers learn about single rows, with and without the privacy of a scenario."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stderr, stdout
from fedinfer.cli.run import QUIET_ENVIRONMENT
from fedinfer.config import load_scenario
from fedinfer.errors import StoreError
from fedinfer.privacy import at_most
from fedinfer.system import SystemClock

if TYPE_CHECKING:
    from fedinfer.attack import AttackReport


def attack(
    scenario: Annotated[str, typer.Argument(help="built-in name (see `fedinfer scenarios`) or TOML file")],
    runs: Annotated[int, typer.Option(help="runs with privacy, and as many without it")] = 32,
    rounds: Annotated[int | None, typer.Option(help="planned rounds (training.rounds)")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of everything random (scenario.seed)")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated")] = None,
    out: Annotated[Path | None, typer.Option(help="write the page with its plots to this HTML file")] = None,
    show_rows: Annotated[
        bool, typer.Option("--show-rows", help="put a few real rows into page and JSON, beside what was recovered")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Membership inference and gradient inversion: what an attacker gets, beside what the claim allows."""
    with errors_to_exit():
        short = {"training.rounds": rounds, "scenario.seed": seed}
        texts = [*(overrides or ()), *(f"{key}={value}" for key, value in short.items() if value is not None)]
        os.environ.update(QUIET_ENVIRONMENT)
        logging.getLogger("flwr").setLevel(logging.WARNING)
        from fedinfer.attack import AttackSettings, run_attack
        from fedinfer.simulation import prepare_local

        prepared = prepare_local(load_scenario(scenario, texts))
        report = run_attack(prepared, AttackSettings(runs, show_rows), SystemClock(), _progress)
        if out is not None:
            _write(out, report)
    if json:
        print_json(report.to_json())
    else:
        _explain(report, out)


def _progress(done: int, total: int) -> None:
    if stderr.is_terminal:
        stderr.print(f"run {done} of {total}", end="\r" if done < total else "\n", highlight=False)


def _write(out: Path, report: AttackReport) -> None:
    from fedinfer.report import render_attack

    try:
        out.write_text(render_attack(report.to_json()), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error}", hint="--out attack.html") from error


def _explain(report: AttackReport, out: Path | None) -> None:
    planned = report.planned
    _say(
        f"attack on {report.scenario}: {report.rounds} rounds, unit {report.unit}, trust {report.trust}, "
        f"{report.targets} units guessed",
        f"claimed   epsilon <= {at_most(planned.epsilon)} at delta {at_most(planned.delta, 6)}",
        "members found at so many false alarms (guessing finds as many as it accuses):",
    )
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("attacker sees", "area", "0.1 %", "1 %", "10 %"):
        table.add_column(title)
    document = report.to_json()
    for kind, views in document["membership"].items():
        for view, curve in views.items():
            seen = "the model" if view == "model" else "every release"
            shares = [_share(found) for found in curve["found"].values()]
            table.add_row(f"{seen}, {kind}", f"{curve['area']:.3f}", *shares)
    table.add_row("allowed by the claim", "", *(_share(value) for value in document["allowed"].values()))
    stdout.print(table, highlight=False)
    if report.inversions:
        _say("rows read back from gradients (likeness to the nearest row, 1: the row itself):")
    for inversion in report.inversions:
        _say(f"  {inversion.likeness:5.2f}  {inversion.view}")
    if report.note:
        _say(report.note)
    if out is not None:
        _say(str(out))


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _say(*lines: str) -> None:
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)
