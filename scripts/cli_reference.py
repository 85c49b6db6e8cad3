"""Write docs/reference/cli.md from the command line itself; with --check, only compare and exit 1 on a difference."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from fedinfer.cli.main import app

PAGE = Path("docs/reference/cli.md")
HEAD = """\
# Command line

<!-- Written by `python scripts/cli_reference.py`; a test compares this page with the program. -->

Every command takes `--help`. Commands with `--json` print one JSON document on stdout and nothing else there; logs and
errors go to stderr. Exit codes are explained in [Exit codes](../exit-codes.md).
"""


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    old = PAGE.read_text()
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), text.splitlines(True), str(PAGE), "the program"))
    return int(old != text)


def page() -> str:
    """The whole page as Markdown."""
    command = typer.main.get_command(app)
    context = click.Context(command, info_name="fedinfer")
    return HEAD + "".join(_sections(command, context))


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    yield _section(command, context)
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            yield from _sections(child, click.Context(child, info_name=name, parent=context))


def _section(command: click.Command, context: click.Context) -> str:
    words = inspect.cleandoc(command.help or "").strip()
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    rows = [row for parameter in command.get_params(context) if (row := _row(parameter, context))]
    table = "\n\n| parameter | meaning |\n|---|---|\n" + "\n".join(rows) if rows else ""
    return f"\n## `{context.command_path}`\n\n{words}\n\n```text\n{usage}\n```{table}\n"


def _row(parameter: click.Parameter, context: click.Context) -> str:
    record = parameter.get_help_record(context)
    if record is None or "--help" in parameter.opts:
        return ""
    names, words = record
    # Not a backslash: inside code Python-Markdown shows it, and GitHub cuts the cell without one.
    return f"| <code>{_cell(names)}</code> | {_cell(' '.join(words.split()))} |"


def _cell(text: str) -> str:
    return text.replace("\\[", "[").replace("<", "&lt;").replace("|", "&#124;")


if __name__ == "__main__":
    sys.exit(main())
