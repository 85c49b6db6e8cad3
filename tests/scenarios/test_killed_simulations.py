"""kill -9 of a simulation at any moment: another process goes on to the end of a run that was never killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# A package called `tests` that some distribution installs would win over this folder, which has no __init__.py.
CHILD = """
import sys, types
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [sys.argv[1]]
from tests.scenarios.killed_child import main
main(*sys.argv[2:])
"""


def compare(folder: Path, story: str, moments: str) -> list[Any]:
    """Kill runs of a story, each at one of the moments, and go on with them; what differs from the whole run."""
    command = [sys.executable, "-c", CHILD, str(ROOT / "tests"), str(folder), story, moments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_killed_simulation_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """In a round, and in the push and once more in the windows after it."""
    found = compare(tmp_path, "loop", "0.15,0.85")
    assert [(row["killed"], row["same"]) for row in found] == [(1, True), (2, True)]


@pytest.mark.slow
@pytest.mark.parametrize("story", ["synchronous fleet", "buffered fleet"])
def test_a_killed_fleet_goes_on_to_the_same_bytes(tmp_path: Path, story: str) -> None:
    """Before the first state, in the middle, between two states and while one is written, and twice at the end."""
    found = compare(tmp_path, story, "0.05,0.3,0.33,0.36,0.5,0.7,0.9")
    assert [row for row in found if not row["same"]] == []
    assert [row["killed"] for row in found] == [1, 1, 1, 1, 1, 1, 2]


@pytest.mark.soak
@pytest.mark.parametrize("story", ["loop", "correlated"])
def test_a_hundred_killed_simulations_go_on_to_the_same_end(tmp_path: Path, story: str) -> None:
    drawn = random.Random(story)
    found = compare(tmp_path, story, ",".join(f"{drawn.random():.4f}" for _ in range(50)))
    assert [row for row in found if not row["same"]] == []
    assert sum(row["killed"] for row in found) >= 50
