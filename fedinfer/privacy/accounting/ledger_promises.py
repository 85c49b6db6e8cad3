"""What servers promised with their first requests, in a ledger's database; the ledger's lock is held by the caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedinfer.privacy.accounting.filter import Promise, read_promise

Counts = tuple[tuple[int, int], ...]
"""Pairs (event id, count) of one account."""
_MANY = 400
"""Owners per SQL statement, below SQLite's limit on parameters."""


def select_in(connection: sqlite3.Connection, query: str, owners: Sequence[str], *parameters: str) -> list[Any]:
    """All rows of a query over owners, however many there are.

    Args:
        connection: of a ledger.
        query: with `{}` in place of the owners, which are its last parameters.
        owners: names.
        parameters: of the query before them.
    """
    rows: list[Any] = []
    for start in range(0, len(owners), _MANY):
        some = owners[start : start + _MANY]
        marks = ",".join("?" * len(some))
        rows += connection.execute(query.format(marks), (*parameters, *some)).fetchall()
    return rows


def promise_id(connection: sqlite3.Connection, promise: Promise) -> int:
    """Number of a promise; it is written when it is new.

    Args:
        connection: of a ledger, in a transaction.
        promise: as it was made.
    """
    return number_of(connection, "ledger_promise_texts", promise.to_text())


def number_of(connection: sqlite3.Connection, table: str, text: str) -> int:
    """Number of a text in a table of texts; it is written when it is new.

    Args:
        connection: of a ledger, in a transaction.
        table: `ledger_promise_texts` or `ledger_events`.
        text: JSON.
    """
    row = connection.execute(f"SELECT id FROM {table} WHERE json = ?", (text,)).fetchone()  # noqa: S608  # no input
    if row is None:
        row = connection.execute(f"INSERT INTO {table} (json) VALUES (?) RETURNING id", (text,)).fetchone()  # noqa: S608
    return int(row[0])


def promise_at(connection: sqlite3.Connection, number: int) -> Promise:
    """A promise by its number.

    Args:
        connection: of a ledger.
        number: 0 for an account to which nothing was promised.
    """
    row = connection.execute("SELECT json FROM ledger_promise_texts WHERE id = ?", (number,)).fetchone()
    return read_promise(row[0]) if row else Promise()


def promises_of(
    connection: sqlite3.Connection, owners: Sequence[str], task: str, offered: int, spent: Collection[str]
) -> dict[str, int]:
    """The promise that counts for each account: the one that was kept; of a new account the one that is made now.

    Args:
        connection: of a ledger.
        owners: of the accounts.
        task: of the accounts.
        offered: number of the promise that comes with this request.
        spent: owners whose account has entries.
    """
    query = "SELECT owner, promise FROM ledger_promises WHERE task = ? AND owner IN ({})"
    kept = dict(select_in(connection, query, owners, task))
    return {owner: kept.get(owner, 0 if owner in spent else offered) for owner in owners}


def without_promise(connection: sqlite3.Connection, owners: Sequence[str], task: str) -> list[str]:
    """Owners of accounts for which no promise is kept.

    Args:
        connection: of a ledger.
        owners: of the accounts, each named once.
        task: of the accounts.
    """
    counted = select_in(
        connection, "SELECT COUNT(*) FROM ledger_promises WHERE task = ? AND owner IN ({})", owners, task
    )
    if sum(count for (count,) in counted) == len(owners):  # after the first round: nobody has to be named
        return []
    query = "SELECT owner FROM ledger_promises WHERE task = ? AND owner IN ({})"
    kept = {owner for (owner,) in select_in(connection, query, owners, task)}
    return [owner for owner in owners if owner not in kept]


def keep_promises(
    connection: sqlite3.Connection, owners: Sequence[str], task: str, offered: int, counts: Mapping[str, Counts]
) -> None:
    """Keep the promise of accounts that had spent nothing before this request; the others keep what they have.

    Args:
        connection: of a ledger, in a transaction; the entry of this request is written already.
        owners: of the accounts.
        task: of the accounts.
        offered: number of the promise that came with this request.
        counts: of each account, this request included.
    """
    rows = [(owner, task, offered if sum(count for _, count in counts[owner]) == 1 else 0) for owner in owners]
    connection.executemany("INSERT INTO ledger_promises VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)
