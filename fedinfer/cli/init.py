"""`fedinfer init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, assert_never

import typer
from rich.markup import escape
from rich.table import Table

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stdout
from fedinfer.config import parse_scenario
from fedinfer.data import ColumnRole, Guess, Proposal, check_against_data, load, propose, write_scenario


def init(
    folder: Annotated[Path, typer.Argument(help="folder for the scenario; made when absent")],
    csv: Annotated[Path, typer.Option("--csv", help="your table: CSV, .gz, Parquet, Arrow, .xlsx or ARFF")],
    label: Annotated[str, typer.Option("--label", help="column to predict")],
    device: Annotated[str, typer.Option("--device", help="column that names who holds a row")] = "",
    label_above: Annotated[
        float | None,
        typer.Option("--label-above", help="make two classes of a numeric label at this number; else it is predicted"),
    ] = None,
    no_header: Annotated[
        bool, typer.Option("--no-header", help="the first row is data: columns are column_1, column_2, ...")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write a commented, working scenario for your own table."""
    with errors_to_exit():
        proposal = propose(csv, folder, label, device, header=not no_header, label_above=label_above)
        scenario = parse_scenario(proposal.text, folder.resolve(), str(folder / "scenario.toml"))
        check_against_data(scenario, load(scenario))
        path = write_scenario(proposal.text, folder)
    if json:
        print_json(
            {
                "path": str(path),
                "rows": proposal.rows,
                "devices": proposal.devices,
                "columns": [_column(guess) for guess in proposal.columns],
            }
        )
        return
    _report(proposal, path)


_RANGES = "Ranges and categories come from the data and are not confirmed as public: read the comment in the file."
_TEXT = "Texts are read with a public list of 1,000 English words; another one: [data] vocabulary."


def _report(proposal: Proposal, path: Path) -> None:
    table = Table("column", "taken for", "because", "missing", box=None, pad_edge=False)
    for guess in proposal.columns:
        table.add_row(escape(guess.name), guess.role.value, escape(_because(guess)), str(guess.missing or ""))
    stdout.print(table)
    for note in proposal.notes:
        stdout.print(f"warning: {note}", highlight=False, markup=False, soft_wrap=True)
    stdout.print(
        f"\n{proposal.rows} rows, {proposal.devices} devices. Wrote {path}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if proposal.label_range is not None:
        low, high = proposal.label_range
        stdout.print(
            f"The label is a number, predicted between {low:g} and {high:g}: replace label_range by a public range. "
            "Two classes instead: --label-above NUMBER.",
            highlight=False,
            soft_wrap=True,
        )
    has_text = any(guess.role is ColumnRole.TEXT for guess in proposal.columns)
    stdout.print(
        f"{_TEXT if has_text else _RANGES}\n\nNext steps:\n"
        f"  fedinfer validate {path}   what it would do\n"
        f"  fedinfer run {path}        simulate it\n",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _because(guess: Guess) -> str:
    match guess.role:
        case ColumnRole.NUMERIC:
            return f"range {guess.low:g} to {guess.high:g}"
        case ColumnRole.CATEGORICAL | ColumnRole.TEXT | ColumnRole.DROP:
            return guess.reason
        case _:
            assert_never(guess.role)


def _column(guess: Guess) -> dict[str, object]:
    return {"name": guess.name, "role": guess.role.value, "reason": guess.reason, "missing": guess.missing}
