"""The table of faults: rows of stories that were not run again stay as they are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT


def test_the_table_of_faults_keeps_the_rows_that_were_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("script_faults", ROOT / "scripts/faults.py")
    assert spec is not None
    assert spec.loader is not None
    faults, page = importlib.util.module_from_spec(spec), tmp_path / "page.md"
    spec.loader.exec_module(faults)
    old = ["| 10 | a | b | nothing | nothing | 3 | d |", "| new | a | b | nothing | nothing | 3 | d |"]
    page.write_text("\n".join(["before", "<!-- begin faults -->", faults.HEADER, *old, "<!-- end faults -->", "after"]))
    monkeypatch.setattr(faults, "PAGE", page)
    faults.write(["| 3, 4 | c | b | nothing | nothing | 3 | d |", "| 10 | again | b | nothing | nothing | 3 | d |"])
    text = page.read_text()
    assert [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")][1:] == [
        ["| 3, 4", "c"], ["| 10", "again"], ["| new", "a"],
    ]  # fmt: skip
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
