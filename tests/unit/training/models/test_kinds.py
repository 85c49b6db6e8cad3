"""A model kind is an entry of `KINDS`: whatever else has to know it is enumerated here, so half a kind fails."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from fedinfer.artifact.export.torch import Templates, export_core
from fedinfer.artifact.quantize.quantize import prepare
from fedinfer.artifact.quantize.schemes import INT8_RECIPES, family_of
from fedinfer.config import ModelKind, ModelSection, TrainingSection
from fedinfer.errors import ConfigError
from fedinfer.training import load_trainer
from fedinfer.training.models import build
from fedinfer.training.models.build import KINDS, build_model
from tests.unit.training.factories import BATCHED, BY_KIND, TABLE, rows

ROOT = Path(__file__).parents[4]
EVERY = pytest.mark.parametrize("kind", list(ModelKind))


def table_rows(page: str, heading: str) -> list[set[str]]:
    """First cells of every table of a page whose first column is called `heading`."""
    found: list[set[str]] = []
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] == heading:
            found.append(set())
        elif not line.startswith("|") and found and found[-1]:
            found.append(set())
        elif found and not re.fullmatch(r":?-+:?", cells[0]):
            found[-1].add(cells[0])
    return [names for names in found if names]


def keys_of(script: str, name: str) -> set[str]:
    """String or enum keys of a module's dictionary, read without running it."""
    for node in ast.parse((ROOT / script).read_text(encoding="utf-8")).body:
        target = getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0]
        if getattr(target, "id", "") == name and isinstance(node.value, ast.Dict):  # type: ignore[attr-defined]
            keys: list[Any] = list(node.value.keys)  # type: ignore[attr-defined]
            return {key.value if isinstance(key, ast.Constant) else str(ModelKind[key.attr]) for key in keys}
    raise AssertionError(f"{script} has no dictionary {name}")


def test_every_kind_has_an_entry() -> None:
    assert set(KINDS) == set(ModelKind)
    assert set(BY_KIND) == set(ModelKind), "tests of engines, export and models run over these schemas"


@EVERY
def test_the_core_gets_what_the_entry_says(kind: ModelKind) -> None:
    model = build_model(ModelSection(kind=kind, hidden=(6,)), BY_KIND[kind], 1)
    assert type(model.prepare) in KINDS[kind].prepares


@EVERY
def test_no_kind_falls_to_the_slow_engine_unsaid(kind: ModelKind) -> None:
    trainer = load_trainer(ModelSection(kind=kind, hidden=(6,)), BY_KIND[kind], TrainingSection(), 1)
    assert trainer.engine(BATCHED) is KINDS[kind].engine


@EVERY
def test_the_exported_graph_is_of_the_stated_family_and_has_recipes(kind: ModelKind) -> None:
    schema = BY_KIND[kind]
    trainer = load_trainer(ModelSection(kind=kind, hidden=(6,)), schema, TrainingSection(), 1)
    probe, _ = rows(schema, 8, 1)
    core = export_core(trainer.module(trainer.initial()), schema, probe, Templates()).model
    assert family_of(prepare(core)) is KINDS[kind].family
    assert INT8_RECIPES[KINDS[kind].family]


@pytest.mark.parametrize(("page", "tables"), [("docs/model-kinds.md", 2), ("docs/benchmarks.md", 1)])
def test_the_tables_of_kinds_have_a_row_for_every_kind(page: str, tables: int) -> None:
    assert sum(set(ModelKind) <= names for names in table_rows(page, "kind")) == tables


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("benchmarks/artifact.py", "DATA"),
        ("benchmarks/artifact.py", "HIDDEN"),
        ("simulations/model_kinds.py", "KINDS"),
        ("tests/scenarios/test_model_kinds.py", "KINDS"),
    ],
)
def test_every_kind_is_measured_and_goes_the_whole_way(script: str, name: str) -> None:
    assert keys_of(script, name) == set(ModelKind)


def test_a_kind_without_an_entry_is_refused_and_builds_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    section = ModelSection(kind=ModelKind.MLP)
    monkeypatch.setattr(build, "KINDS", {kind: entry for kind, entry in KINDS.items() if kind is not ModelKind.MLP})
    with pytest.raises(ConfigError, match=r"model.kind = 'mlp' has no entry in KINDS"):
        build_model(section, TABLE, 1)


@pytest.mark.parametrize("missing", ["build", "prepares", "engine", "family"])
def test_half_an_entry_is_no_kind(missing: str) -> None:
    whole = {name: getattr(KINDS[ModelKind.MLP], name) for name in ("build", "prepares", "engine", "family")}
    del whole[missing]
    with pytest.raises(TypeError, match=missing):
        build.KindEntry(**whole)
