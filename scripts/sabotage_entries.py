"""What `scripts/sabotage.py` does to the product: entries of tests/sabotage/*.toml, and the rows that they are about.

One file per section of docs/threat-model.md, and some for claims made elsewhere (`section` is missing there):

    section = "A malicious server against one device"

    [[sabotage]]
    claim = "ask twice"                     # first cell of a row of the section
    what = "unmask is answered again"       # what is taken away
    file = "fedinfer/secagg/device.py"
    within = "unmask"                       # function or class that `old` is looked for in; may be left out
    old = "..."                             # exact text that occurs once there
    new = "..."
    tests = ["tests/...::test_..."]         # each of them fails then
    hangs = true                            # running into the time limit is failing; may be left out
    slow = true                             # needs more than half a minute; may be left out
    also = [{file = ..., old = ..., new = ...}]   # further places, where only all together are the guard

    [[exception]]
    claim = "..."
    tests = ["tests/...::test_..."]         # that no entry makes fail
    reason = "..."
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = "tests/sabotage"
PAGE = "docs/threat-model.md"
_TABLES = ("| it tries to |", "| message | what the server reads |")
_TEST = re.compile(r"`(tests/[\w/]+\.py::\w+)`")


@dataclass(frozen=True, slots=True)
class Edit:
    """Another text in one file.

    Args:
        file: path from the root.
        within: qualified name of the function or class that the text is in; "" for anywhere.
        old, new: the text and what comes in its place.
    """

    file: str
    within: str
    old: str
    new: str

    def places(self, source: str) -> list[int]:
        """Where the text occurs."""
        start, end = _span(source, self.within) if self.within else (0, len(source))
        return [at for at in _occurrences(source, self.old) if start <= at and at + len(self.old) <= end]

    def applied(self, source: str) -> str:
        """The source with the new text.

        Raises:
            ValueError: when the old one is not there exactly once, or the result is no Python.
        """
        places = self.places(source)
        if len(places) != 1:
            raise ValueError(f"{self.file}: {len(places)} times instead of once: {self.old!r}")
        changed = source[: places[0]] + self.new + source[places[0] + len(self.old) :]
        if self.file.endswith(".py"):
            ast.parse(changed)
        return changed


@dataclass(frozen=True, slots=True)
class Sabotage:
    """A guard put back to wrong, and the tests that notice it."""

    topic: str
    section: str
    claim: str
    what: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    hangs: bool
    slow: bool

    @property
    def title(self) -> str:
        return f"{self.topic}: {self.claim}: {self.what}"

    def sources(self, root: Path) -> dict[str, str]:
        """The changed files, by path from the root.

        Raises:
            ValueError: as Edit.applied.
        """
        changed: dict[str, str] = {}
        for edit in self.edits:
            source = changed.get(edit.file) or (root / edit.file).read_text(encoding="utf-8")
            changed[edit.file] = edit.applied(source)
        return changed


@dataclass(frozen=True, slots=True)
class Exemption:
    """Tests of a row that no entry makes fail, and why not."""

    section: str
    claim: str
    tests: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the threat model with the tests that it names."""

    section: str
    claim: str
    tests: tuple[str, ...]


def load(root: Path) -> tuple[list[Sabotage], list[Exemption]]:
    """All entries and exemptions, in the order of the files' names."""
    entries: list[Sabotage] = []
    exemptions: list[Exemption] = []
    for path in sorted((root / FOLDER).glob("*.toml")):
        held = tomllib.loads(path.read_text(encoding="utf-8"))
        section = held.get("section", "")
        entries += [_entry(path.stem, section, values) for values in held.get("sabotage", [])]
        exemptions += [
            Exemption(section, values["claim"], tuple(values["tests"]), values["reason"])
            for values in held.get("exception", [])
        ]
    return entries, exemptions


def _entry(topic: str, section: str, values: Mapping[str, Any]) -> Sabotage:
    edits = [_edit(each) for each in (values, *values.get("also", []))]
    options = values.get("hangs", False), values.get("slow", False)
    return Sabotage(topic, section, values["claim"], values["what"], tuple(edits), tuple(values["tests"]), *options)


def _edit(values: Mapping[str, Any]) -> Edit:
    return Edit(values["file"], values.get("within", ""), values["old"], values["new"])


def rows(page: str) -> list[Row]:
    """Rows of the tables of attacks and of messages."""
    found: list[Row] = []
    section, inside = "", False
    for line in page.splitlines():
        section = line[3:] if line.startswith("## ") else section
        inside = line.startswith("|") and (inside or line.startswith(_TABLES))
        if inside and not line.startswith((*_TABLES, "|---")):
            found.append(Row(section, line.split(" | ")[0].removeprefix("| "), tuple(_TEST.findall(line))))
    return found


def _occurrences(source: str, text: str) -> Iterator[int]:
    at = source.find(text)
    while at >= 0:
        yield at
        at = source.find(text, at + 1)


@cache
def _span(source: str, name: str) -> tuple[int, int]:
    """First and last character of a function or class with this qualified name; nothing when it is not there."""
    body: list[ast.stmt] = ast.parse(source).body
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | None = None
    for part in name.split("."):
        named = (n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
        node = next((n for n in named if n.name == part), None)
        if node is None:
            return 0, 0
        body = node.body
    assert node is not None
    assert node.end_lineno is not None
    lines = source.splitlines(keepends=True)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return len("".join(lines[: first - 1])), len("".join(lines[: node.end_lineno]))
