"""A real SuperLink and four device agents on loopback: TLS, node keys, identities, strangers, a killed device."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Context, RecordDict

from fedinfer.flower.processes import running, tail
from fedinfer.flower.records import request_message
from fedinfer.messages import Kind
from fedinfer.ports import Ask
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Ledger
from fedinfer.simulation.grid import FIRST_NODE, LocalGrid
from fedinfer.store import open_store, read_store
from tests.e2e.pilot import FEDINFER, HOSPITALS, PATIENCE, REPOSITORY, Pilot, pilot, wait_for_event
from tests.e2e.stranger import write_stranger

pytestmark = pytest.mark.e2e
DEADLINE = 30


@pytest.mark.slow
def test_four_hospitals_take_part_in_the_owners_run_and_in_no_strangers(tmp_path: Path) -> None:
    with ExitStack() as stack:
        made = stack.enter_context(pilot(tmp_path))
        (tmp_path / "tmp").mkdir()
        variables = {**made.variables(), "TMPDIR": str(tmp_path / "tmp")}
        agents = [
            stack.enter_context(running(made.agent_command(number), tmp_path, variables, made.node_log(number)))
            for number in range(len(HOSPITALS))
        ]
        check_addresses(made)
        before, kept = files_of_devices(made), rows_of_devices(made)
        check_stranger(made, "nobody", "stranger")
        check_stranger(made, "fedinfer", "fedinfer")
        assert files_of_devices(made) == before
        assert rows_of_devices(made) == kept

        made.start(REPOSITORY, made.values(made.run, f"training.rounds=3;training.deadline_seconds={DEADLINE}"))
        wait_for_event(made, "round", 2)
        assert agents[3].poll() is None, tail(made.node_log(3))
        os.killpg(agents[3].pid, signal.SIGKILL)
        wait_for_event(made, "finished", 1)
        check_end(made, agents[0].pid)

    record = json.loads((made.run / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["engine"] == "deployment"
    assert record["secure_aggregation"]["mode"] == "protocol"
    assert [row["survivors"] for row in record["rounds"]] == [4, 4, 3]
    assert all(row["status"] == "released" for row in record["rounds"])
    assert record["models"][0]["devices_active"] == 3
    assert record["signing"]["root_keys"] == "offline"
    assert not list(made.run.rglob("*.key")), "no key lies in the run folder"
    check_predictions(tmp_path)
    check_ledgers(tmp_path)


def test_the_strangers_program_would_read_rows_and_keys(tmp_path: Path) -> None:
    """Where it runs, that is: the check above is about a program that works."""
    mark, rows, key = tmp_path / "mark", tmp_path / "rows.csv", tmp_path / "identity.key"
    rows.write_text("age,ill\n51,yes\n")
    key.write_bytes(b"a private key")
    (tmp_path / "device.json").write_text(json.dumps({"data": str(rows)}))
    program = write_stranger(tmp_path / "app", "nobody", "stranger", mark) / "clients" / "app.py"
    names: dict[str, Any] = {}
    exec(compile(program.read_text(), str(program), "exec"), names)
    assert mark.exists()
    LocalGrid(names["app"], 1, {})  # sets what Message() reads
    question = request_message(Ask("a", Kind.ENROLL, b"", b""), FIRST_NODE, "g")
    answer = names["app"](question, Context(1, FIRST_NODE, {"store": str(tmp_path)}, RecordDict(), {}))
    assert answer.content["stolen"]["rows"] == rows.read_text()
    assert answer.content["stolen"]["key"] == b"a private key"


def check_addresses(made: Pilot) -> None:
    """What devices reach carries the fleet API and nothing with which a run is started or a task taken."""
    trust = ssl.create_default_context(cafile=str(made.folder / "ca.crt"))
    with httpx.Client(verify=trust) as client:
        for path in ("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/health"):
            for spelt in (path, "/v1/fleet/.." + path[3:], path.replace("/v1", "//v1")):
                status = client.post(f"https://127.0.0.1:{made.fleet}{spelt}").status_code
                assert status == 404, (spelt, status)
        assert client.post(f"https://127.0.0.1:{made.fleet}/v1/fleet/pull-messages").status_code != 404
        assert client.get(f"https://127.0.0.1:{made.control}/docs").status_code == 200
    assert (made.folder / "superlink.sqlite").stat().st_size > 0


def check_stranger(made: Pilot, publisher: str, name: str) -> None:
    """A run of another program: each question is refused with a typed reply, and its client runs nowhere."""
    mark, reported = made.folder / f"{publisher}-was-here", made.folder / f"{publisher}-told.json"
    app = write_stranger(made.folder / f"app-{publisher}", publisher, name, mark)
    made.start(app, {"told": str(reported), "deployment": True}, f"run-{publisher}")
    end = time.monotonic() + PATIENCE
    while not reported.exists():
        assert time.monotonic() < end, tail(made.superlink_log, 4000)
        time.sleep(0.2)
    answers = json.loads(reported.read_text())
    assert len(answers) == 3 * len(HOSPITALS)
    for answer in answers:
        assert answer["error"] == ""
        assert "'body': b''" in answer["records"]
        assert "stolen" not in answer["records"]
        assert "Misbehaviour" in answer["records"] or "FedInferError" in answer["records"] or (
            "VersionMismatch" in answer["records"]
        )  # fmt: skip
    secrets = [(made.store(number) / "identity.key").read_bytes().hex() for number in range(len(HOSPITALS))]
    assert not any(secret in reported.read_text() for secret in secrets)
    assert not mark.exists()


def files_of_devices(made: Pilot) -> dict[str, bytes]:
    """All files of stores and agents with their content, but for those that an agent and its libraries make at once.

    The first message of fedinfer's own app, whoever sent it, opens the device's databases, which makes their files and
    empty tables: their rows are compared by `rows_of_devices`. Flower keeps its `source` there, ONNX Runtime its
    `.ses`: random names, both.
    """
    own = ("device.sqlite", "predictions.sqlite", "agent.lock", "runtime.", "source", ".ses")
    folders = [*(made.store(number) for number in range(len(HOSPITALS))), made.folder / "tmp"]
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(own)
    }


def rows_of_devices(made: Pilot) -> dict[str, list[Any]]:
    """Every row in the databases of all stores, by file and table; a table without rows is as good as none."""
    found = {}
    for number in range(len(HOSPITALS)):
        for path in (made.store(number) / name for name in ("device.sqlite", "predictions.sqlite")):
            connection = read_store(path) if path.exists() else None
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'") if connection else ()
            for (table,) in list(tables):
                rows = connection.execute(f"SELECT * FROM {table}").fetchall() if connection else []
                if table == "sqlite_sequence":  # SQLite's own: the last number of each table
                    rows = [row for row in rows if row[1]]
                if rows and table != "schema_version":
                    found[f"{number}/{path.name}/{table}"] = rows
    return found


def check_end(made: Pilot, agent: int) -> None:
    """An agent that is told to stop takes its node with it, and so does one that is killed."""
    nodes = children(agent)
    assert nodes
    os.kill(agent, signal.SIGTERM)
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in (*nodes, agent) if not is_zombie(pid)):
        assert time.monotonic() < end, tail(made.node_log(0))
        time.sleep(0.1)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", made.fleet)) == 0  # the SuperLink goes on
    assert not nodes_of(made, 3)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def nodes_of(made: Pilot, number: int) -> list[int]:
    """Processes that use the node key of a device."""
    key, found = str(made.folder / f"node{number}.key").encode(), []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if key in entry.read_bytes() and not is_zombie(int(entry.parent.name)):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def check_predictions(folder: Path) -> None:
    """The pushed model answers on a device's own rows, through the command line."""
    command = [
        *FEDINFER, "device", "predict", "--store", str(folder / "device0"), str(folder / "hospital0.csv"), "--json",
    ]  # fmt: skip
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    with (folder / "hospital0.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert answer.stdout.count('"label"') == len(rows)


def check_ledgers(folder: Path) -> None:
    """Every device wrote its spend before the data was touched; the killed one paid only for what it took part in."""
    for number, rounds in enumerate((3, 3, 3, 2)):
        connection = open_store(folder / f"device{number}" / "device.sqlite", "privacy", LEDGER_MIGRATIONS)
        ledger = Ledger(connection)
        entries = ledger.entries(f"hospital{number}")
        assert len(entries) == rounds
        assert all(entry.committed_at for entry in entries)
        connection.close()
