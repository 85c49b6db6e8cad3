"""Every name of the code that a page quotes exists: modules, functions, files, keys."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

SOURCES = (
    "fedinfer/**/*.py", "fedinfer/scenarios/*.toml", "tests/**/*.py", "benchmarks/*.py", "scripts/*.py",
    "simulations/*", "clients/*", "server/*", "pyproject.toml", "Makefile", "CHANGELOG.md",
)  # fmt: skip
FOREIGN = {"backup", "completion"}
"""Words of other programs: SQLite's shell, typer's own options."""


@cache
def words_of_the_code() -> frozenset[str]:
    files = [path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file() and path != Path(__file__)]
    found = {word for path in files for word in re.findall(r"\w+", path.read_text(errors="replace"))}
    return frozenset(found | {part for path in files for part in re.findall(r"\w+", path.name)})


def quoted(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


def unknown(names: list[str]) -> list[str]:
    known = words_of_the_code() | FOREIGN
    words = {word for name in names for word in re.findall(r"[A-Za-z_]\w{2,}", name)}
    return sorted(word for word in words if word not in known and word.upper() != word and word[-1] != "_")


def exists(dotted: str) -> bool:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_quoted_name_occurs_in_the_code(page: Path) -> None:
    assert unknown(quoted(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_dotted_name_can_be_imported(page: Path) -> None:
    named = {found for name in quoted(page) for found in re.findall(r"fedinfer(?:\.\w+)+", name)}
    assert [name for name in sorted(named) if not exists(name)] == []


@pytest.mark.slow
def test_the_page_of_the_run_folder_names_every_file_and_every_key(tmp_path: Path) -> None:
    """Down to the rows of rounds and models; in a run that is as short as a run can be."""
    options = ["--rounds", "1", "--set", "drift.windows=1", "--quiet", "--out", "run"]
    command = [sys.executable, "-c", "from fedinfer.cli.main import main; main()", "run", "heart", *options]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    reported = {"rounds": record["rounds"][0], "models": record["models"][0]}
    keys = {*record, *reported["rounds"], *reported["models"], *record["drift"], *record["privacy"]}
    keys |= {*record["secure_aggregation"], *record["inference"], *record["devices"], *record["task"], *record["model"]}
    named = set(re.findall(r"`(\w[\w.]*)/?`", (ROOT / "docs/reference/run-folder.md").read_text()))
    assert sorted(keys - named) == []
    files = {path.name for path in (tmp_path / "run").iterdir() if not path.name.endswith(("-wal", "-shm"))}
    assert sorted(files - named) == []


def test_the_check_sees_a_name_that_is_gone() -> None:
    assert unknown(["fedinfer.apps.client_app", "fedinfer.nosuchroom_at_all"]) == ["nosuchroom_at_all"]
    assert not exists("fedinfer.flower.client_apps")
    assert exists("fedinfer.apps.client_app")
