"""Faults of the server: killed, stopped, away, full, started twice, without its keys. Not a test itself."""

from __future__ import annotations

import shutil
import signal
import time

from fedinfer.errors import FedInferError
from fedinfer.flower.control import connect
from fedinfer.site.watch import begin_run
from tests.e2e.fault_row import UNLIMITED, Row, Watch, entries, judged, limited, rounds_of
from tests.e2e.field import Field, Spent, half_written
from tests.unit.artifact.key_folders import PASSPHRASE, save_new_keys


def coordinator_killed(made: Field, whole: Spent) -> list[Row]:
    """Three times in one run."""
    begin, took = len(made.events()), list[float]()
    made.begin()
    for before, after in (("round", "round"), ("wave", "pushed"), ("pushed", "started")):
        made.wait_for(begin, before)
        time.sleep(1.0)
        told, watch = len(made.events()), Watch()
        made.kill("coordinator")
        made.wait_for(told, after)
        took.append(watch.seconds)
    record = made.finish(begin)
    gone, twice = judged(made, record, whole)
    active = made.since(begin, "pushed")[-1]["devices_active"]
    kill = "kill -9 of the coordinator"
    return [
        Row("1", f"{kill} in round 2 of 3", f"goes on by itself: {rounds_of(record)}", gone, twice, took[0]),
        Row("2", f"{kill} in a push", f"the waves go on by themselves to {active} of 4 devices", gone, twice, took[1]),
        Row("10", f"{kill} in a drift window", "the watch goes on by itself", gone, twice, took[2]),
    ]


def superlink_killed(made: Field, whole: Spent) -> list[Row]:
    begin = len(made.events())
    made.begin()
    made.wait_for(begin, "round")
    time.sleep(1.0)
    watch = Watch()
    made.kill("superlink")
    made.wait_for(begin, "started", 2)
    made.online()
    took = watch.seconds
    record = made.finish(begin)
    gone, twice = judged(made, record, whole)
    observed = f"nodes stay registered and return, the run goes on by itself: {rounds_of(record)}"
    return [Row("3, 4", "kill -9 of the SuperLink in a round", observed, gone, twice, took)]


def superlink_away(made: Field, _whole: Spent) -> list[Row]:
    made.down("server")
    time.sleep(120.0)
    watch = Watch()
    made.up("server")
    made.online()
    return [Row("5", "server down for 120 s", "all four return", tuple(half_written(made)), (), watch.seconds)]


def superlink_stopped(made: Field, whole: Spent) -> list[Row]:
    begin = len(made.events())
    made.begin()
    made.wait_for(begin, "round")
    made.send("superlink", signal.SIGSTOP)
    time.sleep(100.0)
    watch = Watch()
    made.send("superlink", signal.SIGCONT)
    made.online()
    took = watch.seconds
    record, starts = made.finish_as_operator(begin)
    gone, twice = judged(made, record, whole)
    again = f"the run was started again by hand {starts} times; " if starts else ""
    observed = f"all four return; {again}{rounds_of(record)}"
    return [Row("6", "SuperLink stopped (SIGSTOP) for 100 s in a round", observed, gone, twice, took)]


def everything_killed(made: Field, whole: Spent) -> list[Row]:
    """As a power cut does, but for what the disks had not written yet."""
    begin = len(made.events())
    made.begin()
    made.wait_for(begin, "round")
    time.sleep(0.5)
    watch = Watch()
    for name in ("server", *made.names):
        made.kill(name, stays_away=True)
    made.wait("all is gone", lambda: not made.processes("superlink") and not made.processes("coordinator"), 60)
    for name in ("server", *made.names):
        made.up(name)
    starts, told = 0, len(made.events())
    while not made.since(told, "started"):  # for a minute the SuperLink takes nodes for connected that are not
        begin, starts = len(made.events()), starts + 1
        made.begin()
        made.wait(
            "the run starts", lambda begin=begin: bool(made.since(begin, "started") or made.since(begin, "failed"))
        )
        made.wait(
            "the coordinator has ended", lambda: bool(made.since(told, "started")) or not made.processes("coordinator")
        )
    took = watch.seconds
    record = made.finish(begin)
    gone, twice = judged(made, record, whole)
    observed = f"server and agents are up again, the run after {starts} starts: {rounds_of(record)}"
    return [Row("new", "kill -9 of everything at once in a round", observed, gone, twice, took)]


def two_runs(made: Field, whole: Spent) -> list[Row]:
    begin = len(made.events())
    made.begin()
    made.wait_for(begin, "round")
    watch, refused = Watch(), "it was taken"
    try:
        begin_run(made.server)
    except FedInferError as error:
        refused = str(error)
    with connect(made.server.plan.control, made.server.tls_authority) as control:  # around the command
        control.start_run(made.server.write_app(), made.server.run_config())
    made.wait_for(begin, "failed")
    took, failed = watch.seconds, made.since(begin, "failed")[0]
    made.wait("the first run ends", lambda: bool(made.since(begin, "finished")))
    record = made.finish(begin, failed=True)
    gone, twice = judged(made, record, whole)
    well = failed["error"] == "FolderInUse" and "works on the run folder" in refused
    fault = "a second run on the run folder, by the command and around it"
    observed = "refused both times; the first completes"
    return [Row("11", fault, observed, gone if well else (*gone, refused, str(failed)), twice, took)]


def lost_keys(made: Field, _whole: Spent) -> list[Row]:
    server, before, message = made.server.folder, entries(made), ""
    kept = {name: server / f"{name}.kept" for name in ("run", "keys", "keys.pass")}
    for name, place in kept.items():
        (server / name).rename(place)
    save_new_keys(made.folder / "other")
    shutil.copytree(made.folder / "other" / "online", server / "keys")
    (server / "keys.pass").touch(0o600)
    (server / "keys.pass").write_text(PASSPHRASE + "\n")
    watch = Watch()
    try:
        made.begin()
        made.wait_for(0, "failed")
        message, took = made.since(0, "failed")[0]["message"], watch.seconds
        made.wait("the coordinator has ended", lambda: not made.processes("coordinator"), 60)
    finally:
        for name in ("run", "keys"):
            shutil.rmtree(server / name, ignore_errors=True)
        for name, place in kept.items():
            place.rename(server / name)
    twice = () if entries(made) == before else ("something was spent",)
    gone = () if "signs models with other keys" in message else (message,)
    observed = "refused at the join: the server signs models with other keys"
    return [Row("12", "a new run folder with other signing keys", observed, gone, twice, took)]


def told_why(made: Field, begin: int) -> list[str]:
    """Lines of the server's log after some bytes that name the full disk."""
    lines = made.server.log.read_bytes()[begin:].decode(errors="replace").splitlines()
    return [line.rpartition("carry_on: ")[2] for line in lines if "File too large" in line]


def disk_full(made: Field, whole: Spent) -> list[Row]:
    begin, already = len(made.events()), made.server.log.stat().st_size
    most = (made.server.run / "events.jsonl").stat().st_size + 6000
    limited(made.processes("superexec"), most)
    made.begin()
    made.wait("the coordinator works", lambda: bool(made.processes("coordinator")))
    made.wait("the coordinator stops", lambda: not made.processes("coordinator"))
    made.wait("the server says why", lambda: bool(made.since(begin, "failed") or told_why(made, already)))
    failed = made.since(begin, "failed")
    said = [event["message"] for event in failed] or told_why(made, already)
    watch = Watch()
    limited(made.processes("superexec"), UNLIMITED)
    if failed:
        begin = len(made.events())
        made.begin()
    record, _ = made.finish_as_operator(begin)
    gone, twice = judged(made, record, whole)
    again = "started again, it goes on" if failed else "goes on by itself when there is space"
    reason = said[0].replace(f"{made.folder}/", "") if said else "nothing"
    observed = f"stops and says `{reason}`; {again}: {rounds_of(record)}"
    return [
        Row(
            "15", "server's disk full in a run", observed, gone if said else (*gone, "the reason"), twice, watch.seconds
        )
    ]
