"""`fedinfer init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, assert_never

import typer
from rich.markup import escape
from rich.table import Table

from fedinfer.cli.live import announced
from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stderr, stdout
from fedinfer.cli.validate import planned
from fedinfer.config import FILE_IN_FOLDER, override, parse_scenario, scenario_names
from fedinfer.data import ColumnRole, Guess, Proposal, check_against_data, load, propose, write_scenario
from fedinfer.errors import ConfigError
from fedinfer.planning import Defaults, facts_of, plan_defaults
from fedinfer.report import plural

NoHeaderOption = Annotated[
    bool, typer.Option("--no-header", help="the first row is data: columns are column_1, column_2, ...")
]


def init(
    folder: Annotated[Path, typer.Argument(help="folder for the scenario; made when absent")],
    csv: Annotated[Path, typer.Option("--csv", help="your table: CSV, .gz, Parquet, Arrow, .xlsx or ARFF")],
    label: Annotated[str, typer.Option("--label", help="column to predict")],
    device: Annotated[str, typer.Option("--device", help="column that names who holds a row")] = "",
    label_above: Annotated[
        float | None,
        typer.Option("--label-above", help="make two classes of a numeric label at this number; else it is predicted"),
    ] = None,
    no_header: NoHeaderOption = False,
    json: JsonOption = False,
) -> None:
    """Write a commented, working scenario for your own table."""
    with errors_to_exit():
        _check_name(folder)
        with announced("reading the table and trying settings on synthetic rows", show=not json and stderr.is_terminal):
            proposal, defaults, text = proposed(
                csv, folder, label, device, header=not no_header, label_above=label_above
            )
        path = write_scenario(text, folder)
    if json:
        print_json(
            {
                "path": str(path),
                "rows": proposal.rows,
                "devices": proposal.devices,
                "columns": [_column(guess) for guess in proposal.columns],
                "notes": [*proposal.notes],
                "epsilon": defaults.budget.epsilon,
                "rounds": defaults.rounds,
            }
        )
        return
    _report(proposal, defaults, path)


def proposed(
    csv: Path, folder: Path, label: str, device: str, *, header: bool, label_above: float | None
) -> tuple[Proposal, Defaults, str]:
    """A whole scenario for a table, checked as `validate` checks it; nothing is written.

    Args:
        csv: the table.
        folder: where the scenario will lie.
        label: column to predict.
        device: column that names the holder; empty: none.
        header: whether the first row names the columns.
        label_above: make two classes of a numeric label at this number; None: do not.

    Returns:
        What the columns are taken for, what was planned, and both as TOML.

    Raises:
        DataError: the table cannot be read, or nothing is left to learn from.
        ConfigError: no plan suits so few rows.
    """
    proposal = propose(csv, folder, label, device, header=header, label_above=label_above)
    source = str(folder / FILE_IN_FOLDER)
    described = parse_scenario(proposal.text, folder.resolve(), source)
    federation = load(described)
    if proposal.prior:
        described = override(described, {"training.prior": dict(proposal.prior)})
    defaults = plan_defaults(described, facts_of(federation))
    text = proposal.text + defaults.text()
    scenario = parse_scenario(text, folder.resolve(), source)
    check_against_data(scenario, federation)
    planned(scenario, federation)
    return proposal, defaults, text


def _check_name(folder: Path) -> None:
    """A folder with the name of a built-in scenario is one of two things that `fedinfer run NAME` could mean."""
    if folder.name in scenario_names():
        raise ConfigError(
            f"{folder}: {folder.name!r} is the name of a built-in scenario", hint=f"another folder: my-{folder.name}"
        )


_RANGES = "Ranges and categories come from the data and are not confirmed as public: read the comment in the file."
_TEXT = "Texts are read with a public list of 1,000 English words; another one: [data] vocabulary."


def _report(proposal: Proposal, defaults: Defaults, path: Path) -> None:
    table = Table("column", "taken for", "because", "missing", box=None, pad_edge=False)
    for guess in proposal.columns:
        table.add_row(escape(guess.name), guess.role.value, escape(_because(guess)), str(guess.missing or ""))
    stdout.print(table)
    stdout.print(
        f"\n{plural(proposal.rows, 'row', '0')}, {plural(proposal.devices, 'device', '0')}. Wrote {path}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for note in (*proposal.notes, *_planned_notes(defaults)):
        stdout.print(f"- {note}", highlight=False, markup=False)
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


def _planned_notes(defaults: Defaults) -> tuple[str, ...]:
    budget, watching = defaults.budget, defaults.watching
    watched = f"Watching for drift: {watching.why}." if watching.rows else f"Drift is not watched: {watching.why}."
    rounds = f"{plural(defaults.rounds, 'round', '0')} at epsilon {budget.epsilon:g}: {defaults.why}."
    return f"{budget.why[:1].upper()}{budget.why[1:]}.", rounds, watched


def _because(guess: Guess) -> str:
    match guess.role:
        case ColumnRole.NUMERIC if guess.time:
            return guess.reason
        case ColumnRole.NUMERIC:
            counts_as_missing = guess.reason.partition("; ")[2] if guess.sentinels else ""
            return f"range {guess.low:g} to {guess.high:g}" + (f"; {counts_as_missing}" if counts_as_missing else "")
        case ColumnRole.CATEGORICAL | ColumnRole.TEXT | ColumnRole.TIME | ColumnRole.DROP:
            return guess.reason
        case _:
            assert_never(guess.role)


def _column(guess: Guess) -> dict[str, object]:
    return {"name": guess.name, "role": guess.role.value, "reason": guess.reason, "missing": guess.missing}
