"""`fedinfer validate`."""

from __future__ import annotations

import math
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fedinfer.cli.choice import DevicesOption, RoundsOption, SeedOption, SetOption, check_found, chosen_scenario
from fedinfer.cli.live import announced
from fedinfer.cli.output import (
    JsonOption,
    VerboseOption,
    errors_to_exit,
    print_json,
    shortened,
    stderr,
    stdout,
)
from fedinfer.config import Scenario
from fedinfer.coordinator import Population, RunPlan, least_seen, make_plan
from fedinfer.data import Federation, check_against_data, load, summarize
from fedinfer.errors import MissingExtra
from fedinfer.privacy import at_most, exactly
from fedinfer.report import plural
from fedinfer.training import load_trainer
from fedinfer.types import Json


def validate(
    scenario: Annotated[str, typer.Argument(help="name of a built-in scenario, or a TOML file")],
    devices: DevicesOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say what a scenario would do, or what is wrong with it. Nothing is written."""
    with errors_to_exit():
        loaded = chosen_scenario(scenario, overrides or (), devices, rounds, seed)
        with announced("reading the table and planning", show=not json and stderr.is_terminal):
            federation = load(loaded)
            check_found(len(federation.devices), devices)
            check_against_data(loaded, federation)
            plan = planned(loaded, federation)
        summary = {**summarize(loaded, federation), "plan": plan}
        planned_warnings = loaded.notices if plan is None else plan.pop("warnings")
        summary["warnings"] = list(dict.fromkeys((*summary["warnings"], *planned_warnings)))
    if json:
        print_json({"valid": True, **summary})
        return
    stdout.print(_table(summary))
    for warning in summary["warnings"]:
        text = warning if verbose else shortened(warning)
        stderr.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)
    stdout.print("valid", style="green")


def planned(scenario: Scenario, federation: Federation) -> Json | None:
    """Noise and cost of the whole run, as `fedinfer run` will plan it; None where training is not installed.

    Args:
        scenario: what was asked for.
        federation: its data.

    Raises:
        ConfigError: no plan fits the budget, the cohort or the model.
    """
    rows = [len(data.train_y) for data in federation.devices.values()]
    try:
        trainer = load_trainer(scenario.model, federation.schema, scenario.training, scenario.scenario.seed)
        schema = federation.schema
        population = Population(len(rows), sum(rows), min(rows), trainer.dimension, schema.classes, schema=schema)
        plan = make_plan(scenario, population, "local", federation.warnings)
    except MissingExtra:
        return None
    return {
        "parameters": trainer.dimension,
        "epsilon": plan.planned.epsilon if plan.planned else math.inf,
        "noise_multiplier": plan.noise_multiplier,
        "min_survivors": plan.train.min_survivors,
        "warnings": (*plan.warnings, *_unseen(scenario, len(rows), plan)),
    }


def _unseen(scenario: Scenario, devices: int, plan: RunPlan) -> tuple[str, ...]:
    """One sentence when the reports are paid for and nothing could be seen in them."""
    if plan.drift is None or plan.windows <= scenario.drift.reference_windows:
        return ()
    if math.isfinite(least_seen(scenario, devices, plan)):
        return ()
    return (
        f"[drift] epsilon {exactly(scenario.drift.epsilon)} is spent on reports of {plural(devices, 'device')} in "
        f"which no change of the answers would be seen: `fedinfer drift plan {scenario.scenario.name}` says what would "
        "do, or set drift.enabled = false",
    )


def _table(summary: Json) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, text in _lines(summary):
        table.add_row(name, escape(text))
    return table


def _lines(summary: Json) -> list[tuple[str, str]]:
    data, training, privacy = summary["data"], summary["training"], summary["privacy"]
    sizes = data["rows_per_device"]
    parts = f"{data['train_rows']} train, {data['test_rows']} held out, {data['public_rows']} public"
    after = f"{training['rounds_per_alarm']} more per alarm"
    classes = ", ".join(f"{name}: {count}" for name, count in data["classes"].items())
    windows = plural(privacy["drift_windows"], "window", "0") if privacy["drift_windows"] else ""
    return [
        ("scenario", f"{summary['scenario']} (seed {summary['seed']})"),
        (
            "rows",
            f"{data['rows']}: {parts}",
        ),
        ("devices", f"{data['devices']}, {sizes['least']} to {sizes['most']} rows each (median {sizes['median']:g})"),
        ("inputs", data["inputs"]),
        ("label", _label(data["label"])) if "label" in data else ("classes", classes),
        ("model", summary["model"]),
        (
            "rounds",
            f"{training['rounds']}, {training['cohort']} devices asked; {after}",
        ),
        ("privacy", f"unit {privacy['unit']} ({privacy['units']} of them), trust {privacy['trust']}"),
        (
            "budget",
            f"epsilon {exactly(privacy['epsilon_budget'])} at delta {at_most(privacy['delta'], 6)} for the whole run",
        ),
        ("plan", _plan_text(summary["plan"])),
        (
            "drift",
            f"{windows}, epsilon {exactly(privacy['epsilon_for_drift'])} of it for all" if windows else "not watched",
        ),
        ("sums", summary["secure_aggregation"]),
    ]


def _label(label: Json) -> str:
    low, high = label["range"]
    unit = f" {label['unit']}" if label["unit"] else ""
    return (
        f"number from {low:g} to {high:g}{unit}; median {label['median']:.4g}, half of the rows from "
        f"{label['quarter']:.4g} to {label['three_quarters']:.4g}"
    )


def _plan_text(plan: Json | None) -> str:
    if plan is None:
        return "not known: training is not installed (pip install 'fedinfer[train]')"
    return (
        f"epsilon {at_most(plan['epsilon'])} if everything runs, alarms included; noise multiplier "
        f"{plan['noise_multiplier']:.3g}, {plan['parameters']} parameters, at least {plan['min_survivors']} survivors"
    )
