"""The scripts behind `make bench` and `make test`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.blocks import ROOT


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_benchmark_section_is_added_then_replaced_and_nothing_else_changes() -> None:
    bench = _script("bench")
    page = bench.replace_section("# Benchmarks\n\nText.\n", "one", "first")
    page = bench.replace_section(page, "two", "second")
    page = bench.replace_section(page, "one", r"new \1 figures")
    assert page.startswith("# Benchmarks\n\nText.\n\n## One\n\n<!-- begin one -->\nnew \\1 figures\n<!-- end one -->\n")
    assert page.endswith("## Two\n\n<!-- begin two -->\nsecond\n<!-- end two -->\n")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('print("talk"); print(\'{"ratio": 41.5, "peer": null}\')', {"ratio": 41.5, "peer": None}),
        ('print("no figures")', None),
        ("print('[1]')", None),
        ("print('{\"ratio\": 1}'); raise SystemExit(3)", None),
    ],
)
def test_figures_are_the_last_line_of_a_benchmark_that_ends_well(
    code: str, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _script("bench")
    (tmp_path / "sample.py").write_text(code)
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert bench.run("sample") == expected


def test_a_failed_benchmark_keeps_the_page_and_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _script("bench")
    (tmp_path / "good.py").write_text("print('{\"ratio\": 2.0}')")
    (tmp_path / "bad.py").write_text("raise SystemExit(1)")
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    assert bench.main() == 1
    assert "| ratio | 2 |" in page.read_text()
    assert "bad" not in page.read_text()


def test_objects_of_objects_and_lists_become_tables() -> None:
    floor = {"run": {"us": 3.14159}, "deep": {"other": {"ms": None}}}
    text = _script("bench").body("sample", {"n": 3, "floor": floor, "kinds": [{"kind": "a", "us": 1.5}]})
    assert "| n | 3 |" in text
    assert "floor:\n\n| name | us |\n|---|---|\n| run | 3.142 |" in text
    assert "floor.deep:\n\n| name | ms |\n|---|---|\n| other | not run |" in text
    assert "kinds:\n\n| kind | us |\n|---|---|\n| a | 1.5 |" in text
    assert "{" not in text


def test_the_test_groups_cover_every_marker_once() -> None:
    groups = _script("run_tests").GROUPS
    expressions = [group[group.index("-m") + 1] for group in groups.values()]
    for slow in (False, True):
        for alone in (False, True):
            names = {"slow": slow, "e2e": alone, "browser": False, "token": False}
            chosen = [eval(expression, {}, names) for expression in expressions]
            assert chosen.count(True) == 1, names


def test_pins_cover_what_the_project_asks_for() -> None:
    done = _script("freeze")
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {"torch", "flwr", "opacus", "onnxruntime", "numpy", "pytest"} <= pins
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    assert "://" not in (ROOT / "constraints.txt").read_text()
    assert callable(done.main)
