"""Entries of tests/sabotage fit the code, and every row of the threat model has one; nothing is run here."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from scripts import sabotage
from scripts.sabotage_entries import PAGE, Edit, Row, load, rows
from tests.docs.blocks import ROOT

ENTRIES, EXEMPTIONS = load(ROOT)
ROWS = {(row.section, row.claim): row for row in rows((ROOT / PAGE).read_text(encoding="utf-8"))}


@cache
def names_of_tests(file: Path) -> frozenset[str]:
    body = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("topic", sorted({entry.topic for entry in ENTRIES}))
def test_every_sabotage_can_be_applied_and_names_tests_that_exist(topic: str) -> None:
    for entry in ENTRIES:
        if entry.topic == topic:
            assert entry.sources(ROOT), entry.title
            assert all(edit.old != edit.new for edit in entry.edits), entry.title
            assert entry.tests, entry.title
            for test in entry.tests:
                file, name = test.split("::")
                assert name in names_of_tests(ROOT / file), test


def test_entries_of_a_section_are_about_its_rows_and_their_tests() -> None:
    for entry in [*ENTRIES, *EXEMPTIONS]:
        if entry.section:
            assert (entry.section, entry.claim) in ROWS, entry.claim
            assert set(entry.tests) <= set(ROWS[entry.section, entry.claim].tests), entry.claim


def test_no_two_entries_are_the_same() -> None:
    assert [title for title, times in Counter(entry.title for entry in ENTRIES).items() if times > 1] == []


def test_every_named_test_of_every_row_fails_by_some_sabotage() -> None:
    for key, row in ROWS.items():
        mine = [each for each in [*ENTRIES, *EXEMPTIONS] if (each.section, each.claim) == key]
        assert row.tests, row.claim
        assert set(row.tests) - {test for each in mine for test in each.tests} == set(), row.claim


def test_exemptions_are_few_and_give_reasons() -> None:
    assert len(EXEMPTIONS) < 8
    assert all(len(exemption.reason) > 40 for exemption in EXEMPTIONS)


def test_the_table_of_the_page_is_that_of_the_entries() -> None:
    """`python -m scripts.sabotage --write` writes it."""
    assert sabotage.table(ENTRIES) in sabotage.TABLE_PAGE.read_text(encoding="utf-8")


def test_rows_of_both_kinds_of_table_are_read_and_others_are_not() -> None:
    page = "\n".join(
        [
            "## One",
            "| party | trusted with |",
            "|---|---|",
            "| server | nothing |",
            "",
            "| it tries to | what stops it | test |",
            "|---|---|---|",
            "| read | a lock | `tests/a/b.py::test_c`, `tests/d.py::test_e` |",
            "## Two",
            "| message | what the server reads | why | test |",
            "|---|---|---|---|",
            "| `x` | y | z | none |",
        ]
    )
    assert rows(page) == [Row("One", "read", ("tests/a/b.py::test_c", "tests/d.py::test_e")), Row("Two", "`x`", ())]


def test_an_edit_is_refused_unless_its_text_occurs_once_where_it_should() -> None:
    source = "class A:\n    def f(self):\n        return 1\n\n\ndef g():\n    return 1\n"
    assert Edit("a.py", "g", "return 1", "return 2").applied(source).endswith("def g():\n    return 2\n")
    assert "f(self):\n        return 2" in Edit("a.py", "A.f", "return 1", "return 2").applied(source)
    for within, old, new in (
        ("", "return 1", "x"),
        ("h", "return 1", "x"),
        ("g", "return 1", "return ("),
        ("", "y", "z"),
    ):
        with pytest.raises((ValueError, SyntaxError)):
            Edit("a.py", within, old, new).applied(source)
