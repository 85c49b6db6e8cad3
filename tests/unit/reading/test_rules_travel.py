"""Reading rules inside schemas and manifests: they come back equal, and nothing odd comes in."""

from __future__ import annotations

import json

import pytest

from fedinfer.errors import ConfigError
from fedinfer.manifest.fields import demand_plain
from fedinfer.reading import DEFAULT_RULES, ReadingRules, offset_for
from fedinfer.schema import Categorical, Numeric, Schema

FULL = ReadingRules(
    delimiter=";",
    decimal=",",
    thousands=".",
    marks=(("price", ".,"),),
    units=(("price", "EUR"),),
    encoding="cp1252",
    quote="",
    header=False,
    missing_text=("", "-"),
    missing_values=(("x", (-1.0, 999.0)),),
    times=(("t", "days since 2024-01-01"),),
    offsets=(("x", 1.7e9),),
    same_text=(("yes", "y"),),
    spellings="exact",
)


def test_rules_come_back_as_they_went() -> None:
    assert ReadingRules.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    assert DEFAULT_RULES.to_json() == {}
    schema = Schema((Numeric("x", 0, 1), Categorical("c", ("a",))), "y", ("no", "yes"), reading=FULL)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_a_tab_travels_by_its_name() -> None:
    """What is signed holds no control character, and tables with tabs are published."""
    rules = ReadingRules(delimiter="\t")
    assert rules.to_json() == {"delimiter": "tab"}
    assert ReadingRules.from_json({"delimiter": "tab"}) == ReadingRules.from_json({"delimiter": "\t"}) == rules
    demand_plain(Schema((Numeric("x", 0, 1),), "y", ("no", "yes"), reading=rules).to_json())


def test_other_rules_are_another_schema() -> None:
    columns, labels = (Numeric("x", 0, 1),), ("no", "yes")
    assert Schema(columns, "y", labels, reading=FULL) != Schema(columns, "y", labels)


@pytest.mark.parametrize(
    "data",
    [
        {"unknown": 1},
        {"decimal": 5},
        {"decimal": ""},
        {"decimal": "ab"},
        {"decimal": "1"},
        {"decimal": "-"},
        {"decimal": ",", "thousands": ","},
        {"marks": [["x", ".."]]},
        {"marks": [["x", ""]]},
        {"units": [["x", ""]]},
        {"units": [["x", "5"]]},
        {"units": [["x", "-"]]},
        {"header": 1},
        {"missing_text": "NA"},
        {"missing_text": [1]},
        {"missing_text": ["x"] * 10_001},
        {"missing_text": ["x" * 1_001]},
        {"missing_values": [["x", [float("inf")]]]},
        {"missing_values": [["x", "12"]]},
        {"missing_values": [["x", 1]]},
        {"times": [["x", "always"]]},
        {"times": [["x"]]},
        {"offsets": [["x", "abc"]]},
        {"offsets": [["x", float("nan")]]},
        {"same_text": [["a", 1]]},
        {"spellings": "alike"},
        {"quote": "\n"},
        {"quote": "\t"},
        {"delimiter": "\x1b"},
        {"delimiter": "semicolon"},
        {"marks": [["x", "\t"]]},
        {"delimiter": '"'},
        {"encoding": "x" * 50},
        [],
        None,
    ],
)
def test_what_is_no_rule_is_refused(data: object) -> None:
    with pytest.raises(ConfigError):
        ReadingRules.from_json(data)  # type: ignore[arg-type]  # that is the test


def test_a_control_character_in_a_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="control character"):
        Schema((Numeric("x", 0, 1),), "y", ("0", "1"), reading=ReadingRules(missing_text=("\x1b[2J",)))


@pytest.mark.parametrize(
    ("low", "high", "offset"),
    [
        (0.0, 100.0, 0.0),
        (-1e9, 1e9, 0.0),
        (0.0, 1e-6, 0.0),
        (1.7e9, 1.7e9 + 60, 1.7e9),
        (1.7e9, 1.7e9 + 3.2e7, 0.0),
        (-1.7e9 - 60, -1.7e9, -1.7e9 - 60),
        (20_240_101.0, 20_241_231.0, 20_240_101.0),
    ],
)
def test_an_offset_is_taken_where_float32_merges_values(low: float, high: float, offset: float) -> None:
    found = offset_for(low, high)
    assert found == (offset if high - low < 1e7 or offset == 0.0 else found)


def test_a_range_that_float32_does_not_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="float32"):
        Numeric("t", 1.7e9, 1.7e9 + 60)
    with pytest.raises(ConfigError, match="float32"):
        Numeric("t", 0.0, 1e39)
