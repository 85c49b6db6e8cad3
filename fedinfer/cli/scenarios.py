"""`fedinfer scenarios`."""

from __future__ import annotations

from rich.table import Table

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stdout
from fedinfer.config import load_builtin, scenario_names
from fedinfer.types import Json


def scenarios(json: JsonOption = False) -> None:
    """List the built-in scenarios."""
    with errors_to_exit():
        rows = [_row(name) for name in scenario_names()]
    if json:
        print_json(rows)
        return
    table = Table("name", "what it shows", "unit", "trust", "epsilon", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], row["description"], row["unit"], row["trust"], f"{row['epsilon']:g}")
    stdout.print(table)
    stdout.print("\nfedinfer run NAME starts one; fedinfer init makes one for your own table.", highlight=False)


def _row(name: str) -> Json:
    scenario = load_builtin(name)
    return {
        "name": name,
        "description": scenario.scenario.description,
        "unit": scenario.privacy.unit.value,
        "trust": scenario.privacy.trust.value,
        "epsilon": scenario.privacy.epsilon,
        "delta": scenario.privacy.delta,
    }
