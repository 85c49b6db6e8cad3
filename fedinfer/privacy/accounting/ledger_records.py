"""What a ledger holds: its tables, a budget, an entry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.events import Event
from fedinfer.privacy.rounding import exactly
from fedinfer.types import Relation, Unit

LEDGER_MIGRATIONS = (
    """
    CREATE TABLE ledger_events (
        id INTEGER PRIMARY KEY,
        json TEXT NOT NULL UNIQUE
    );
    CREATE TABLE ledger_accounts (
        owner TEXT NOT NULL,
        task TEXT NOT NULL,
        epsilon REAL NOT NULL,
        delta REAL NOT NULL,
        relation TEXT NOT NULL,
        PRIMARY KEY (owner, task)
    ) WITHOUT ROWID;
    CREATE TABLE ledger_totals (
        owner TEXT NOT NULL,
        task TEXT NOT NULL,
        event INTEGER NOT NULL REFERENCES ledger_events(id),
        count INTEGER NOT NULL,
        PRIMARY KEY (owner, task, event)
    ) WITHOUT ROWID;
    CREATE TABLE ledger_entries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        task TEXT NOT NULL,
        reference TEXT NOT NULL,
        event INTEGER NOT NULL REFERENCES ledger_events(id),
        reason TEXT NOT NULL,
        reserved_at TEXT NOT NULL,
        committed_at TEXT,
        UNIQUE (owner, task, reference)
    )
    """,
    """
    ALTER TABLE ledger_accounts ADD COLUMN unit TEXT NOT NULL DEFAULT 'example';
    UPDATE ledger_accounts SET unit = 'device' WHERE relation = 'zero-out-one';
    UPDATE ledger_accounts SET relation = 'zero-out-one' WHERE relation = 'add-or-remove-one'
    """,
    """
    CREATE TABLE ledger_promise_texts (
        id INTEGER PRIMARY KEY,
        json TEXT NOT NULL UNIQUE
    );
    CREATE TABLE ledger_promises (
        owner TEXT NOT NULL,
        task TEXT NOT NULL,
        promise INTEGER NOT NULL,
        PRIMARY KEY (owner, task)
    ) WITHOUT ROWID
    """,
)
"""For `open_store(path, "ledger", LEDGER_MIGRATIONS)`.

The second: the relation alone told rows from devices (rows were accounted as add-or-remove-one, at the same cost).
The third: what a server promised with its first request (`filter`); 0: nothing, or the spends are older than promises.
"""


TERMS = "SELECT owner, epsilon, delta, relation, unit FROM ledger_accounts WHERE task = ? AND owner IN ({})"
TERMS_WITHOUT_UNIT = (
    "SELECT owner, epsilon, delta, relation, CASE relation WHEN 'zero-out-one' THEN 'device' ELSE 'example' END "
    "FROM ledger_accounts WHERE task = ? AND owner IN ({})"
)
"""A run folder of an earlier version is read as it is; the second migration says what its relation meant."""

COUNTS_OF_TASK = "SELECT owner, event, count FROM ledger_totals WHERE task = ? AND owner IN ({}) ORDER BY owner, event"
COUNTS_OF_ALL = (
    "SELECT owner, event, SUM(count) FROM ledger_totals WHERE owner IN ({}) GROUP BY owner, event ORDER BY owner, event"
)
"""How often owners reserved each event: for one task, and for all tasks together."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that may be spent.

    Args:
        epsilon: > 0.
        delta: in (0, 1).
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise ConfigError(
                f"budget epsilon {self.epsilon}, delta {self.delta}: need epsilon > 0 and delta in (0, 1)"
            )


@dataclass(frozen=True, slots=True)
class Protected:
    """What the bound of an account speaks of: bounds of different ones do not add up.

    Args:
        unit: what one change of the data touches.
        relation: what such a change is.
    """

    unit: Unit
    relation: Relation

    def __str__(self) -> str:
        return f"unit {self.unit}, {self.relation}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account was opened with.

    Args:
        budget: the limit.
        protects: what the limit speaks of.
    """

    budget: Budget
    protects: Protected

    def __str__(self) -> str:
        return f"epsilon {exactly(self.budget.epsilon)} at delta {exactly(self.budget.delta)} for {self.protects}"


@lru_cache(maxsize=64)
def terms_of(epsilon: float, delta: float, relation: str, unit: str) -> Terms:
    """Terms as the database holds them. Accounts of a fleet are alike: one object for all of them.

    Args:
        epsilon: of the budget.
        delta: of the budget.
        relation: its name.
        unit: its name.
    """
    return Terms(Budget(epsilon, delta), Protected(Unit(unit), Relation(relation)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger.

    Args:
        owner, task: the account that was charged.
        reference: what the spend was for, unique per owner and task.
        event: what the mechanism was going to do.
        reason: for people who read the ledger.
        reserved_at: ISO 8601.
        committed_at: ISO 8601; "" while, or because, the mechanism did not run to its end.
    """

    owner: str
    task: str
    reference: str
    event: Event
    reason: str
    reserved_at: str
    committed_at: str
