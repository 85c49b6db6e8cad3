"""The page docs/how-to/rollout.md does what it says."""

import pathlib
import re
import shlex

from typer.testing import CliRunner

from fedinfer.cli.rollout import app

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "how-to" / "rollout.md"


def test_the_commands_of_the_page_work_in_their_order(tmp_path, monkeypatch):
    text = PAGE.read_text()
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r'```\w+ title="(.*?)"\n(.*?)```', text, re.S):
        (tmp_path / name).write_text(content)
    (console, *_) = re.findall(r"```console\n(.*?)```", text, re.S)
    commands = [shlex.split(line.removeprefix("$ fedinfer rollout ")) for line in console.splitlines()]
    assert len(commands) == 9
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output)


def test_the_table_of_the_page_names_the_models_of_the_study():
    study = (PAGE.parents[2] / "simulations" / "rollout_10k.py").read_text()
    for model in re.findall(r'^    "([\w 0-9]+)": \(', study, re.M):
        assert f"| {model}" in PAGE.read_text()
