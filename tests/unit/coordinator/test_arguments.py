"""Arguments are what a function needs: only what leads a whole use case takes the whole server."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fedinfer.coordinator

ROOT = Path(fedinfer.coordinator.__file__).parent
FEWEST_FIELDS = 3
"""A function that reads fewer fields of the server takes those."""
LEADS = {
    "_evaluate_wave", "_first_state", "_one_step", "_report", "_roll_out", "_settle", "_settled", "_window", "attended",
    "attentive", "build", "carry_out", "carry_out_starts", "choose_log_odds", "closing", "drive", "drive_ordered",
    "evaluate_canaries", "first_progress", "heed", "publish_version", "push_version", "release", "reuse_version",
    "roll_out", "starter", "take_up", "training_round", "window", "write_unfinished",
}  # fmt: skip
"""Functions that hand the whole server on: each leads several steps that need different parts of it."""


@dataclass(frozen=True)
class Use:
    """How one function uses its `server`."""

    where: str
    name: str
    fields: frozenset[str]
    hands_on: bool


def uses() -> Iterator[Use]:
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and takes_server(node):
                yield use_of(node, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")


def takes_server(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = function.args
    everything = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    hints = [ast.unparse(each.annotation) for each in everything if each.annotation is not None]
    return any(re.search(r"\bServer\b", hint) for hint in hints)


def use_of(function: ast.FunctionDef | ast.AsyncFunctionDef, where: str) -> Use:
    reads = [
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "server"
    ]
    mentions = sum(isinstance(node, ast.Name) and node.id == "server" for node in ast.walk(function))
    return Use(where, function.name, frozenset(reads), mentions > len(reads))


def test_what_reads_at_most_two_fields_of_the_server_takes_those() -> None:
    few = [use.where for use in uses() if len(use.fields) < FEWEST_FIELDS and not use.hands_on]
    assert few == []


def test_only_what_leads_a_use_case_hands_the_whole_server_on() -> None:
    assert {use.name for use in uses() if use.hands_on} == LEADS
