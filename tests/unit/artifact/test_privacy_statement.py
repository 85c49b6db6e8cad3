"""The JSON form of a privacy statement: nothing may be left out, added or misread."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from fedinfer.errors import ArtifactRejected
from fedinfer.manifest import FORMAT, Manifest, Privacy, Statement, read_statement
from tests.unit.artifact.workshop import release

STATEMENT = Statement(
    epsilon="0.999993", delta="1e-05", budget="1", unit="example", relation="zero-out-one",
    parts=(("training", "0.999993"), ("windows", "0.9")), groups=((2, "2.16"), (10, "inf")), mechanism="skellam",
    clipping="fixed", clipping_norm=1.0, noise_multiplier=9.16, correlation="none", accountant="pld",
    sampling="poisson", trust="distributed", devices=4, least=3, corrupt=1, honest=2, missing=((1, "1.48"), (2, "inf")),
    mode="protocol", setting="simulation", confirmed=True, label_bits=0, windows=7, windows_epsilon="0.9",
    evaluations=0, evaluations_epsilon="0", earlier=0, over_runs="0.999993", thresholds=1, thresholds_epsilon="0.2",
)  # fmt: skip


def test_it_is_read_as_it_was_written() -> None:
    assert read_statement(json.loads(json.dumps(STATEMENT.to_json()))) == STATEMENT


def test_a_signed_manifest_holds_it() -> None:
    manifest = replace(release(3)[0], privacy=Privacy("0.5", "1e-05", STATEMENT.sentence(), STATEMENT))
    assert Manifest.from_bytes(manifest.to_bytes()).privacy.statement == STATEMENT
    document = json.loads(manifest.to_bytes())
    del document["privacy"]["statement"]
    with pytest.raises(ArtifactRejected, match="statement is missing"):
        Manifest.from_json(document)


def test_a_manifest_of_format_1_is_read_and_claims_what_its_sentence_says() -> None:
    document = json.loads(release(3)[0].to_bytes())
    assert document["format"] == FORMAT == 2
    document["format"] = 1
    document["privacy"] = {"epsilon": "0.93", "delta": "1e-05", "statement": "as it was"}
    del document["threshold"]
    found = Manifest.from_json(document)
    assert found.privacy == Privacy("0.93", "1e-05", "as it was")
    assert found.threshold == 0.5


def test_a_device_that_reads_format_1_alone_refuses_what_it_would_misread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program compares the number first; this is that program's list."""
    monkeypatch.setattr("fedinfer.manifest.document.FORMATS", (1,))
    with pytest.raises(ArtifactRejected, match="format 2, this program reads 1"):
        Manifest.from_bytes(release(3)[0].to_bytes())


def test_a_statement_without_choices_of_a_threshold_is_that_of_earlier_programs() -> None:
    without = replace(STATEMENT, thresholds=0, thresholds_epsilon="0")
    assert not {name for name in without.to_json() if name.startswith("thresholds")}
    assert read_statement(without.to_json()) == without


@pytest.mark.parametrize("name", [field.name for field in fields(Statement)])
def test_every_field_is_needed(name: str) -> None:
    document = STATEMENT.to_json()
    del document[name]
    with pytest.raises(ArtifactRejected, match=name):
        read_statement(document)


BAD = {
    "version": (2, "version 2, this program reads 1"),
    "note": ("x", "note"),
    "epsilon": (0.5, "epsilon is float"),
    "budget": ("-1", "budget"),
    "unit": ("person", "unit 'person'"),
    "relation": ("add", "relation"),
    "parts": ([["nights", "0.1"]], "part"),
    "groups": ([[0, "1"]], "count"),
    "missing": ([[1, 0.5]], "types"),
    "trust": ("nobody", "trust"),
    "mode": ("fast", "mode"),
    "setting": ("demo", "setting"),
    "corrupt": (-1, "corrupt"),
    "honest": (2.0, "honest is float"),
    "confirmed": (1, "confirmed is int"),
    "accountant": ("gdp", "accountant"),
    "noise_multiplier": ("9", "noise_multiplier"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_statement_is_refused(name: str) -> None:
    value, words = BAD[name]
    with pytest.raises(ArtifactRejected, match=words):
        read_statement(STATEMENT.to_json() | {name: value})


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(ArtifactRejected, match="version is missing"):
        read_statement([])


def test_the_sentence_says_whom_it_stands_and_where_it_was_made() -> None:
    said = STATEMENT.sentence()
    assert said.startswith("(0.999993, 1e-05)-differential privacy per example (zero-out-one) for the whole run")
    assert "against the server and 1 corrupt device(s) of a sum" in said
    assert said.endswith("trust distributed, simulation")
    assert "everybody but the server" in replace(STATEMENT, trust="central").sentence()
    assert "everybody but the device itself" in replace(STATEMENT, trust="local").sentence()
    assert "aggregation mode off" in replace(STATEMENT, mode="off").sentence()
    assert replace(STATEMENT, unit="none").sentence() == "no privacy guarantee: trained without noise"
