"""Blocks that are marked `<!-- run -->` are run, page by page, each page in a folder of its own.

A command must end with the exit code that the page states (0 when it states none), and the output lines that the page
shows must occur in what it prints; figures and digests may differ.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, Block, blocks, commands

RUN_PAGES = [page for page in PAGES if any(block.run for block in blocks(page))]
SHIM = """#!/bin/sh
exec "{python}" -c 'import sys; sys.argv[0] = "fedinfer"; from fedinfer.cli.main import main; main()' "$@"
"""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "TERM": "dumb",
}


def _environment(folder: Path) -> dict[str, str]:
    """PATH with this checkout's `fedinfer` and this Python first."""
    shim = folder / "fedinfer"
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | QUIET | {"PATH": path, "PYTHONPATH": str(ROOT)}


def _masked(text: str) -> str:
    """Text without what may differ from run to run: figures, digests, spaces."""
    text = re.sub(r"\b[0-9a-f]{12,}\b", "#", text)
    return " ".join(re.sub(r"\d[\d,.]*(?:e-?\d+)?", "#", text).split())


def _run_console(block: Block, folder: Path, environment: dict[str, str]) -> None:
    for command, expected in commands(block.body):
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == block.exit_code, f"$ {command}\n{said}"
        for line in expected:
            assert _masked(line) in _masked(said), f"$ {command}\nshould print: {line}\nprinted: {said}"


def _run_python(block: Block, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.body], cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.body}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_works(page: Path, tmp_path: Path) -> None:
    work, tools = tmp_path / "work", tmp_path / "tools"
    work.mkdir()
    tools.mkdir()
    environment = _environment(tools)
    for block in blocks(page):
        if block.title:
            (work / block.title).write_text(block.body)
        elif block.run and block.kind == "console":
            _run_console(block, work, environment)
        elif block.run and block.kind == "python":
            _run_python(block, work, environment)
        else:
            assert not block.run, f"{page}: a block of kind {block.kind!r} cannot be run"


def test_the_tutorials_are_run() -> None:
    names = {page.stem for page in RUN_PAGES}
    assert {"laptop", "healthcare", "finance", "edge-fleet", "research", "bring-your-model"} <= names


def test_figures_are_masked_and_words_are_not() -> None:
    assert _masked("epsilon 0.922 of 1  spent at 1e-05") == _masked("epsilon 0.5 of 12 spent at 3e-06")
    assert _masked("head 3:38ac11a0378d5637") == _masked("head 12:ffff11a0378d56370000")
    assert _masked("completed after 10 s") != _masked("aborted after 10 s")
