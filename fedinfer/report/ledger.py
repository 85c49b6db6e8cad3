"""The server's ledger as a table: every release, what it was for, and what it cost."""

from __future__ import annotations

from fedinfer.report.figures import rows, significant, words
from fedinfer.report.markup import Markup
from fedinfer.report.reading import RunFiles
from fedinfer.report.tables import Column, table

LEDGER: tuple[Column, ...] = (
    ("Entry", "reference", words),
    ("Task", "task", words),
    ("Reason", "reason", words),
    ("State", "state", words),
    ("What the mechanism did", "event", words),
    ("Epsilon so far", "epsilon", significant),
    ("Time", "time", words),
)


def ledger_table(found: RunFiles) -> Markup:
    """The entries that the run wrote; an entry stays spent even when its round was aborted."""
    return table(
        "Entries of the server's ledger, oldest first", LEDGER, rows(found.run, "ledger"), "No entry was recorded."
    )
