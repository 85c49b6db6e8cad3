"""A run folder in one page: run.json, events.jsonl and the ledger become a self-contained report.html.

Reads files and imports no engine. The page makes no request to anywhere, needs no script and prints well.
"""

from fedinfer.report.page import write_report

__all__ = ["write_report"]
