"""The HTTP part of the edge-fleet tutorial: a server in the foreground, curl beside it, a small fleet of its own.

Everything else on the page is run by test_docs_run.py, in the order of the page.
"""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedinfer.config import load_scenario
from fedinfer.simulation.engine import prepare_local, run_local
from fedinfer.system import SystemClock
from tests.docs.blocks import ROOT, blocks, commands
from tests.docs.test_docs_run import _environment, _masked

PAGE = ROOT / "docs" / "tutorials" / "edge-fleet.md"
MARKED = re.compile(r"<!-- (?P<mark>serve|curl) -->\n```console\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = (
    "data.partition.devices=6",
    "privacy.unit=none",
    "secure_aggregation.mode=ideal",
    "training.rounds=1",
    "drift.enabled=false",
    "fleet.dropout=0.0",
)
PORT = "8080"


def marked(mark: str) -> list[tuple[str, list[str]]]:
    """Commands of the blocks with this mark, each with the output that the page shows."""
    bodies = [found["body"] for found in MARKED.finditer(PAGE.read_text()) if found["mark"] == mark]
    return [pair for body in bodies for pair in commands(body)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files and a small fleet under the page's name."""
    folder = tmp_path_factory.mktemp("tutorial")
    for block in blocks(PAGE):
        if block.title:
            (folder / block.title).write_text(block.body)
    fleet = folder / "fleet"
    fleet.mkdir()
    run_local(prepare_local(load_scenario("digits", list(SMALL))), fleet, SystemClock(), lambda name, fields: None)
    for number in range(6):  # the page names devices of a fleet of 200: three digits
        short = fleet / "devices" / f"d{number}"
        if short.exists():
            short.rename(fleet / "devices" / f"d{number:03d}")
    return folder


@contextmanager
def serving(command: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The server, from its first line on until the end of the block."""
    process = subprocess.Popen(
        shlex.split(command), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        yield process.stderr.readline()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_server_of_the_tutorial_answers_curl(work: Path, tmp_path: Path) -> None:
    assert shutil.which("curl"), "the page needs curl"
    environment, port = _environment(tmp_path), str(free_port())
    ((command, said),) = marked("serve")
    assert PORT in command
    shim = command.replace("fedinfer", str(tmp_path / "fedinfer"), 1).replace(PORT, port)
    with serving(shim, work, environment) as line:
        assert _masked(said[0].replace(PORT, port)) in _masked(line), line
        asked = marked("curl")
        assert len(asked) >= 4
        for curl, expected in asked:
            retry = curl.replace("curl -s", "curl -s --retry 50 --retry-connrefused --retry-delay 1", 1)
            done = subprocess.run(
                ["/bin/sh", "-c", retry.replace(PORT, port)], cwd=work, env=environment, capture_output=True, text=True,
                timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            for wanted in expected:
                assert _masked(wanted) in _masked(done.stdout), f"$ {curl}\n{done.stdout}"


def test_the_drawn_digit_is_read_as_a_zero(work: Path) -> None:
    """Figures are masked above; the answer of the page is not a figure that may differ."""
    import json

    from fedinfer.inference.install.installed import open_installed
    from fedinfer.inference.install.slots import Slots
    from fedinfer.inference.predict.session import SessionCache

    data = json.loads((work / "digit.json").read_text())["inputs"][0]["data"]
    installed = open_installed(Slots(work / "fleet" / "devices" / "d001" / "slots"), SessionCache(1))
    assert installed.predictor.predict([data]).labels[0] == "0"


def test_every_block_of_commands_is_run_by_some_test() -> None:
    text = PAGE.read_text()
    shown = text.count("```console\n")
    run = sum(block.run for block in blocks(PAGE))
    assert shown == run + len(list(MARKED.finditer(text)))
