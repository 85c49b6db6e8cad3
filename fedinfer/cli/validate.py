"""`fedinfer validate`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stderr, stdout
from fedinfer.config import load_scenario
from fedinfer.data import check_against_data, load
from fedinfer.data.summary import summarize
from fedinfer.types import Json


def validate(
    scenario: Annotated[str, typer.Argument(help="name of a built-in scenario, or a TOML file")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated")] = None,
    json: JsonOption = False,
) -> None:
    """Say what a scenario would do, or what is wrong with it. Nothing is written."""
    with errors_to_exit():
        loaded = load_scenario(scenario, overrides or ())
        federation = load(loaded)
        check_against_data(loaded, federation)
    summary = summarize(loaded, federation)
    if json:
        print_json({"valid": True, **summary})
        return
    stdout.print(_table(summary))
    for warning in summary["warnings"]:
        stderr.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    stdout.print("valid", style="green")


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
    return [
        ("scenario", f"{summary['scenario']} (seed {summary['seed']})"),
        (
            "rows",
            f"{data['rows']}: {parts}",
        ),
        ("devices", f"{data['devices']}, {sizes['least']} to {sizes['most']} rows each (median {sizes['median']:g})"),
        ("inputs", data["inputs"]),
        ("classes", classes),
        ("model", summary["model"]),
        (
            "rounds",
            f"{training['rounds']}, {training['cohort']} devices asked; {after}",
        ),
        ("privacy", f"unit {privacy['unit']} ({privacy['units']} of them), trust {privacy['trust']}"),
        ("epsilon", f"at most {privacy['epsilon_planned']:g} at delta {privacy['delta']:g} for the whole run"),
        ("drift", f"{privacy['drift_windows']} windows, epsilon {privacy['epsilon_per_drift_window']:g} each"),
        ("sums", summary["secure_aggregation"]),
    ]
