"""The table of commands: help lists them all and imports none; each is what its line says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from fedinfer.cli.commands import COMMANDS, load_command
from fedinfer.cli.main import app

PROGRAM = """
import atexit, sys
watched = {watched!r}
atexit.register(lambda: print(sorted(name for name in watched if name in sys.modules), file=sys.stderr))
sys.argv = ["fedinfer", *{words!r}]
from fedinfer.cli.main import main
main()
"""
NAMED_SHELL = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
"""The shell is the one that is named, not the one that started the tests: there may be none."""
HEAVY = ("numpy", "torch", "scipy", "sympy", "onnx", "onnxruntime", "pydantic", "tuf", "flwr", "cryptography", "pandas")


def imported(words: list[str], watched: tuple[str, ...]) -> str:
    """Which of the watched modules a command has imported when it ends."""
    program = PROGRAM.format(watched=watched, words=words)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ | NAMED_SHELL
    )
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("words", [["--help"], ["--show-completion", "bash"]])
def test_help_imports_no_command(words: list[str]) -> None:
    watched = (*HEAVY, *(entry.place.partition(":")[0] for entry in COMMANDS.values()), "fedinfer.config")
    assert imported(words, watched) == "[]"


def test_a_command_imports_no_other() -> None:
    watched = ("torch", "scipy", "sympy", "onnx", "onnxruntime", "tuf", "flwr", "fedinfer.cli.run")
    assert imported(["version"], watched) == "[]"
    assert imported(["scenarios"], watched) == "[]"


@pytest.mark.slow
def test_a_run_imports_no_exporter_and_no_compiler(tmp_path: Path) -> None:
    words = ["run", "heart", "--rounds", "1", "--set", "drift.windows=1", "--quiet", "--out", str(tmp_path / "run")]
    watched = ("sympy", "onnxscript", "opacus", "torch._dynamo", "torch.onnx._internal.exporter", "fastapi", "ray")
    assert imported(words, watched) == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_a_command_is_the_beginning_of_its_help(name: str) -> None:
    command = load_command(name)
    assert command.name == name
    assert str(command.help).split("\n\n")[0] == COMMANDS[name].summary


def test_help_shows_every_line() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for name, entry in COMMANDS.items():
        assert f"{name} " in shown
        assert entry.summary in shown
    assert "--install-completion" in shown


def test_a_typing_error_is_answered_with_what_is_like_it() -> None:
    found = CliRunner().invoke(app, ["devise"])
    assert found.exit_code == 2
    assert "Did you mean 'device'?" in " ".join(found.output.split())


def test_commands_are_completed_by_name() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    found = group.shell_complete(click.Context(group, info_name="fedinfer"), "r")
    assert [item.value for item in found] == ["run", "report", "rollout"]
