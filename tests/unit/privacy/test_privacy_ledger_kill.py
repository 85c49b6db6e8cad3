"""kill -9 at random points, 200 times: no spend is lost, none happens twice, and the budget holds."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedinfer.errors import Misbehaviour
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import GaussianEvent, Repeated
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Budget, Ledger
from fedinfer.privacy.accounting.ledger_records import Protected
from fedinfer.store import open_store
from fedinfer.types import Relation, Unit

KILLS = 200
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = GaussianEvent(60.0)
BUDGET = Budget(8.0, 1e-5)
OWNERS = ["a", "b", "c"]


def make(folder: Path) -> Ledger:
    return Ledger(
        open_store(folder / "ledger.sqlite", "ledger", LEDGER_MIGRATIONS), Protected(Unit.EXAMPLE, Relation.ZERO_OUT)
    )


def child(folder: Path, first: int, pipe: int) -> None:
    """Reserve and commit one reference after the other; say what returned, until killed."""
    ledger = make(folder)
    reference = first
    while True:
        verdicts = ledger.reserve(OWNERS, "t", f"r{reference}", [EVENT], "round", NOW)
        os.write(pipe, f"{'granted' if verdicts['a'] is None else type(verdicts['a']).__name__} {reference}\n".encode())
        if verdicts["a"] is None:
            ledger.commit(OWNERS, "t", f"r{reference}", NOW)
            os.write(pipe, f"committed {reference}\n".encode())
        reference += 1


def run_and_kill(folder: Path, first: int, words: int, seconds: float) -> list[tuple[str, int]]:
    """Let a child run until it has said so many words, and then a moment longer; what it said."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(read)
            child(folder, first, write)
        finally:
            os._exit(1)
    os.close(write)
    text = b""
    while text.count(b"\n") < words:
        piece = os.read(read, 65536)
        assert piece, "the child died by itself"
        text += piece
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    while piece := os.read(read, 65536):
        text += piece
    os.close(read)
    lines = text.decode().split("\n")[:-1]  # a word cut in half by the kill does not count as said
    return [(word, int(number)) for word, number in (line.split() for line in lines)]


@pytest.mark.slow
def test_kill_9_at_random_points_never_loses_or_doubles_a_spend(tmp_path: Path) -> None:
    make(tmp_path).open_accounts(OWNERS, "t", BUDGET)
    rng = random.Random(20260101)
    granted: set[int] = set()
    committed: set[int] = set()
    refused = 0
    following = 0
    for _ in range(KILLS):
        # A killed process is asked for the same reference again when it comes back: that must not spend twice.
        said = run_and_kill(tmp_path, following, rng.randrange(8), rng.choice([0.0, 0.0005, 0.01]) * rng.random())
        granted |= {number for word, number in said if word == "granted"}
        committed |= {number for word, number in said if word == "committed"}
        refused += sum(word == "Misbehaviour" for word, _ in said)
        following = max((number for _, number in said), default=following)

        ledger = make(tmp_path)
        entries = ledger.entries(None)
        for owner in OWNERS:
            own = [entry for entry in entries if entry.owner == owner]
            names = [int(entry.reference[1:]) for entry in own]
            assert len(names) == len(set(names)), "spent twice"
            assert granted <= set(names), "a spend was lost"
            assert committed <= {int(e.reference[1:]) for e in own if e.committed_at}, "a commit was lost"
            assert ledger.spent(owner, "t") == account([Repeated(EVENT, len(own))], 1e-5, Relation.ZERO_OUT)
        assert len({entry.reference for entry in entries}) * len(OWNERS) == len(entries), "a batch was torn"
    assert ledger.spent("a", "t").epsilon <= BUDGET.epsilon
    assert refused > 0, "no kill fell between the write and the answer, or the child never asked again"
    assert len(granted) > KILLS / 4
    # The totals table and the entries must tell the same story, and the file must be sound.
    plain = sqlite3.connect(tmp_path / "ledger.sqlite")
    assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    entries_by_owner = dict(plain.execute("SELECT owner, COUNT(*) FROM ledger_entries GROUP BY owner"))
    totals_by_owner = dict(plain.execute("SELECT owner, SUM(count) FROM ledger_totals GROUP BY owner"))
    assert entries_by_owner == totals_by_owner
    last = ledger.reserve(OWNERS, "t", "r0", [EVENT], "", NOW)
    assert all(isinstance(verdict, Misbehaviour) for verdict in last.values())
