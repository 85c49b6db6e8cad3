"""The server's ledger as tables: what was spent of which budget, and every release that spent it."""

from __future__ import annotations

from fedinfer.report.figures import bound, exact_figure, lower_bound, number, rows, section, significant, whole, words
from fedinfer.report.markup import Markup, join
from fedinfer.report.tables import Column, table
from fedinfer.types import Json

ACCOUNTS: tuple[Column, ...] = (
    ("Account", "owner", words),
    ("Budget", "budget", exact_figure),
    ("Spent", "spent", bound),
    ("Left", "left", lower_bound),
    ("Delta", "delta", bound),
    ("Relation", "relation", words),
    ("Accountant", "accountant", words),
)
ENTRIES: tuple[Column, ...] = (
    ("Entry", "reference", words),
    ("What for", "reason", words),
    ("What the mechanism did", "mechanism", words),
    ("Epsilon alone", "epsilon_alone", bound),
    ("State", "state", words),
    ("Reserved at", "reserved_at", words),
)


def ledger_tables(ledger: Json) -> Markup:
    """Accounts and entries; an entry stays spent when its round was aborted.

    Args:
        ledger: as `Ledger.to_json` gives it.
    """
    accounts = [_account(row) for row in rows(ledger, "accounts")]
    entries = [_entry(row) for row in rows(ledger, "entries")]
    return join(
        table("Accounts", ACCOUNTS, accounts, "No account was read."),
        table(
            "Entries, oldest first; an entry stays spent when its round was aborted",
            ENTRIES,
            entries,
            "No entry was read.",
        ),
    )


def mechanism_words(event: Json) -> str:
    """An event in words, for instance "Poisson sampling 0.1 of: Skellam noise, variance 2.1e6, l2 1024, l1 9000".

    Args:
        event: as `Event.to_json` gives it; composed events are named part by part.
    """
    kind, inner = words(event.get("kind")), section(event, "event")
    if kind == "composed":
        return "; ".join(mechanism_words(part) for part in rows(event, "events"))
    if kind == "poisson_sampled":
        return f"Poisson sampling {significant(event.get('rate'))} of: {mechanism_words(inner)}"
    if kind == "repeated":
        return f"{whole(event.get('count'))} times: {mechanism_words(inner)}"
    figures = [f"{key} {significant(value)}" for key, value in event.items() if number(value) is not None]
    return ", ".join([kind.replace("_", " "), *figures])


def _account(row: Json) -> Json:
    spent, budget = section(row, "spent"), section(row, "budget")
    return {
        "owner": row.get("owner"),
        "budget": budget.get("epsilon"),
        "spent": spent.get("epsilon"),
        "left": row.get("remaining_epsilon"),
        "delta": budget.get("delta"),
        "relation": spent.get("relation"),
        "accountant": spent.get("accountant"),
    }


def _entry(row: Json) -> Json:
    return {
        "reference": row.get("reference"),
        "reason": row.get("reason"),
        "mechanism": mechanism_words(section(row, "event")),
        "epsilon_alone": row.get("epsilon_alone"),
        "state": "spent" if row.get("committed_at") else "spent (reserved, never finished)",
        "reserved_at": words(row.get("reserved_at"))[:19].replace("T", " "),
    }
