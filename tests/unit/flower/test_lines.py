"""Every line of Flower's processes becomes a line with time, level and run."""

from __future__ import annotations

import io
import logging

import pytest

from fedinfer.flower.lines import read_line, relay


@pytest.mark.parametrize(
    ("line", "level", "run", "text"),
    [
        ("\x1b[93mWARNING \x1b[0m:   Connection attempt failed\n", logging.WARNING, "-", "Connection attempt failed"),
        ("INFO 2026-11-28 02:33:34,187:      [Fleet] node_id=15281155367398799577", logging.INFO, "-",
         "[Fleet] node_id=15281155367398799577"),
        ("INFO 2026-11-28 02:33:35,172:      Finished task 12 of run 9846443914211700238", logging.INFO,
         "9846443914211700238", "Finished task 12 of run 9846443914211700238"),
        ("2026-11-28T02:33:54.436Z INFO [uvicorn.error] Stop", logging.INFO, "-", "[uvicorn.error] Stop"),
        ("ERROR :     start run_id=123456789", logging.ERROR, "123456789", "start run_id=123456789"),
        ("Traceback (most recent call last):", logging.INFO, "-", "Traceback (most recent call last):"),
        ("INFORMATION", logging.INFO, "-", "INFORMATION"),
    ],
)  # fmt: skip
def test_a_line_is_taken_apart(line: str, level: int, run: str, text: str) -> None:
    found = read_line(line)
    assert (found.level, found.run, found.text) == (level, run, text)


def test_every_line_is_logged_and_empty_ones_are_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flower"):
        relay(io.BytesIO(b"ERROR : one\n\n\xff two")).join()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "one"),
        ("INFO", "\ufffd two"),
    ]
