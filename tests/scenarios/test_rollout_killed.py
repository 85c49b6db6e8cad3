"""kill -9 in the middle of a wave: the next coordinator process reads the store and goes on where the last one was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedinfer.coordinator.context import LEDGER_OWNER
from fedinfer.messages import Kind
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Ledger
from fedinfer.rollout.controller import Phase
from fedinfer.rollout.state import RolloutStore
from fedinfer.rollout.waves import wave_of
from fedinfer.store import open_store
from tests.scenarios.drive_child import DEVICES, NAME

ROOT = Path(__file__).parents[2]
# A package called `tests` that some distribution installs would win over this folder, which has no __init__.py.
CHILD = """
import sys, types
from pathlib import Path
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [sys.argv[1]]
from tests.scenarios.drive_child import main
main(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
"""


def drive(folder: Path, kind: str, count: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, str(ROOT / "tests"), str(folder), kind, str(count)]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False)


def finished(folder: Path) -> Any:
    done = drive(folder, "nothing", 0)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_order(folder: Path) -> None:
    """Everybody got the version, and no device before the wave ahead of it was complete."""
    store = RolloutStore(folder / "rollout.sqlite")
    state = store.load(NAME)
    pushed = [line.split() for line in (folder / "pushed.txt").read_text().splitlines()]
    waves = [wave_of(device, {}, state.waves, state.rollout) for device, version in pushed if version == "2"]
    assert waves == sorted(waves, key=lambda wave: -1 if wave is None else wave)
    assert {device for device, _ in pushed} == set(store.installed(NAME))
    assert len(store.installed(NAME)) == DEVICES
    assert state.phase is Phase.DONE
    assert store.verify(None).count > 0
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_coordinator_killed_during_a_push_is_continued(tmp_path: Path, count: int) -> None:
    killed = drive(tmp_path, Kind.PUSH, count)
    assert killed.returncode == -signal.SIGKILL
    assert finished(tmp_path)["phase"] == "done"
    check_order(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.MASKED, Kind.UNMASK])
def test_a_look_that_was_interrupted_is_paid_for_and_not_repeated(tmp_path: Path, kind: Kind) -> None:
    killed = drive(tmp_path, kind, 2)
    assert killed.returncode == -signal.SIGKILL
    done = finished(tmp_path)

    assert done["phase"] == "done"
    check_order(tmp_path)
    first = done["row"]["waves"][0]
    assert first["wave"] == 1
    assert first["figures"] == {}
    assert "spent before" in first["detail"]
    held = [item["wave"] for item in done["row"]["proceeded"]]
    assert 1 in held  # too little information is never a pass; this scenario says: proceed
    connection = open_store(tmp_path / "ledger.sqlite", "privacy", LEDGER_MIGRATIONS)
    references = [entry.reference for entry in Ledger(connection).entries(LEDGER_OWNER)]
    connection.close()
    assert references == ["gate-0002", "gate-0002-1", "gate-0002-2", "gate-0002-3"], "all waves, then each of them"


@pytest.mark.slow
def test_a_coordinator_killed_again_and_again_gets_there(tmp_path: Path) -> None:
    for count in (2, 2, 3, 1, 4):
        assert drive(tmp_path, Kind.PUSH, count).returncode in (0, -signal.SIGKILL)
    assert finished(tmp_path)["phase"] == "done"
    check_order(tmp_path)
