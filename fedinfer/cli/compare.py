"""`fedinfer compare RUN...`: finished runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stdout
from fedinfer.cli.tracking import ExperimentOption, MlflowOption, TensorboardOption, track
from fedinfer.errors import StoreError
from fedinfer.types import Json

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders that `fedinfer run` wrote")]


def compare(
    runs: Runs,
    out: Annotated[Path | None, typer.Option(help="write all figures to this CSV file")] = None,
    mlflow: MlflowOption = None,
    experiment: ExperimentOption = "fedinfer",
    tensorboard: TensorboardOption = None,
    json: JsonOption = False,
) -> None:
    """Show finished runs side by side, and what makes them not comparable."""
    with errors_to_exit():
        from fedinfer.sweeps import compare_runs, csv_of, exported

        found = compare_runs(runs)
        if out is not None:
            try:
                out.write_text(csv_of(found.rows, list(found.rows[0])), encoding="utf-8", newline="")
            except OSError as error:
                raise StoreError(f"{out} cannot be written: {error}", hint="--out compared.csv") from error
        if mlflow is not None or tensorboard is not None:
            track([exported(run) for run in runs], mlflow, experiment, tensorboard)
    if json:
        print_json({"runs": list(found.rows), "notes": list(found.notes)})
        return
    stdout.print(_table(found.rows), markup=False, highlight=False)
    for note in found.notes:
        stdout.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _table(rows: Sequence[Json]) -> Table:
    """A column per run; figures that no run has are left out."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for row in rows:
        table.add_column(str(row["run"]), overflow="fold")
    for name in rows[0]:
        if name != "run" and any(row[name] is not None for row in rows):
            table.add_row(name.replace("_", " "), *(_cell(row[name]) for row in rows))
    return table


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
