"""The templates in clients/ and server/ name what exists: run config keys, store files, Flower's options, variables."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from fedinfer.apps import scenario_of
from fedinfer.data import public_schema
from fedinfer.deployment.store import DATABASE, create_authority, enrol_device
from fedinfer.flower.processes import environment, program
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.system import SystemEntropy

ROOT = Path(__file__).parents[2]
CLIENTS, SERVER = ROOT / "clients", ROOT / "server"
PAGE = (ROOT / "docs/how-to/deploy.md").read_text()
USERS = [
    (CLIENTS / "fedinfer-device.service", CLIENTS / "node.env"),
    (CLIENTS / "Dockerfile", CLIENTS / "node.env"),
    (SERVER / "compose.yaml", SERVER / "superlink.env"),
]
STARTED = [
    ("flower-supernode", CLIENTS / "fedinfer-device.service"),
    ("flower-supernode", CLIENTS / "Dockerfile"),
    ("flower-superlink", SERVER / "compose.yaml"),
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
    store = enrol_device(tmp_path / "store", "a", tmp_path / "rows.csv", Budget(1.0, 1e-5), 3, authority, entropy)
    written = {path.name for path in store.folder.iterdir()} | {DATABASE}
    comment = (CLIENTS / "node.env").read_text().split("The device's store: ")[1].split("\n")[0]
    table = PAGE.split("| file in the store |")[1].split("\n\n")[0]
    for text in (comment, table):
        named = set(re.findall(r"[a-z]+(?:\.[a-z]+)?/?", text))
        assert written | {"slots/", "metadata/"} <= named


@pytest.mark.parametrize(("user", "definitions"), USERS, ids=lambda path: path.name)
def test_every_variable_that_a_template_uses_is_defined_beside_it(user: Path, definitions: Path) -> None:
    used = set(re.findall(r"\$\{?(FEDINFER_\w+)", user.read_text()))
    assert used == {name for name in variables(definitions) if name.startswith("FEDINFER_")}


@pytest.mark.parametrize("file", [CLIENTS / "node.env", SERVER / "superlink.env"], ids=lambda path: path.name)
def test_nothing_started_from_a_template_sends_anything_home(file: Path) -> None:
    names = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION")
    assert [variables(file)[name] for name in names] == ["0", "1", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "template"), STARTED, ids=lambda value: getattr(value, "name", value))
def test_flower_has_every_option_that_a_template_gives(name: str, template: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [program(name), "--help"], env=environment(tmp_path), capture_output=True, text=True, check=True, timeout=60
    )
    given = options(template.read_text().split(name, 1)[1])
    assert given >= {"--ssl-certfile", "--ssl-keyfile"}
    assert given <= options(done.stdout)
    assert "--insecure" not in given


def test_a_node_from_a_template_is_a_real_device() -> None:
    for name in ("fedinfer-device.service", "Dockerfile"):
        assert re.search(r'--node-config .{1,2}store=\\?"\$', (CLIENTS / name).read_text()), name


@pytest.mark.parametrize("page", [CLIENTS / "README.md", SERVER / "README.md"], ids=lambda page: page.parent.name)
def test_a_readme_lists_the_files_beside_it(page: Path) -> None:
    listed = set(re.findall(r"^\| `([\w.-]+)` \|", page.read_text(), re.MULTILINE))
    beside = {path.name for path in page.parent.iterdir() if path.is_file()}
    assert listed == beside - {"README.md", "__init__.py"}
