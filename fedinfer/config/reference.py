"""docs/reference/scenario.md, made from the sections: every key, type, default and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedinfer.config.fleet import FleetClockSection, FleetDeviceSection
from fedinfer.config.operating import InjectSection
from fedinfer.config.rows import PartitionSection, SyntheticSection
from fedinfer.config.sections import Scenario

INTRODUCTION = """# Scenario reference

A scenario is one TOML file. Every key has a default, so a file holds only what differs. `fedinfer init` writes one for
your own table, `fedinfer validate` says what it would do.

- `extends = "heart"` as the first line reads that built-in (or file) first and lays this file over it, key by key.
- `fedinfer run heart --set privacy.epsilon=2 --set data.partition.devices=20` lays single keys on top.
- A relative `data.path` or `data.vocabulary` starts from the folder of the TOML that names it.
- An unknown key, a wrong type or a value out of bounds is an error that names file, key, value and rule (exit code 2).
- As Flower run config the same keys are dotted (`training.rounds = 5`), lists and tables are JSON text, and
  `scenario = "heart"` names what they are laid over.

Rules that need the data, checked before a run: `delta` < 1 / number of units; `cohort` <= number of devices; every
device has at least one training row; the label has two classes or more; pre-training and `qat_steps` have
public rows; injected drift fits the columns.

A simulated device's stream is drawn from its own held-out rows, never from training rows: without replacement inside
a window, anew for every window. A device with fewer held-out rows than `drift.window` shows all of them.
"""
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def reference_markdown() -> str:
    """The whole page."""
    sections = "\n".join(_section(name, model) for name, model in sections_of_scenario())
    return f"{INTRODUCTION}\n{sections}"


def sections_of_scenario() -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted name, class) of every section, in the order of the page."""
    for name, field in Scenario.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation
            yield from _inner.get(name, ())


_inner: dict[str, tuple[tuple[str, type[BaseModel]], ...]] = {
    "data": (("data.partition", PartitionSection), ("data.synthetic", SyntheticSection)),
    "drift": (("drift.inject", InjectSection),),
    "fleet": (("fleet.device", FleetDeviceSection), ("fleet.clock", FleetClockSection)),
}


def _section(name: str, model: type[BaseModel]) -> str:
    about = (model.__doc__ or "").strip().split(": ", 1)[-1]
    rows = [_row(key, field) for key, field in model.model_fields.items()]
    table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
    return f"## [{name}]\n\n{about[:1].upper()}{about[1:]}\n\n{table}\n"


def _row(key: str, field: FieldInfo) -> str:
    kind = f"{_type_name(field.annotation)} {_bounds(field.metadata)}".strip()
    return f"| `{key}` | {kind} | {_default(field)} | {field.description} |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "not set"
    if isinstance(value, float) and not 1e-3 <= abs(value) < 1e6 and value:
        return f"`{value:g}`"
    return f"`{json.dumps(value)}`"


def _type_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in inner if value)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(part) for part in inner if part is not NoneType and _type_name(part))
    if origin is tuple and len(inner) == 2 and inner[1] is not Ellipsis:
        return f"[{', '.join(_type_name(part) for part in inner)}]"
    if origin is tuple:
        return f"list of {_type_name(inner[0])}"
    if origin is dict:
        return f"table of {_type_name(inner[1])}"
    if hasattr(annotation, "__metadata__"):
        parts = [m for info in annotation.__metadata__ for m in getattr(info, "metadata", ())]
        return f"{_type_name(annotation.__origin__)} {_bounds(parts)}".strip()
    return _plain_name(annotation)


def _plain_name(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f'`"{member.value}"`' for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}[annotation]


def _bounds(metadata: list[Any]) -> str:
    found = [(sign, getattr(item, name)) for item in metadata for name, sign in BOUNDS.items() if hasattr(item, name)]
    return ", ".join(f"{sign} {limit:g}" for sign, limit in found)
