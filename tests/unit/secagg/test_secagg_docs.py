"""Each claim of docs/secure-aggregation.md names a test that exists; each attack test is named there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "secure-aggregation.md").read_text()
FILES = [
    *ROOT.glob("tests/*/test_secagg_*.py"),
    *(ROOT / "tests" / "unit" / "secagg").glob("test_*.py"),
    ROOT / "tests" / "protocol" / "test_group_rounds.py",
    ROOT / "tests" / "protocol" / "test_device_rules.py",
    ROOT / "tests" / "unit" / "coordinator" / "test_aggregation_cohort.py",
]


def defined_in(paths):
    return {name for path in paths for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}


def test_named_tests_exist():
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 40
    assert named <= defined_in(FILES)


def test_every_attack_is_in_the_threat_table():
    attacks = defined_in(ROOT.glob("tests/protocol/test_secagg_attacks_*.py"))
    assert not {name for name in attacks if f"`{name}`" not in TEXT}


def test_messages_and_states_are_those_of_the_code():
    for module in ("messages", "states", "rounds"):
        source = (ROOT / "fedinfer" / "secagg" / f"{module}.py").read_text()
        for name in re.findall(
            r"^class ((?:Await|Sent|Signed|Keys|Masked|Surv|Witn|Unmask|Done|Abort)\w*)", source, re.M
        ):
            assert f"`{name}" in TEXT, name
