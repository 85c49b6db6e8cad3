"""What is wrong with a scenario, in words: file, section, key, value, rule, and the nearest valid key."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from fedinfer.config.layers import KeyPath, Layers
from fedinfer.config.sections import Scenario

LONGEST_VALUE = 80


def describe(problem: ErrorDetails, layers: Layers, source: str) -> str:
    """One line for one problem that pydantic found.

    Args:
        problem: as pydantic reports it.
        layers: say which file or option a value came from.
        source: to name where no layer set the value.
    """
    path = tuple(str(part) for part in problem["loc"])
    origin = layers.origin(path, source)
    if problem["type"] == "extra_forbidden":
        return f"{origin}: unknown {_name(path)}{_suggestion(path)}"
    rule = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if problem["type"] == "value_error" and len(path) < 2:
        return f"{origin}: {_name(path)}: {rule}"
    example = _example(path, problem) if origin.startswith("--set ") else ""
    return f"{origin}: {_name(path)} = {_shown(problem['input'])}: {rule}{example}"


def _example(path: KeyPath, problem: ErrorDetails) -> str:
    """An option that a shell passes on as a value of the right kind, made of the words that were given."""
    kind, words = problem["type"], re.findall(r"[^\s,\[\](){}\"']+", str(problem["input"]))
    if kind in ("tuple_type", "list_type"):
        value = f"'{json.dumps(words or ['a', 'b'], ensure_ascii=False)}'"
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        value = "'{ COLUMN = [0, 1] }'"
    elif kind.startswith("bool"):
        value = "true"
    elif kind.startswith(("int", "float")):
        value = "3" if kind.startswith("int") else "0.5"
    elif kind == "string_type":
        value = f"'\"{words[0] if words else 'text'}\"'"
    else:
        return ""
    return f"; for instance --set {'.'.join(path)}={value}"


def section_of(path: KeyPath) -> type[BaseModel] | None:
    """The section class that holds the keys below `path`; None where there is none.

    Args:
        path: keys from the outermost section inwards; empty: the scenario itself.
    """
    model: type[BaseModel] = Scenario
    for name in path:
        if name not in model.model_fields:
            return None
        inner = _model_in(model.model_fields[name].annotation)
        if inner is None:
            return None
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _name(path: KeyPath) -> str:
    if not path:
        return "scenario"
    if section_of(path) is not None or len(path) == 1:
        return f"section [{'.'.join(path)}]"
    section = next(path[:n] for n in range(len(path) - 1, 0, -1) if section_of(path[:n]) is not None)
    return f"key [{'.'.join(section)}] {'.'.join(path[len(section) :])}"


def _suggestion(path: KeyPath) -> str:
    """The nearest valid key in the same section, else a section elsewhere that has this very key."""
    section = section_of(path[:-1])
    names = [name for name in section.model_fields if name != "base"] if section else []
    near = difflib.get_close_matches(path[-1], names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    homes = [name for name in Scenario.model_fields if _has_key(name, path[-1])]
    if homes:
        return f"; it belongs to [{homes[0]}]"
    return f"; valid: {', '.join(names)}"


def _has_key(section: str, key: str) -> bool:
    model = section_of((section,))
    return model is not None and key in model.model_fields


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
