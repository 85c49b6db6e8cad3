"""Two artifacts from one pyproject: the Flower app bundle holds the two apps and nothing else, the wheel never them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from fedinfer.flower.processes import environment, program

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT = ("fedinfer", "clients", "server", "simulations", "docs", "tests", "scripts", "benchmarks")
METADATA = (".info/", "pyproject.toml", "LICENSE", "README.md")
"""What Flower may add to a bundle beside the files that were asked for."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, with everything in it that could slip into a bundle."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in KEPT:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.key"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy / name)
    (copy / "runs").mkdir()
    (copy / "runs" / "secret.py").write_text("ledger = 'private'\n")
    (copy / "clients" / "identity.key").write_bytes(b"private")
    return copy


def built(checkout: Path, command: list[str], variables: dict[str, str], pattern: str) -> set[str]:
    """Names of the files in what a command builds."""
    answer = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (archive,) = checkout.glob(pattern)
    with zipfile.ZipFile(archive) as file:
        return set(file.namelist())


def sources(folder: str) -> set[str]:
    return {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / folder).rglob("*.py")}


def test_the_bundle_holds_the_two_apps_and_nothing_else(checkout: Path, tmp_path: Path) -> None:
    names = built(checkout, [program("flwr"), "build", "--app", "."], environment(tmp_path), "*.fab")
    files = {name for name in names if not name.startswith(METADATA)}
    assert files == sources("clients") | sources("server")
    assert "clients/app.py" in files
    assert "server/app.py" in files
    assert not any(name.endswith(".key") for name in names)


def test_the_wheel_holds_the_library_and_never_the_apps(checkout: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "--quiet",
        "--wheel-dir", "built",
    ]  # fmt: skip
    names = built(checkout, command, dict(os.environ), "built/*.whl")
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fedinfer"}
    assert sources("fedinfer") <= names
    assert {"fedinfer/scenarios/heart.toml", "fedinfer/data/tables/heart_disease_uci.csv"} <= names
    assert not any("__pycache__" in name for name in names)


def test_the_apps_that_the_bundle_names_are_flower_apps() -> None:
    import importlib

    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    components = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    for key, kind in (("clientapp", ClientApp), ("serverapp", ServerApp)):
        module, name = components[key].split(":")
        assert isinstance(getattr(importlib.import_module(module), name), kind)
