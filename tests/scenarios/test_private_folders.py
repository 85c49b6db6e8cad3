"""What a run writes is for its owner alone, whatever the umask; only what is signed may be read by others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.report import write_report
from fedinfer.simulation.coordinate import RUN_ID
from fedinfer.simulation.engine import prepare_local, run_local
from fedinfer.simulation.folder import EventLog, new_folder
from fedinfer.system import SystemClock
from tests.protocol.fleet import enrolled
from tests.scenarios.runs import scenario

PUBLIC = ("artifacts", "slots", "metadata")
"""Folders of signed files: the repository, and models that devices installed from it."""


@pytest.fixture(params=[0o000, 0o022])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("_umask")
def test_a_run_folder_and_its_secrets_are_its_owners_alone(tmp_path: Path) -> None:
    """Modes were those of the umask: 0644 for events, ledgers and records on most systems."""
    wanted, clock = scenario("heart", "training.rounds=1", "drift.windows=1"), SystemClock()
    (tmp_path / "run").mkdir()  # given with --out, open to others
    assert mode(new_folder(tmp_path / "new", "heart", clock)) == 0o700
    folder = new_folder(tmp_path / "run", "heart", clock)
    run_local(prepare_local(wanted), folder, clock, EventLog(folder, clock, RUN_ID))
    write_report(folder)
    found = [path for path in folder.rglob("*") if not set(PUBLIC) & set(path.relative_to(folder).parts)]
    assert {"events.jsonl", "run.json", "report.html", "ledger.sqlite", "devices.sqlite"} <= {p.name for p in found}
    # Below `devices`, which is closed, a folder per device holds its signed models and nothing else.
    closed = [folder, folder / "devices", folder / "checkpoints", *(path for path in found if path.is_file())]
    assert not [str(path) for path in closed if mode(path) & 0o077]
    assert mode(folder) == 0o700


@pytest.mark.usefixtures("_umask")
def test_a_device_store_is_its_owners_alone(tmp_path: Path) -> None:
    for store in enrolled(tmp_path, 2, Budget(4.0, 1e-5)):
        assert mode(store) == 0o700
        assert mode(store / "identity.key") == 0o600
