"""`python -m fedinfer.cli.worker`: answers the messages of a device's node; its agent starts and ends it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

COMMAND = (sys.executable, "-m", "fedinfer.cli.worker")


def main(words: Sequence[str]) -> None:
    """Answer until the agent closes its end.

    Args:
        words: arguments.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--store", "--folder"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--api", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--reply", type=int, required=True)
    said = parser.parse_args(words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent ends this process
    from fedinfer.flower import end_with_parent, log_to_stderr

    end_with_parent(said.parent)  # also in the middle of a message: the next agent has a worker of its own

    from fedinfer.apps import client_app
    from fedinfer.deployment import Loopback, answer_messages

    log_to_stderr()
    with os.fdopen(said.reply, "wb") as replies:
        answer_messages(said.store, client_app(), Loopback(said.folder), said.api, sys.stdin.buffer, replies)


if __name__ == "__main__":
    main(sys.argv[1:])
