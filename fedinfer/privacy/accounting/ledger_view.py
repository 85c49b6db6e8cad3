"""A ledger as JSON: what `fedinfer privacy ledger` and the report show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedinfer.privacy.accounting.accountant import Spent, account
from fedinfer.privacy.accounting.events import to_json
from fedinfer.privacy.accounting.ledger_records import Budget, Entry, Terms
from fedinfer.types import Json

Key = tuple[str, str]
"""Owner and task of an account."""


def left_of(budget: Budget, spent: Spent) -> float:
    """Epsilon of a budget minus epsilon spent, >= 0.

    Args:
        budget: of an account.
        spent: of the account.
    """
    return 0.0 if spent.epsilon == math.inf else max(0.0, budget.epsilon - spent.epsilon)


def ledger_json(terms: Mapping[Key, Terms], spent: Mapping[Key, Spent], entries: Sequence[Entry]) -> Json:
    """Accounts with what is left, and every entry.

    Args:
        terms: of every account.
        spent: by every account.
        entries: of all accounts.
    """
    return {
        "accounts": [_account_json(key, own, spent[key]) for key, own in terms.items()],
        "entries": [_entry_json(entry, terms[entry.owner, entry.task]) for entry in entries],
    }


def _account_json(key: Key, terms: Terms, spent: Spent) -> Json:
    return {
        "owner": key[0],
        "task": key[1],
        "budget": {"epsilon": terms.budget.epsilon, "delta": terms.budget.delta},
        "unit": str(terms.protects.unit),
        "spent": spent.to_json(),
        "remaining_epsilon": left_of(terms.budget, spent),
    }


def _entry_json(entry: Entry, terms: Terms) -> Json:
    alone = account([entry.event], terms.budget.delta, terms.protects.relation)
    return {
        "owner": entry.owner,
        "task": entry.task,
        "reference": entry.reference,
        "reason": entry.reason,
        "event": to_json(entry.event),
        "epsilon_alone": alone.epsilon,
        "reserved_at": entry.reserved_at,
        "committed_at": entry.committed_at or None,
    }
