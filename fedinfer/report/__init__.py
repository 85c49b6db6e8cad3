"""A run folder in one page: run.json, events.jsonl and the ledger become a self-contained report.html.

Reads files and imports no engine. The page makes no request to anywhere, needs no script and prints well.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
