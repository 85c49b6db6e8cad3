"""`fedinfer report RUN_DIR`: write report.html again from the files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stdout
from fedinfer.report import write_report

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="folder that `fedinfer run` wrote")]


def report(run_dir: RunDir, as_json: JsonOption = False) -> None:
    """Write report.html, one self-contained page, from run.json, events.jsonl and the ledger of a run folder."""
    with errors_to_exit():
        path = write_report(run_dir)
    if as_json:
        print_json({"report": str(path)})
    else:
        stdout.print(str(path), markup=False, highlight=False, soft_wrap=True)
