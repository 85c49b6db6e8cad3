"""kill -9 of coordinator, SuperLink and agents of a real deployment: nothing is lost, nothing is spent twice.

`make soak` draws a hundred moments for each of them, FEDINFER_KILLS says how many otherwise, FEDINFER_SEED which.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.fault_row import fetch, one_version
from tests.e2e.field import Field, in_the_field, lost, spent_in, spent_twice

pytestmark = pytest.mark.e2e
ROUNDS, WINDOWS = 3, 1
KILLS = int(os.environ.get("FEDINFER_KILLS", "100"))
SEED = int(os.environ.get("FEDINFER_SEED", "1"))


@pytest.mark.slow
def test_a_run_whose_processes_are_killed_goes_on_and_pays_once(tmp_path: Path) -> None:
    with in_the_field(tmp_path) as made:
        begin = len(made.events())
        made.begin()
        made.wait_for(begin, "round", status="released")
        made.kill("coordinator")
        made.wait_for(begin, "started", 2)
        made.kill("hospital2")
        made.wait_for(begin, "wave")
        made.kill("superlink")
        record = made.finish(begin)
        run = record["run_id"]
        assert lost(made, run, ROUNDS, WINDOWS) == []
        spent = spent_in(made, run)
        rounds, windows = ({f"{name}-{n + 1:04d}" for n in range(count)} for name, count in PLANNED)
        assert {*spent["server"]} <= rounds | windows
        assert spent_twice(made, run, {owner: dict(own) for owner, own in spent.items()}) == []
        # The SuperLink takes a killed agent for connected for a minute: the push may come sooner than the agent.
        assert record["models"][-1]["devices_active"] >= 3
        made.online()
        fetch(made, "hospital2")
        assert one_version(made) == ()
        assert len(made.since(begin, "started")) == 3


PLANNED = (("round", ROUNDS), ("window", WINDOWS))


@pytest.mark.soak
def test_at_random_moments_over_rounds_pushes_and_windows(tmp_path: Path) -> None:
    drawn, points = random.Random(SEED), Counter[tuple[str, str]]()
    kills = [target for target in ("coordinator", "superlink", "agent") for _ in range(KILLS)]
    drawn.shuffle(kills)
    with in_the_field(tmp_path) as made:
        first = time.monotonic()
        whole = spent_in(made, made.one_run()["run_id"])
        reach = (time.monotonic() - first) / 2
        while kills:
            run, met = disturbed(made, drawn, kills, reach)
            points += met
            print(f"{len(kills)} left; {dict(met)}", flush=True)
            assert lost(made, run, ROUNDS, WINDOWS) == [], met
            assert spent_twice(made, run, whole) == [], met
        last = made.one_run()
        assert set(made.versions().values()) == {last["models"][-1]["version"]}
    print(f"{sum(points.values())} kills, seed {SEED}: {dict(sorted(points.items()))}")


def disturbed(
    made: Field, drawn: random.Random, kills: list[str], reach: float
) -> tuple[str, Counter[tuple[str, str]]]:
    """A run in which processes are killed at random moments: its name, and what was killed after which event."""
    begin, met = len(made.events()), Counter[tuple[str, str]]()
    made.online()
    made.begin()
    while kills:
        if ended(made, begin, drawn.uniform(0.0, reach)):
            break
        told = made.events()[begin:]
        target = kills[-1] if kills[-1] != "agent" else drawn.choice(made.names)
        if made.kill(target):
            met[kills.pop(), str(told[-1]["event"]) if told else "start"] += 1
            if target in ("coordinator", "superlink") and not made.since(begin, "started"):
                made.begin()  # nothing had begun: its operator asks again
    return made.finish(begin)["run_id"], met


def ended(made: Field, begin: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if made.since(begin, "finished"):
            return True
        time.sleep(0.05)
    return False
