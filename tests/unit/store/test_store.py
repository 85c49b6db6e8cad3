"""The one place that opens a database: migrations, transactions, and errors that say what to do."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedinfer.errors import Misbehaviour, StoreError
from fedinfer.store import Durability, open_store, read_store, transaction

ONE = ("CREATE TABLE item (name TEXT PRIMARY KEY)",)
TWO = (*ONE, "ALTER TABLE item ADD COLUMN size INTEGER NOT NULL DEFAULT 7; CREATE TABLE other (x TEXT)")


def test_tables_are_made_once_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    open_store(path, "room", ONE).execute("INSERT INTO item VALUES ('a')")
    open_store(path, "room", ONE)
    newer = open_store(path, "room", TWO)
    assert newer.execute("SELECT name, size FROM item").fetchall() == [("a", 7)]
    assert newer.execute("SELECT * FROM other").fetchall() == []


def test_rooms_share_a_file_without_sharing_a_version(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    open_store(path, "first", TWO)
    second = open_store(path, "second", ("CREATE TABLE mine (x TEXT)",))
    assert dict(second.execute("SELECT * FROM schema_version").fetchall()) == {"first": 2, "second": 1}


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "s.sqlite", "room", TWO)
    with pytest.raises(StoreError, match="version 2, this program knows 1"):
        open_store(tmp_path / "s.sqlite", "room", ONE)


def test_a_failed_migration_leaves_the_old_tables(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    open_store(path, "room", ONE)
    with pytest.raises(StoreError):
        open_store(path, "room", (*ONE, "CREATE TABLE fine (x TEXT); CREATE NONSENSE"))
    assert open_store(path, "room", TWO).execute("SELECT * FROM other").fetchall() == []


def test_what_is_committed_is_flushed(tmp_path: Path) -> None:
    connection = open_store(tmp_path / "s.sqlite", "room", ONE)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    connection = open_store(tmp_path / "s.sqlite", "room", ONE)

    def change_of_mind() -> None:
        with transaction(connection) as database:
            database.execute("INSERT INTO item VALUES ('a')")
            raise Misbehaviour("not after all")

    with pytest.raises(Misbehaviour):
        change_of_mind()
    assert connection.execute("SELECT * FROM item").fetchall() == []
    with transaction(connection) as database:
        database.execute("INSERT INTO item VALUES ('a')")
    assert connection.execute("SELECT * FROM item").fetchall() == [("a",)]


def test_an_error_of_the_database_names_the_way_out(tmp_path: Path) -> None:
    connection = open_store(tmp_path / "s.sqlite", "room", ONE)

    def twice() -> None:
        with transaction(connection) as database:
            database.execute("INSERT INTO item VALUES ('a')")
            database.execute("INSERT INTO item VALUES ('a')")

    with pytest.raises(StoreError, match="UNIQUE") as caught:
        twice()
    assert "space" in caught.value.hint
    assert connection.execute("SELECT * FROM item").fetchall() == []


def test_read_check_write_of_two_threads_never_both_win(tmp_path: Path) -> None:
    path, wins = tmp_path / "s.sqlite", []
    open_store(path, "room", ONE)

    def claim(name: str) -> None:
        connection = open_store(path, "room", ONE)
        with transaction(connection) as database:
            if not database.execute("SELECT * FROM item").fetchall():
                database.execute("INSERT INTO item VALUES (?)", (name,))
                wins.append(name)

    threads = [threading.Thread(target=claim, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1


def test_a_commit_survives_a_process_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    open_store(path, "room", ONE).close()
    program = (
        "import os, signal, sys; from pathlib import Path; from fedinfer.store import open_store, transaction\n"
        "db = open_store(Path(sys.argv[1]), 'room', ['CREATE TABLE item (name TEXT PRIMARY KEY)'])\n"
        "with transaction(db) as d: d.execute(\"INSERT INTO item VALUES ('kept')\")\n"
        "db.execute('BEGIN IMMEDIATE'); db.execute(\"INSERT INTO item VALUES ('lost')\")\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path)], env={"PYTHONPATH": str(Path(__file__).parents[3])}, check=False
    )
    assert answer.returncode == -9
    assert open_store(path, "room", ONE).execute("SELECT * FROM item").fetchall() == [("kept",)]


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look at" * 20, None])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"s\.sqlite"):
        open_store(path, "room", ONE)
    with pytest.raises(StoreError, match=r"s\.sqlite"):
        read_store(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        open_store(tmp_path / "nowhere" / "s.sqlite", "room", ONE)


def test_reading_makes_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        read_store(tmp_path / "missing.sqlite")
    assert list(tmp_path.iterdir()) == []
    open_store(tmp_path / "s.sqlite", "room", ONE).close()
    reader = read_store(tmp_path / "s.sqlite")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO item VALUES ('x')")


def test_a_simulation_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """NORMAL in WAL mode: commits survive the process, not a power cut."""
    connection = open_store(tmp_path / "s.sqlite", "room", (), Durability.PROCESS)
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
