"""What every command shares: JSON alone on stdout, errors in plain words on stderr, one exit code per family."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from fedinfer.errors import FedInferError

JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout, nothing else")]

stdout = Console()
stderr = Console(stderr=True)


def print_json(data: Any) -> None:
    """Print one JSON document. NaN and infinity are written as strings, so that any parser reads it."""
    sys.stdout.write(json.dumps(_plain(data), indent=2, sort_keys=False) + "\n")


@contextmanager
def errors_to_exit() -> Iterator[None]:
    """Turn an expected error into a message, a hint and the exit code of its family."""
    try:
        yield
    except FedInferError as error:
        stderr.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        stderr.print(str(error), markup=False, highlight=False, soft_wrap=True)
        if error.hint:
            stderr.print("hint: ", end="", style="yellow")
            stderr.print(error.hint, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from error


def _plain(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
