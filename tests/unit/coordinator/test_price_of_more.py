"""What more rounds would add to the epsilon that a run has spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedinfer.coordinator.context import LEDGER_OWNER, RunAccount
from fedinfer.privacy import (
    LEDGER_MIGRATIONS,
    Budget,
    GaussianEvent,
    Ledger,
    Repeated,
    account,
    protected_of,
    relation_of,
)
from fedinfer.store import open_store
from fedinfer.system import SystemClock
from fedinfer.types import Unit


def test_more_rounds_add_what_they_add_to_everything_that_was_spent(tmp_path: Path) -> None:
    ledger = Ledger(open_store(tmp_path / "l.sqlite", "privacy", LEDGER_MIGRATIONS), protected_of(Unit.DEVICE))
    books = RunAccount(ledger, "run", SystemClock())
    ledger.open_account(LEDGER_OWNER, "run", Budget(50.0, 1e-5))
    assert books.price_of_more("train ", 4) == 0.0
    books.reserve("r1", (GaussianEvent(2.0),), "train r1")
    books.reserve("w1", (GaussianEvent(5.0),), "drift w1")
    spent, relation = books.spent(), relation_of(Unit.DEVICE)
    more = (GaussianEvent(2.0), GaussianEvent(5.0), Repeated(GaussianEvent(2.0), 4))
    expected = account(more, 1e-5, relation).epsilon - spent.epsilon
    assert books.price_of_more("train ", 4) == pytest.approx(expected)
    assert books.price_of_more("train ", 0) == 0.0
    alone = account((Repeated(GaussianEvent(2.0), 4),), 1e-5, relation).epsilon
    assert 0 < expected < alone
