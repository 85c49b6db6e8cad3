"""Known answers, good and bad; regeneration gives the same files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinfer import wire
from fedinfer.errors import BadMessage, ConfigError, FedInferError
from fedinfer.privacy.accounting.accountant import rdp_epsilon
from fedinfer.privacy.accounting.events import event_from_json, from_json
from fedinfer.privacy.mechanism.encoding import decode, encode
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.privacy.mechanism.tables import discrete_gaussian_table, skellam_table
from fedinfer.system import SimulatedEntropy
from fedinfer.types import Relation

FOLDER = Path(__file__).parents[2] / "vectors" / "privacy"


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("case", load("tables"), ids=lambda case: f"{case['law']}-{case['variance']}")
def test_tables(case: Any) -> None:
    table = (skellam_table if case["law"] == "skellam" else discrete_gaussian_table)(case["variance"])
    middle = table.boundaries[table.offset - 4 : table.offset + 4]
    assert [hex(b) for b in middle] == case["middle"]
    assert table.offset == case["offset"]


@pytest.mark.parametrize("case", load("encodings")["good"])
def test_encodings(case: Any) -> None:
    mechanism = wire.decode(IntegerMechanism, bytes.fromhex(case["mechanism"]))
    assert mechanism.digest().hex() == case["digest"]
    assert (mechanism.bits, mechanism.share_variance) == (case["bits"], case["share_variance"])
    streams = [SimulatedStream(SimulatedEntropy("vectors", use)) for use in ("noise", "rounding")]
    ring = encode(np.array(case["vector"], np.float32), mechanism, b"rotation", *streams)
    assert [int(x) for x in ring] == case["ring"]
    assert np.allclose(decode(ring, mechanism, b"rotation"), case["decoded"], rtol=1e-6)


@pytest.mark.parametrize("case", load("encodings")["bad"], ids=lambda case: case["why"])
def test_vectors_that_must_be_refused(case: Any) -> None:
    mechanism = wire.decode(IntegerMechanism, bytes.fromhex(load("encodings")["good"][1]["mechanism"]))
    stream = SimulatedStream(SimulatedEntropy("bad"))
    with pytest.raises(FedInferError):
        encode(np.array([float(x) for x in case["vector"]], np.float32), mechanism, b"rotation", stream, stream)


@pytest.mark.parametrize("why", load("encodings")["bad_mechanisms"])
def test_mechanisms_that_must_be_refused(why: str) -> None:
    with pytest.raises(BadMessage):
        wire.decode(IntegerMechanism, bytes.fromhex(load("encodings")["bad_mechanisms"][why]))


@pytest.mark.parametrize("case", load("accounting")["good"])
def test_epsilons(case: Any) -> None:
    epsilon = rdp_epsilon([from_json(case["event"])], case["delta"], Relation(case["relation"]))
    assert epsilon == pytest.approx(case["epsilon"], rel=1e-9)


@pytest.mark.parametrize("text", load("accounting")["bad"])
def test_events_that_must_be_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        event_from_json(text)


def test_regeneration_gives_no_difference() -> None:
    spec = importlib.util.spec_from_file_location("privacy_vector_generator", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert json.loads(json.dumps(generate.tables())) == load("tables")
    fresh, kept = json.loads(json.dumps(generate.encodings())), load("encodings")
    assert [case["ring"] for case in fresh["good"]] == [case["ring"] for case in kept["good"]]
    assert fresh["bad_mechanisms"].keys() == kept["bad_mechanisms"].keys()
    again = json.loads(json.dumps(generate.accounting()))
    assert [case["event"] for case in again["good"]] == [case["event"] for case in load("accounting")["good"]]
    assert again["bad"] == load("accounting")["bad"]
