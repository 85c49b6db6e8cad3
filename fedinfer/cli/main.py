"""The entry point `fedinfer`."""

from __future__ import annotations

import os
import sys

import typer

from fedinfer.cli.commands import CommandTable

app = typer.Typer(name="fedinfer", cls=CommandTable, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def fedinfer() -> None:
    """Train privately, aggregate securely, push a signed int8 model, infer on the device, watch for drift."""


def main() -> None:
    """Run the command line. A closed pipe ends quietly; Ctrl-C is told by the command (`cli.output.errors_to_exit`)."""
    try:
        app(standalone_mode=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
