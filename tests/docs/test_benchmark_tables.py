"""The benchmark of tables goes on where it was stopped, and tells what other code measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """By its path: some installed package is called benchmarks too. It measures by counting."""
    spec = importlib.util.spec_from_file_location("bench", Path(__file__).parents[2] / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DONE", tmp_path / "done")
    asked: list[str] = []

    def measured(folder: Path, frame: object, label: str, device: str) -> dict[str, Any]:
        asked.append(label)
        return {"rows": len(asked), "fedinfer": 0.8, "linear": 0.81, "boosted": 0.9, "alarms": 0}

    monkeypatch.setattr(module, "measured", measured)
    monkeypatch.setattr(module, "asked", asked, raising=False)
    return module


def go(tables: ModuleType, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    sys.argv = ["tables.py", *words]
    assert tables.main() == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_what_is_done_is_not_done_again(tables, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    first = go(tables, capsys, "wine", "rare")
    assert first["tables_run"] == first["within_0.02_of_linear"] == 2
    assert first["within_0.02_of_boosted"] == first["rows_of_earlier_code"] == 0
    again = go(tables, capsys, "wine", "rare", "many")
    assert len(tables.asked) == 3
    assert again["tables"]["wine"] == first["tables"]["wine"]
    assert go(tables, capsys, "--fresh", "wine")["tables"]["wine"]["rows"] == 4


def test_rows_of_other_code_are_measured_again_or_counted(tables, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    go(tables, capsys, "wine")
    monkeypatch.setattr(tables, "digest", lambda: "other")
    kept = go(tables, capsys, "--keep", "wine", "rare")
    assert (kept["rows_of_earlier_code"], len(tables.asked)) == (1, 2)
    assert go(tables, capsys, "wine")["rows_of_earlier_code"] == 0
    assert len(tables.asked) == 3


def test_a_table_that_does_not_end_is_stopped_and_said(tables, tmp_path, monkeypatch) -> None:
    """By processor time: a busy machine makes no table slow."""
    monkeypatch.setattr(tables, "MOST_CPU_SECONDS", 1)
    monkeypatch.setattr(tables, "FEDINFER", [sys.executable, "-c", "while True: pass"])
    with pytest.raises(TimeoutError, match="fedinfer init took more than 1 s of a processor"):
        tables.called(tmp_path, ["init"])
    rows = {"a": {"rows": 5, "stopped": "fedinfer run took more than 1 s of a processor"}}
    found = tables.summary(rows)
    assert (found.pop("tables_stopped"), set(found.values())) == (1, {0})


def test_what_a_command_took_is_its_own(tables, tmp_path, monkeypatch) -> None:
    """Not that of the largest command before it, nor that of the process that starts it, which is large here."""
    held = bytearray(b"x" * (150 << 20))
    for size in (100, 1):
        monkeypatch.setattr(tables, "FEDINFER", [sys.executable, "-c", f"x = b'x' * ({size} << 20); print(len(x))"])
        printed, spent = tables.called(tmp_path, [])
        assert (int(printed) >> 20, spent.mb > 100) == (size, size == 100)
    assert len(held) > spent.mb * (1 << 20)
    monkeypatch.setattr(tables, "FEDINFER", [sys.executable, "-c", "raise SystemExit('no such table')"])
    with pytest.raises(SystemExit, match="exit 1\nno such table"):
        tables.called(tmp_path, ["init"])


def test_a_name_that_is_no_table_is_refused(tables, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--all", "wein"])
    with pytest.raises(SystemExit, match="--all, wein: no such table or option"):
        tables.main()
