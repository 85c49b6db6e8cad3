"""What every command shares: JSON alone on stdout, errors in plain words on stderr, one exit code per family.

Text from files, devices and messages never steers the terminal: control characters are shown as escapes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from fedinfer.cli.packages import missing_extra
from fedinfer.errors import FedInferError
from fedinfer.printable import STEERING
from fedinfer.types import Json

LONGEST_WARNING = 300
"""Characters of a warning that are shown without --verbose."""
VerboseOption = Annotated[bool, typer.Option("--verbose", help="warnings and lists in full")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout, nothing else")]


def printable(text: str) -> str:
    r"""The text with every character that a terminal would obey as an escape like `\x1b`; line breaks as well.

    Args:
        text: from anybody.
    """
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shortened(text: str) -> str:
    """A warning that fits into a few lines; a list of many columns is cut in its middle, its last sentence stays.

    Args:
        text: of any length.
    """
    if len(text) <= LONGEST_WARNING:
        return text
    head = text[: LONGEST_WARNING // 2].rsplit(" ", 1)[0].rstrip(",")
    last = text.rstrip(".").rsplit(". ", 1)[-1] + "."
    end = f" {last}" if len(last) <= LONGEST_WARNING // 2 else ""
    return f"{head} ... (--verbose shows all).{end}"


class SafeConsole(Console):
    """A console whose texts cannot steer the terminal; only its own styles and line breaks pass."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As `rich.console.Console.render`, with control characters of the text made harmless."""
        for text, style, control in super().render(renderable, options):
            if control:
                yield Segment(text, style, control)
            else:
                yield Segment("\n".join(map(printable, text.split("\n"))), style)


stdout = SafeConsole()
stderr = SafeConsole(stderr=True)


def print_json(data: Any) -> None:
    """Print one JSON document. NaN and infinity are written as strings, so that any parser reads it.

    Args:
        data: tables, lists, numbers, texts, booleans and None.
    """
    sys.stdout.write(json.dumps(_plain(data), indent=2, sort_keys=False) + "\n")


def print_document(document: Json, as_json: bool) -> None:
    """Print what a command found: one JSON document, or a line for each name.

    Args:
        document: names to texts, numbers or lists of texts.
        as_json: which of both.
    """
    if as_json:
        print_json(document)
        return
    for name, value in document.items():
        text = ", ".join(value) if isinstance(value, list) else value
        stdout.print(f"{name.replace('_', ' '):12s} {text}", markup=False, highlight=False, soft_wrap=True)


def a_number(value: float | None) -> float | None:
    """Callback of an option: NaN passes every bound, so it is refused here.

    Args:
        value: of the option; None where it was not given.

    Raises:
        BadParameter: it is NaN.
    """
    if value is not None and math.isnan(value):
        raise typer.BadParameter("not a number")
    return value


INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell gives it."""


@contextmanager
def errors_to_exit(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn an expected error into a message, a hint and the exit code of its family; Ctrl-C into one line and 130.

    Args:
        interrupted: said after Ctrl-C; Typer itself would end without a word.
    """
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(interrupted, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except FedInferError as error:
        _say(error)
        raise typer.Exit(error.exit_code) from error
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        _say(missing)
        raise typer.Exit(missing.exit_code) from error


def _say(error: FedInferError) -> None:
    stderr.print(f"[bold red]{type(error).__name__}[/]: ", end="")
    stderr.print(str(error), markup=False, highlight=False, soft_wrap=True)
    if error.hint:
        stderr.print("hint: ", end="", style="yellow")
        stderr.print(error.hint, markup=False, highlight=False, soft_wrap=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
