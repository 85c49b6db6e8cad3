"""Raw cells are read as in training, or the version is not published; tree thresholds are compared on doubles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from fedinfer.artifact.evaluate import replay as module
from fedinfer.artifact.evaluate.replay import replay
from fedinfer.artifact.export.estimators import export_estimator
from fedinfer.artifact.export.graph import run
from fedinfer.errors import GateFailed
from fedinfer.reading import CellRule, RawTable, ReadingRules
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.system import simulation_rng

RULES = ReadingRules(
    delimiter=";",
    decimal=",",
    thousands=".",
    missing_values=(("lab", (-200.0,)),),
    times=(("day", "days since 2024-01-01 as %d.%m.%Y"),),
    offsets=(("epoch", 1.7e9),),
)
SCHEMA = Schema(
    (
        Numeric("lab", -50, 5000),
        Numeric("day", 0, 366),
        Numeric("epoch", 0, 60),
        Categorical("ward", ("1_1", "1_2", "True", "7", "ä;b")),
    ),
    "y",
    ("no", "yes"),
    reading=RULES,
)


def test_a_schema_with_every_rule_passes() -> None:
    assert replay(SCHEMA, Schema.from_json(SCHEMA.to_json())) > 100
    blanks = replace(SCHEMA, reading=replace(RULES, quote="", thousands=" "))
    assert replay(blanks, Schema.from_json(blanks.to_json())) > 100


@pytest.mark.parametrize(
    ("unit", "drawn"), [("%", "%"), ("()", "("), ("()$", "$)"), ("<>", "<"), ("<>mg", "mg"), ("<>()mg", "mg)")]
)
def test_every_kind_of_unit_can_be_published(unit: str, drawn: str) -> None:
    """Cells are written as the column may have them: beside the unit, in parentheses, as a limit."""
    schema = Schema((Numeric("x", -50, 50),), "y", ("0", "1"), reading=ReadingRules(units=(("x", unit),)))
    assert replay(schema, Schema.from_json(schema.to_json())) > 20
    cells = [cell for cell, _ in module._drawn(schema, 0, schema.cells()[0])]
    assert any(drawn in cell.replace(" ", "") for cell in cells)


def test_images_and_texts_have_no_cells() -> None:
    images = Schema((), "digit", ("0", "1"), shape=(1, 2, 2))
    assert replay(images, images) == 0


@pytest.mark.parametrize(
    "change", [{"decimal": ".", "thousands": ""}, {"missing_values": ()}, {"offsets": ()}, {"spellings": "exact"}]
)
def test_a_published_schema_of_other_rules_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(GateFailed, match="schema of the finished file"):
        replay(SCHEMA, replace(SCHEMA, reading=replace(RULES, **change)))


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_device_that_read_a_cell_otherwise_would_be_refused(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """The gate itself: one column's cells are read with the rules of an older device, and it says which."""
    real, name = CellRule.reader, SCHEMA.columns[place].name

    def older(rule: CellRule):
        if rule.name == name:
            rule = replace(rule, rules=ReadingRules(decimal=",", thousands=".", spellings="exact"))
        return real(rule)

    trained = {rule.name: real(rule) for rule in SCHEMA.cells()}
    columns = lambda table, rule: np.array(  # noqa: E731
        [trained[rule.name](cell) for cell in table.columns[rule.name]], np.float32
    )
    monkeypatch.setattr(module, "read_column", columns)
    monkeypatch.setattr(CellRule, "reader", older)
    with pytest.raises(GateFailed, match=f"column {name}: .* in training, .* on a device"):
        replay(SCHEMA, SCHEMA)


def test_a_cell_that_is_not_what_was_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(table: RawTable, rule: CellRule):
        return np.full(table.rows, 1.0, np.float32)

    monkeypatch.setattr(module, "read_column", wrong)
    monkeypatch.setattr(CellRule, "reader", lambda rule: lambda cell: 1.0)
    with pytest.raises(GateFailed, match=r"column lab: .* stands for"):
        replay(SCHEMA, SCHEMA)


EPOCH = Schema(
    (Numeric("t", 0, 60), Numeric("v", -5, 5)), "y", ("0", "1"), reading=ReadingRules(offsets=(("t", 1.7e9),))
)
RNG = simulation_rng("epochs")
RAW = np.column_stack([1.7e9 + RNG.uniform(0, 60, 800), RNG.normal(0, 1, 800)])
Y = (np.sin(RAW[:, 0] - 1.7e9) + RAW[:, 1] > 0).astype(int)
LINES = (RAW[:, 0] - 1.7e9 > 30 + 4 * RAW[:, 1]).astype(int)


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (HistGradientBoostingClassifier(max_iter=20, random_state=1), Y),
        (make_pipeline(StandardScaler(), LogisticRegression()), LINES),
        (make_pipeline(MinMaxScaler(), DecisionTreeClassifier(max_depth=5, random_state=1)), Y),
        (make_pipeline(SimpleImputer(), HistGradientBoostingClassifier(max_iter=9)), Y),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_offset_is_taken_off_the_thresholds_in_double_precision(estimator, y) -> None:
    estimator.fit(RAW[:600], y[:600])
    core = export_estimator(estimator, EPOCH, RAW)
    rows = (RAW - [1.7e9, 0]).astype(np.float32)
    found = run(core.model.SerializeToString(), rows, "logits").argmax(axis=1)
    assert (found == estimator.predict(RAW)).mean() >= 0.99
    assert len(set(found)) == 2


def test_a_boosted_tree_whose_column_float32_merges_is_refused() -> None:
    plain = Schema((Numeric("t", 1.6e9, 1.8e9), Numeric("v", -5, 5)), "y", ("0", "1"))
    estimator = HistGradientBoostingClassifier(max_iter=20, random_state=1).fit(RAW[:600], Y[:600])
    with pytest.raises(GateFailed, match="float32 merges values") as caught:
        export_estimator(estimator, plain, RAW)
    assert "offset" in caught.value.hint


def test_classic_boosting_rounds_its_own_rows_and_still_agrees_or_is_refused() -> None:
    estimator = GradientBoostingClassifier(n_estimators=5, random_state=1).fit(RAW[:600], Y[:600])
    try:
        core = export_estimator(estimator, EPOCH, RAW)
    except GateFailed:
        return
    rows = (RAW - [1.7e9, 0]).astype(np.float32)
    assert (run(core.model.SerializeToString(), rows, "logits").argmax(axis=1) == estimator.predict(RAW)).mean() >= 0.99
