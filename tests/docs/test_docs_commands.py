"""Every command that a page shows exists, with its options, and the reference is what the program says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from fedinfer.cli.main import app
from tests.docs.blocks import PAGES, ROOT, mentioned_commands

COMMAND = typer.main.get_command(app)
SHOWN = sorted({(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in mentioned_commands(page)})
PLACEHOLDER = re.compile(r"\[|\||\.\.\.|<")


def _walk(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = COMMAND
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        child = command.get_command(click.Context(command), words[0])
        assert child is not None, f"there is no command {words[0]!r} under {command.name!r}"
        command, words = child, words[1:]
    return command, words


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_in_the_docs_exists_with_its_options(page: str, line: str) -> None:
    usage = re.split(r"\s(?:>|\||#|&&)\s", line)[0]
    words = shlex.split(usage.replace("[", " ").replace("]", " ").replace("|", " "), comments=True)[1:]
    words = [word for word in words if word != "..."]
    command, rest = _walk(words)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    unknown = [word for word in rest if word.startswith("-") and word != "-" and word.split("=")[0] not in known]
    assert not unknown, f"{page}: {line}"


def test_the_check_would_see_a_command_that_does_not_exist() -> None:
    with pytest.raises(AssertionError, match="no command"):
        _walk(["privacy", "launder"])


def test_the_command_reference_is_what_the_program_says() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/cli_reference.py", "--check"],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_make_target_in_the_docs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9]+):", makefile, re.MULTILINE))
    shown = {word for page in PAGES for word in re.findall(r"(?:`|\$ )make ([a-z0-9]+)", page.read_text())}
    assert shown <= targets
    assert {"demo", "test", "check", "e2e", "bench", "clean"} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        file = ROOT / path
        assert file.exists(), f"{page.name} names {path}"
        assert not name or re.search(rf"^def {name}\(", file.read_text(), re.MULTILINE), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    for path in re.findall(
        r"`((?:fedinfer|clients|server|simulations|benchmarks|scripts)/[\w/.-]+)`", page.read_text()
    ):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_every_exit_code_has_a_paragraph() -> None:
    from fedinfer import errors

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    page = (ROOT / "docs/exit-codes.md").read_text()
    described = {int(code) for code in re.findall(r"^## (\d)", page, re.MULTILINE)}
    assert codes - {1} <= described
    assert described == {0, 2, 3, 4, 5}
