"""The templates in clients/ and server/ name what exists: run config keys, store files, Flower's options, variables."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
import typer

from fedinfer.apps import scenario_of
from fedinfer.cli.main import app
from fedinfer.data import public_schema
from fedinfer.deployment.store import DATABASE, create_authority, enrol_device
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.system import SystemClock, SystemEntropy

ROOT = Path(__file__).parents[2]
CLIENTS, SERVER = ROOT / "clients", ROOT / "server"
PAGE = (ROOT / "docs/how-to/deploy.md").read_text()
USERS = [
    (CLIENTS / "fedinfer-device.service", CLIENTS / "node.env"),
    (CLIENTS / "Dockerfile", CLIENTS / "node.env"),
    (SERVER / "compose.yaml", SERVER / "superlink.env"),
    (SERVER / "fedinfer-superlink.service", SERVER / "superlink.env"),
]
STARTED = [
    (("device", "agent"), CLIENTS / "fedinfer-device.service"),
    (("device", "agent"), CLIENTS / "Dockerfile"),
    (("superlink",), SERVER / "compose.yaml"),
    (("superlink",), SERVER / "fedinfer-superlink.service"),
]


def app_config() -> dict[str, object]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return dict(settings["tool"]["flwr"]["app"]["config"])


def variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Z_]+=[^\"' ]*", line) for line in lines), path
    return dict(line.split("=", 1) for line in lines)


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_the_run_config_template_has_the_keys_of_the_app_and_their_types() -> None:
    template = tomllib.loads((SERVER / "run.toml").read_text())
    known = app_config()
    assert set(template) == set(known)
    assert {key: type(value) for key, value in template.items()} == {key: type(known[key]) for key in template}


def test_the_run_config_template_is_a_scenario_that_a_deployment_accepts() -> None:
    template = tomllib.loads((SERVER / "run.toml").read_text())
    scenario = scenario_of(template["scenario"], template["overrides"])
    assert public_schema(scenario).confirmed
    assert template["deployment"] is True


def test_the_page_explains_every_key_of_the_run_config_and_no_other() -> None:
    section = PAGE.split("## 6. Run")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)
    assert set(rows) == set(app_config())


def test_the_page_and_the_node_template_name_the_files_of_a_store(tmp_path: Path) -> None:
    entropy = SystemEntropy()
    authority = create_authority(tmp_path / "authority.key", entropy)
    budget, clock = Budget(1.0, 1e-5), SystemClock()
    store = enrol_device(tmp_path / "store", "a", tmp_path / "rows.csv", budget, 3, authority, entropy, clock)
    written = {path.name for path in store.folder.iterdir()} | {DATABASE}
    comment = (CLIENTS / "node.env").read_text().split("The device's store: ")[1].split("\n")[0]
    table = PAGE.split("| file in the store |")[1].split("\n\n")[0]
    for text in (comment, table):
        named = set(re.findall(r"[a-z]+(?:\.[a-z]+)*/?", text))
        assert written | {"slots/", "metadata/"} <= named


@pytest.mark.parametrize(("user", "definitions"), USERS, ids=lambda path: path.name)
def test_every_variable_that_a_template_uses_is_defined_beside_it(user: Path, definitions: Path) -> None:
    used = set(re.findall(r"\$\{?(FEDINFER_\w+)", user.read_text()))
    assert used == {name for name in variables(definitions) if name.startswith("FEDINFER_")}


@pytest.mark.parametrize("file", [CLIENTS / "node.env", SERVER / "superlink.env"], ids=lambda path: path.name)
def test_nothing_started_from_a_template_sends_anything_home(file: Path) -> None:
    names = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION")
    assert [variables(file)[name] for name in names] == ["0", "1", "1"]


@pytest.mark.parametrize(("words", "template"), STARTED, ids=lambda value: getattr(value, "name", str(value)))
def test_a_template_gives_every_option_of_its_command_and_no_other(words: tuple[str, ...], template: Path) -> None:
    command: click.Command = typer.main.get_command(app)
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    known = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    text = re.sub(r"\s+(?:\\\n)?\s*(?:- )?", " ", template.read_text())
    given = options(text.split(" ".join(("fedinfer", *words)), 1)[1].split("Restart")[0].split("network_mode")[0])
    assert given == known - {"--help"}


@pytest.mark.parametrize("folder", [CLIENTS, SERVER], ids=lambda folder: folder.name)
def test_no_template_starts_a_node_that_runs_what_a_run_brings(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".md":
            assert "flower-supernode" not in path.read_text(), path


def test_the_address_for_runs_is_the_loopback_interface_unless_somebody_changes_it() -> None:
    given = variables(SERVER / "superlink.env")
    assert given["FEDINFER_CONTROL"].startswith("127.0.0.1:")
    assert given["FEDINFER_CONTROL"] != given["FEDINFER_FLEET"]
    assert f'address = "{given["FEDINFER_CONTROL"]}"' in (SERVER / "config.toml").read_text()
    assert given["FEDINFER_DATABASE"]


@pytest.mark.parametrize("page", [CLIENTS / "README.md", SERVER / "README.md"], ids=lambda page: page.parent.name)
def test_a_readme_lists_the_files_beside_it(page: Path) -> None:
    listed = set(re.findall(r"^\| `([\w.-]+)` \|", page.read_text(), re.MULTILINE))
    beside = {path.name for path in page.parent.iterdir() if path.is_file()}
    assert listed == beside - {"README.md", "__init__.py"}
