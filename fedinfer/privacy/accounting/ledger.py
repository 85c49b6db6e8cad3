"""The append-only record of what was spent, by whom, why; it refuses what would exceed a budget.

Rules (each has a test):
* `reserve` writes the spend, in one transaction with the check, before data is touched. There is no refund: whatever
  happens afterwards, the spend stays.
* `commit` marks that the mechanism ran. It changes no amount.
* One (owner, task, reference) is spent once; a second reserve is refused and spends nothing.
* Concurrent reserves, from threads or processes, cannot overspend together: check and write hold SQLite's write lock.
* After kill -9 at any point a reserve happened entirely or not at all, and if it returned, it happened.
* An account for ANY_TASK limits the sum over all tasks of its owner, beside the accounts of the tasks.
* A reserve with a promise is judged by a privacy filter, which holds whatever the promising side has seen.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from fedinfer.errors import BudgetExceeded, ConfigError, Misbehaviour
from fedinfer.privacy.accounting.accountant import Spent, account_history, rdp_history_epsilon
from fedinfer.privacy.accounting.events import (
    Composed,
    Event,
    Repeated,
    event_from_json,
    event_to_json,
    flatten,
)
from fedinfer.privacy.accounting.filter import Promise, refusal
from fedinfer.privacy.accounting.ledger_promises import (
    keep_promises,
    number_of,
    promise_at,
    promise_id,
    promises_of,
    select_in,
    without_promise,
)
from fedinfer.privacy.accounting.ledger_records import (
    COUNTS_OF_ALL,
    COUNTS_OF_TASK,
    LEDGER_MIGRATIONS,
    TERMS,
    TERMS_WITHOUT_UNIT,
    Budget,
    Entry,
    Protected,
    Terms,
    terms_of,
)
from fedinfer.privacy.accounting.ledger_view import ledger_json, left_of
from fedinfer.privacy.accounting.parallel import History, splits_of
from fedinfer.privacy.rounding import at_most, exactly
from fedinfer.store import transaction
from fedinfer.types import Json, Relation

__all__ = ["ANY_TASK", "LEDGER_MIGRATIONS", "Budget", "Entry", "Ledger", "Protected", "Refusal"]

ANY_TASK = "*"
"""Task name of an account that limits everything its owner does."""


Refusal = BudgetExceeded | Misbehaviour


class Ledger:
    """Accounts and entries in one SQLite database.

    Args:
        connection: from `open_store`, with LEDGER_MIGRATIONS applied.
        protects: unit and relation of the accounts opened here, each of which keeps its own; None for a ledger that is
            read, or whose accounts say it themselves.
    """

    def __init__(self, connection: sqlite3.Connection, protects: Protected | None = None) -> None:
        self._connection = connection
        self._protects = protects
        columns = {row[1] for row in connection.execute("PRAGMA table_info(ledger_accounts)")}
        self._terms_query = TERMS if "unit" in columns else TERMS_WITHOUT_UNIT
        self._lock = threading.Lock()  # threads share the connection, and SQLite transactions belong to it
        self._events: dict[int, Event] = {}

    def open_account(self, owner: str, task: str, budget: Budget) -> None:
        """Give `owner` a budget for `task` (or ANY_TASK); opening it again with the same budget changes nothing.

        Args:
            owner: who spends: a device id, or one name that stands for a whole fleet.
            task: what the data is used for, or ANY_TASK for a limit on all tasks together.
            budget: the limit.

        Raises:
            StoreError: the database cannot be written.
            ConfigError: when the account exists with another budget: a budget is a promise.
        """
        self.open_accounts([owner], task, budget)

    def open_accounts(
        self, owners: Iterable[str], task: str, budget: Budget, protects: Protected | None = None
    ) -> None:
        """`open_account` for many owners in one transaction: all are opened, or none.

        Args:
            owners: names.
            task: as in `open_account`.
            budget: the limit of each owner by itself.
            protects: unit and relation of the new accounts; None for the ledger's own.

        Raises:
            ConfigError: when an account exists with another budget, unit or relation, or nobody says what is protected.
            StoreError: the database cannot be written.
        """
        names = list(owners)
        asked = protects or self._protects
        if asked is None:
            raise ConfigError("an account needs a unit and a relation")
        wanted = Terms(budget, asked)
        rows = [(owner, task, budget.epsilon, budget.delta, str(asked.relation), str(asked.unit)) for owner in names]
        with self._lock, transaction(self._connection) as db:
            db.executemany("INSERT INTO ledger_accounts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)
            for owner, kept in self._terms(names, task).items():
                if kept != wanted:
                    raise ConfigError(
                        f"account {owner}/{task} has {kept}, asked for {wanted}",
                        hint="a budget cannot be changed; use another task name for other data",
                    )

    def reserve(
        self,
        owners: Sequence[str],
        task: str,
        reference: str,
        events: Sequence[Event],
        reason: str,
        now: datetime,
        promise: Promise | None = None,
    ) -> Mapping[str, Refusal | None]:
        """Spend `events` for each owner that can afford them, all in one transaction.

        Args:
            owners: accounts to charge, each named once.
            task: task of the accounts; not ANY_TASK, whose accounts are checked besides.
            reference: what the spend is for, unique per owner and task (for instance run and round).
            events: what the mechanism will do.
            reason: for people who read the ledger.
            now: time of the entry.
            promise: all that whoever asks will ever ask for; the first one made to an account counts, and what goes
                beyond it passes a privacy filter (`filter`). None: the caller fixed all spends beforehand by itself.

        Returns:
            For each owner None (reserved: data may be touched now), BudgetExceeded, or Misbehaviour when the reference
            was used before. A refusal spends nothing.

        Raises:
            ConfigError: an owner without an account, an owner named twice, or the task ANY_TASK.
            StoreError: nothing was written, so data must not be touched.
        """
        if len(set(owners)) != len(owners):
            raise ConfigError("an owner is named twice in one reservation")
        with self._lock, transaction(self._connection) as db:
            event = self._event_id(Composed(tuple(events)))
            used = self._used(owners, task, reference)
            offered = None if promise is None else promise_id(self._connection, promise)
            verdicts: dict[str, Refusal | None] = dict(self._afford(owners, task, event, offered))
            verdicts.update(
                (owner, Misbehaviour(f"{owner}/{task}: reference {reference!r} was spent before")) for owner in used
            )
            granted = [owner for owner in owners if verdicts[owner] is None]
            at = now.isoformat()
            # Totals are kept beside the entries, so that a check does not read the whole history of every owner.
            db.executemany(
                "INSERT INTO ledger_entries (owner, task, reference, event, reason, reserved_at) VALUES (?,?,?,?,?,?)",
                [(owner, task, reference, event, reason, at) for owner in granted],
            )
            db.executemany(
                "INSERT INTO ledger_totals VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                [(owner, task, event) for owner in granted],
            )
            if offered is not None:
                for key in (task, ANY_TASK):
                    new = without_promise(self._connection, granted, key)
                    keep_promises(self._connection, new, key, offered, self._counts(new, key))
        return verdicts

    def commit(self, owners: Sequence[str], task: str, reference: str, now: datetime) -> None:
        """Note that the mechanism ran. Repeating it changes nothing.

        Args:
            owners: those whose reserve was granted.
            task: task of the accounts.
            reference: as in `reserve`.
            now: time of the entry.

        Raises:
            StoreError: nothing was written; the spend stays.
            Misbehaviour: when an owner never reserved this reference; nothing is written then.
        """
        with self._lock, transaction(self._connection) as db:
            missing = set(owners) - self._used(owners, task, reference)
            if missing:
                raise Misbehaviour(f"{sorted(missing)[0]}/{task}: reference {reference!r} was never reserved")
            update = (
                "UPDATE ledger_entries SET committed_at = ? "
                "WHERE task = ? AND reference = ? AND committed_at IS NULL AND owner IN ({})"
            )
            select_in(db, update, owners, now.isoformat(), task, reference)

    def spent(self, owner: str, task: str) -> Spent:
        """What was spent, at the delta of the account's budget.

        Args:
            owner: of the account.
            task: of the account; ANY_TASK for what was spent on all tasks, where such an account is open.

        Raises:
            ConfigError: when there is no such account.
        """
        terms = self._account(owner, task)
        return self.spent_at(owner, task, terms.budget.delta, terms.protects.relation)

    def spent_at(self, owner: str, task: str, delta: float, relation: Relation) -> Spent:
        """Proved bound on all that `owner` reserved for `task` (ANY_TASK: for all tasks), committed or not.

        Args:
            owner: needs no account; nothing is spent then.
            task: of the entries, or ANY_TASK.
            delta: at which the bound shall hold, in (0, 1).
            relation: neighbouring relation, which may differ from the account's.

        Raises:
            ConfigError: when delta is outside (0, 1).
        """
        with self._lock:
            return account_history(self._history(self._counts([owner], task).get(owner, ())), delta, relation)

    def budget(self, owner: str, task: str) -> Budget:
        """The budget of an account.

        Args:
            owner: of the account.
            task: of the account.

        Raises:
            ConfigError: when there is no such account.
        """
        return self._account(owner, task).budget

    def remaining(self, owner: str, task: str) -> float:
        """Epsilon of the budget minus epsilon spent, at the budget's delta; >= 0.

        Compositions are not sums: a last event may fit although its own epsilon is larger than this.

        Args:
            owner: of the account.
            task: of the account.

        Raises:
            ConfigError: when there is no such account.
        """
        return left_of(self.budget(owner, task), self.spent(owner, task))

    def splits(self, owners: Sequence[str], task: str) -> Mapping[str, frozenset[str]]:
        """Splits of the units into disjoint parts that an owner's spends speak of.

        Args:
            owners: names.
            task: of the entries, or ANY_TASK.

        Returns:
            Names of splits by owner; none for an owner whose releases touched every unit, or that spent nothing.
        """
        with self._lock:
            counts = self._counts(owners, task)
            return {owner: splits_of(self._history(counts.get(owner, ()))) for owner in owners}

    def accounts(self) -> list[tuple[str, str, Budget]]:
        """All (owner, task, budget), sorted."""
        with self._lock:
            query = "SELECT owner, task, epsilon, delta FROM ledger_accounts ORDER BY owner, task"
            rows = self._connection.execute(query).fetchall()
        return [(owner, task, Budget(epsilon, delta)) for owner, task, epsilon, delta in rows]

    def entries(self, owner: str | None) -> list[Entry]:
        """All entries, or those of one owner, oldest first.

        Args:
            owner: one owner; None for all.
        """
        with self._lock:
            rows = self._connection.execute(
                "SELECT owner, task, reference, event, reason, reserved_at, COALESCE(committed_at, '') "
                "FROM ledger_entries WHERE :owner IS NULL OR owner = :owner ORDER BY id",
                {"owner": owner},
            ).fetchall()
            return [
                Entry(name, task, reference, self._composed(event), reason, reserved, committed)
                for name, task, reference, event, reason, reserved, committed in rows
            ]

    def to_json(self) -> Json:
        """Accounts with what is left, and every entry: what `fedinfer privacy ledger` shows."""
        terms = {(owner, task): self._account(owner, task) for owner, task, _ in self.accounts()}
        spent = {(owner, task): self.spent(owner, task) for owner, task in terms}
        return ledger_json(terms, spent, self.entries(None))

    def _account(self, owner: str, task: str) -> Terms:
        with self._lock:
            terms = self._terms([owner], task)
        if owner not in terms:
            raise ConfigError(f"no account {owner}/{task}")
        return terms[owner]

    # Below: the lock is held.

    def _afford(self, owners: Sequence[str], task: str, event: int, offered: int | None) -> dict[str, Refusal | None]:
        if task == ANY_TASK:
            raise ConfigError(f"{ANY_TASK!r} limits all tasks; nothing is reserved for it")
        terms = self._terms(owners, task)
        for owner in owners:
            if owner not in terms:
                raise ConfigError(f"no account {owner}/{task}", hint="open the account before reserving")
        # Both limits must hold: that of the task, and that over all tasks where the owner has one.
        verdicts = self._judge(terms, task, event, offered)
        over_all = self._judge(self._terms(owners, ANY_TASK), ANY_TASK, event, offered)
        return {owner: verdicts[owner] or over_all.get(owner) for owner in owners}

    def _judge(
        self, terms: Mapping[str, Terms], task: str, event: int, offered: int | None
    ) -> dict[str, Refusal | None]:
        """Owners with equal history, promise and budget share one computation: a fleet has few different histories."""
        counts = self._counts(list(terms), task)
        made = {} if offered is None else promises_of(self._connection, list(terms), task, offered, set(counts))
        # Terms are one object for equal accounts (`terms_of`), which is quicker to look up than what is in them.
        known: dict[tuple[tuple[tuple[int, int], ...], int, int | None], str] = {}
        verdicts: dict[str, Refusal | None] = {}
        for owner, own in terms.items():
            key = (counts.get(owner, ()), id(own), made.get(owner))
            if key not in known:
                known[key] = self._excess(key[0], event, own.budget, own.protects.relation, key[2])
            verdicts[owner] = BudgetExceeded(f"{owner}/{task}: {known[key]}") if known[key] else None
        return verdicts

    def _excess(
        self,
        counts: tuple[tuple[int, int], ...],
        event: int,
        budget: Budget,
        relation: Relation,
        promise: int | None,
    ) -> str:
        """Empty when the budget allows one more `event`, otherwise the figures."""
        history = self._history((*counts, (event, 1)))
        why = ""
        if promise is not None:
            if not (why := refusal(history, promise_at(self._connection, promise), budget, relation)):
                return ""
            why = f"; the server may choose noise by what it saw, and {why}"
        # Rényi bounds are quick and valid; the costly accountant is asked only when they say no.
        elif rdp_history_epsilon(history, budget.delta, relation) <= budget.epsilon:
            return ""
        after = account_history(history, budget.delta, relation).epsilon
        if after <= budget.epsilon and promise is None:
            return ""
        before = account_history(self._history(counts), budget.delta, relation).epsilon
        return (
            f"epsilon {at_most(before, 6)} spent, {at_most(after, 6)} with this request, "
            f"budget {exactly(budget.epsilon)} at {exactly(budget.delta)}{why}"
        )

    def _terms(self, owners: Sequence[str], task: str) -> dict[str, Terms]:
        rows = select_in(self._connection, self._terms_query, owners, task)
        return {owner: terms_of(epsilon, delta, relation, unit) for owner, epsilon, delta, relation, unit in rows}

    def _used(self, owners: Sequence[str], task: str, reference: str) -> set[str]:
        query = "SELECT owner FROM ledger_entries WHERE task = ? AND reference = ? AND owner IN ({})"
        return {row[0] for row in select_in(self._connection, query, owners, task, reference)}

    def _counts(self, owners: Sequence[str], task: str) -> dict[str, tuple[tuple[int, int], ...]]:
        """How often each owner reserved each event: ((event id, count), ...) sorted by id."""
        counts: dict[str, list[tuple[int, int]]] = {}
        named = () if task == ANY_TASK else (task,)
        query = COUNTS_OF_TASK if named else COUNTS_OF_ALL
        for owner, event, count in select_in(self._connection, query, owners, *named):
            counts.setdefault(owner, []).append((event, count))
        return {owner: tuple(pairs) for owner, pairs in counts.items()}

    def _event_id(self, event: Composed) -> int:
        return number_of(self._connection, "ledger_events", event_to_json(event))

    def _history(self, counts: Iterable[tuple[int, int]]) -> History:
        return flatten([Repeated(self._composed(event), count) for event, count in counts])

    def _composed(self, event: int) -> Event:
        """Events are never changed, so those read once are kept."""
        if event not in self._events:
            row = self._connection.execute("SELECT json FROM ledger_events WHERE id = ?", (event,)).fetchone()
            self._events[event] = event_from_json(row[0])
        return self._events[event]
