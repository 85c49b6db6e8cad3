"""Faults of devices: killed, stopped, away, full, at another date, damaged, not known. Not a test itself."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from fedinfer.flower.processes import environment, running, tail
from fedinfer.inference.install.slots import Slots
from tests.e2e.fault_row import (
    UNLIMITED,
    Row,
    Watch,
    entries,
    fedinfer,
    fetch,
    judged,
    limited,
    one_version,
    source,
    sums_of,
)
from tests.e2e.field import Field, Spent, spent_in
from tests.e2e.pilot import FEDINFER, REPOSITORY, write_node_key


def agents_killed(made: Field, whole: Spent) -> list[Row]:
    """One in round 2, one stopped in round 3, one killed before the push: the others are enough."""
    begin = len(made.events())
    made.begin()
    made.wait_for(begin, "round")
    watch = Watch()
    made.kill("hospital1")
    made.wait_for(begin, "round", 2)
    made.online(["hospital1"])
    took = [watch.seconds]
    watch = Watch()
    made.send("hospital2", signal.SIGSTOP)
    made.wait_for(begin, "round", 3)
    made.kill("hospital3", stays_away=True)  # while the version is made
    made.send("hospital2", signal.SIGCONT)
    made.online(["hospital2"])
    took.append(watch.seconds)
    record = made.finish(begin)
    behind, watch = made.versions()["hospital3"], Watch()
    made.up("hospital3")
    for name in made.names[1:]:  # as a device does by itself when it follows the repository
        fetch(made, name)
    made.online(["hospital3"])
    took.append(watch.seconds)
    gone, twice = judged(made, record, whole)
    sums = f"the others go on ({sums_of(record)} in the sums), it comes back by itself"
    late = f"version {behind} while it is away, then fetches {made.versions()['hospital3']} by itself"
    return [
        Row("7", "kill -9 of an agent in a round", sums, gone, twice, took[0]),
        Row("8", "an agent stopped (SIGSTOP) in a round", sums, gone, twice, took[1]),
        Row("9", "kill -9 of an agent before a push", late, gone + one_version(made), twice, took[2]),
    ]


def disk_full(made: Field, whole: Spent) -> list[Row]:
    begin = len(made.events())
    made.begin()
    made.wait_for(begin, "round")
    limited(family(made.programs["hospital1"].pid), 1)
    record = made.finish(begin)
    watch = Watch()
    limited(family(made.programs["hospital1"].pid), UNLIMITED)
    named = any("hospital1" in json.dumps(event) for event in made.events()[begin:])
    fetch(made, "hospital1")
    gone, twice = judged(made, record, whole)
    gone += one_version(made) + (() if named else ("nothing names the device",))
    observed = (
        f"named in errors, the others go on ({sums_of(record)} in the sums); fetches the version when it has space"
    )
    return [Row("16", "a device's disk full in rounds and in the push", observed, gone, twice, watch.seconds)]


def family(process: int) -> list[int]:
    """A process and all that it started."""
    found = [process]
    for each in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return found


def clocks(made: Field, _whole: Spent) -> list[Row]:
    device, said, gone, watch = made.devices[0], list[str](), list[str](), Watch()
    before = made.versions()[device.name]
    for days in (2, 30, -400):
        fetched = fedinfer(made, "device", "update", "--store", device.store, "--from", source(made), days=days)
        asked = fedinfer(made, "device", "predict", "--store", device.store, device.table, "--json", days=days)
        said.append(f"{days:+d} d: {'refused' if fetched.returncode else 'nothing newer'}")
        if asked.returncode or made.versions()[device.name] != before:
            gone.append(f"{days:+d} d: {asked.stderr[-200:]}")
    stale = [line for line in said[:2] if "refused" not in line]
    observed = f"an update is {'; '.join(said)}; the model it has serves on"
    fault = "a device's clock at +2 d, +30 d, -400 d"
    return [Row("13", fault, observed, (*gone, *stale), (), watch.seconds)]


def installs(made: Field, _whole: Spent) -> list[Row]:
    """Kills and a full disk while a version comes; a slot that the disk damaged."""
    drawn, device, gone = random.Random(14), made.devices[1], list[str]()
    old, store = made.folder / "old", made.folder / "copy"
    shutil.copytree(device.store, old)
    made.one_run()
    watch, words = Watch(), ("device", "update", "--store", store, "--from", source(made))
    for number in range(11):
        full = number == 10
        shutil.copytree(old, store)
        with contextlib.suppress(subprocess.TimeoutExpired):
            fedinfer(made, *words, seconds=120.0 if full else drawn.uniform(0.5, 5.0), limit=1 if full else UNLIMITED)
        gone += silent(made, store, f"attempt {number}")
        if fedinfer(made, *words).returncode:
            gone.append(f"no update after attempt {number}")
        gone += silent(made, store, f"the update after attempt {number}")
        if number < 10:
            shutil.rmtree(store)
    damage(store)
    gone += silent(made, store, "a damaged slot")
    fault = "kill -9 in an install (10 times), full disk in an install, damaged slot"
    return [Row("14", fault, "the model before serves, the next update works", tuple(gone), (), watch.seconds)]


def silent(made: Field, store: Path, after: str) -> list[str]:
    """Why a device does not predict."""
    done = fedinfer(made, "device", "predict", "--store", store, made.devices[1].table, "--json")
    return [f"after {after}: {done.stderr[-200:]}"] if done.returncode else []


def damage(store: Path) -> None:
    """Change the last bytes of the largest file of the version that is served."""
    served = Slots(store / "slots").load()
    assert served is not None
    model = max(served.files.values(), key=len)
    changed = [path for path in (store / "slots").rglob("*") if path.is_file() and path.read_bytes() == model]
    assert changed
    for path in changed:
        path.write_bytes(model[:-9] + b"\1" * 9)


def strangers(made: Field, _whole: Spent) -> list[Row]:
    """A wrong authority for TLS, and a node key that nobody registered."""
    watch, said, store = Watch(), list[str](), made.folder / "stranger"
    shutil.copytree(made.devices[0].store, store)
    other = made.folder / "other.key"
    write_node_key(other)
    for name, change in (("ca.crt", made.server.folder / "server.pem"), ("node.key", other)):
        kept = (store / name).read_bytes()
        shutil.copy(change, store / name)
        said.append(refused(made, store))
        (store / name).write_bytes(kept)
    what = ("a wrong CA", "an unknown node key")
    gone = tuple(f"{each} is not told" for each, line in zip(what, said, strict=True) if not line)
    observed = f"turned away, and the agent's log says: {' / '.join(said)}"
    return [Row("17", "wrong CA; node key that nobody registered", observed, gone, (), watch.seconds)]


def refused(made: Field, store: Path) -> str:
    """What the log of an agent says when its node ended; empty when it did not."""
    log, words = store.with_suffix(".log"), [*FEDINFER, "device", "up", "--store", str(store)]
    log.unlink(missing_ok=True)
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    with running(words, made.folder, environment(made.folder / "h") | {"PYTHONPATH": path}, log):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = [line for line in tail(log, 20000).splitlines() if "started again in" in line]
            if found:
                return found[0].partition(" s: ")[2]
            time.sleep(0.2)
    return ""


def away_at_the_start(made: Field, _whole: Spent) -> list[Row]:
    plan = made.server.folder / "site.toml"
    text = plan.read_text()
    plan.write_text(text.replace("min_devices = 3", "min_devices = 4"))
    made.reread()
    made.down("hospital3")
    begin, before, watch = len(made.events()), entries(made), Watch()
    made.begin()
    made.wait_for(begin, "failed")
    took, failed = watch.seconds, made.since(begin, "failed")[0]
    spent = () if entries(made) == before else ("something was spent",)
    plan.write_text(text)
    made.reread()
    made.wait("the coordinator has ended", lambda: not made.processes("coordinator"), 60)
    record = made.one_run()
    gone, twice = judged(made, record, spent_in(made, record["run_id"]))  # three devices have a plan of their own
    made.up("hospital3")
    fetch(made, "hospital3")
    observed = (
        f"{failed['message']}; {failed['hint']}. With min_devices = 3 the others run, and it catches up by itself"
    )
    fault = "one hospital down at the start, all four demanded"
    return [Row("18", fault, observed, gone + one_version(made), twice + spent, took)]
