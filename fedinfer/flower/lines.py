"""Lines that Flower's processes print, as lines of our own log: each gets time, level and the run that it speaks of."""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from typing import IO

from fedinfer.flower.service import NO_RUN, run_of_log

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^(?:\S+T\S+Z )?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[ :]*(?:\d{4}-\d\d-\d\d [\d:,]+)?[ :]*")
_RUN = re.compile(r"\brun[ _](?:id[ =:]*)?(\d{6,20})\b")
_log = logging.getLogger("flower")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a Flower process.

    Args:
        level: of `logging`; INFO where it names none.
        run: that it names; NO_RUN where it names none.
        text: without colours, level and time of its own.
    """

    level: int
    run: str
    text: str


def read_line(line: str) -> LogLine:
    """Take a line apart.

    Args:
        line: as printed.
    """
    plain = _COLOUR.sub("", line).rstrip()
    found, run = _LEVEL.match(plain), _RUN.search(plain)
    level = logging.getLevelNamesMapping()[found[1]] if found else logging.INFO
    return LogLine(level, run[1] if run else NO_RUN, plain[found.end() :] if found else plain)


def relay(stream: IO[bytes]) -> threading.Thread:
    """Log every line of a process until it closes its end.

    Args:
        stream: what it prints.

    Returns:
        The thread that does.
    """
    thread = threading.Thread(target=_relay, args=(stream,), name="lines of Flower", daemon=True)
    thread.start()
    return thread


def _relay(stream: IO[bytes]) -> None:
    with stream:
        for data in stream:
            line = read_line(data.decode(errors="replace"))
            if line.text:
                run_of_log.set(line.run)
                _log.log(line.level, "%s", line.text)
