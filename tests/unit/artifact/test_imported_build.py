"""Building an imported model: what is pushed, where it is built, and what is believed of the process that builds it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from fedinfer.artifact import (
    Deciding,
    Evidence,
    ModelTask,
    Wishes,
    answers_of,
    build_confined,
    build_from_core,
    build_imported,
    import_model,
    synthetic_rows,
)
from fedinfer.artifact.evaluate import measure
from fedinfer.artifact.imported import confined, confined_build
from fedinfer.artifact.imported.confined_build import ANSWER
from fedinfer.artifact.imported.facts import read_facts
from fedinfer.artifact.imported.model_toml import from_toml, to_toml
from fedinfer.artifact.imported.outside import parse
from fedinfer.config import ArtifactSection
from fedinfer.errors import ArtifactRejected, ConfigError, GateFailed
from fedinfer.manifest import Privacy
from fedinfer.model_file import RunLimits
from fedinfer.system import SystemClock, simulation_rng
from tests.unit.artifact import foreign_models as foreign

CLAIM = Privacy("inf", "1", "by its owner")
SETTINGS, CLOCK = ArtifactSection(), SystemClock()


def imported(data):
    wishes = Wishes(task=ModelTask.CLASSIFICATION, ranges={"obs": (-1, 1)}, labels=("a", "b", "c"))
    return import_model(data, read_facts(parse(data)), "m", "label", wishes, {}, CLOCK, simulation_rng("m"))


def wide():
    """A policy whose int8 form is smaller."""
    return foreign.model_bytes(
        [("MatMul", ["obs", "w"], ["h"]), ("Tanh", ["h"], ["t"]), ("MatMul", ["t", "v"], ["action_logits"])],
        [("obs", foreign.F, ["n", 4])],
        [("action_logits", foreign.F, ["n", 3])],
        {"w": foreign.weights(4, 900), "v": foreign.weights(900, 3)},
    )


def evidence(found):
    rows = synthetic_rows(found.schema, 64, simulation_rng("rows"))
    return Evidence(rows[:0], np.empty(0, np.int64), rows, rows[:0])


@pytest.fixture(scope="module")
def policy():
    return imported(wide())


@pytest.fixture(scope="module")
def built(policy):
    return build_confined(policy, 3, evidence(policy), SETTINGS, CLAIM, CLOCK)


def test_the_smaller_form_is_pushed_and_its_manifest_says_what_its_owner_says(policy, built):
    assert (built.note, built.manifest.chosen.name) == ("", "int8")
    assert built.manifest.chosen.bytes < built.figures["float_bytes"]
    assert (built.manifest.version, built.manifest.privacy) == (3, CLAIM)
    assert built.figures["export"] == "imported"
    rows = evidence(policy).calibration_x
    here = build_imported(policy.core, policy.head(3), False, evidence(policy), SETTINGS, CLOCK)
    file = built.files[built.manifest.chosen.path]
    assert [item["recipe"] for item in built.figures["tried"]] == [item.recipe for item in here.built.tried]
    np.testing.assert_allclose(answers_of(file, rows, policy.schema), here.built.answers(rows), atol=1e-6)


def test_a_form_that_is_not_smaller_is_not_pushed_and_the_note_says_so():
    data = foreign.model_bytes(
        [("MatMul", ["obs", "w"], ["action_logits"])],
        [("obs", foreign.F, ["n", 4])], [("action_logits", foreign.F, ["n", 3])], {"w": foreign.weights(4, 3)},
    )  # fmt: skip
    found = imported(data)
    built = build_from_core(found.core, found.head(1), evidence(found), SETTINGS, CLOCK)
    assert (built.chosen.name, built.chosen.bytes >= built.float_bytes) == ("int8", True)
    said = build_imported(found.core, found.head(1), False, evidence(found), SETTINGS, CLOCK)
    assert said.built.chosen.name in ("fp16", "float")
    assert said.built.chosen.bytes <= said.built.float_bytes
    assert f"{built.chosen.recipe}: {built.chosen.bytes} bytes, as it is {built.float_bytes}" in said.note
    assert "int8" not in said.built.files


def test_a_model_that_is_too_large_in_every_form_is_refused():
    found = imported(foreign.policy())
    small = SETTINGS.model_copy(update={"max_bytes": 500})
    with pytest.raises(GateFailed, match="no variant passes"):
        build_imported(found.core, found.head(1), False, evidence(found), small, CLOCK)


def test_no_graph_is_run_or_quantized_in_the_process_that_asks(policy, monkeypatch):
    def forbidden(*_):
        raise AssertionError("here")

    for name in ("run", "apply"):
        monkeypatch.setattr(measure, name, forbidden)
    built = build_confined(policy, 1, evidence(policy), SETTINGS, CLAIM, CLOCK)
    assert built.manifest.chosen.name == "int8"


def test_what_is_declared_of_the_decision_is_in_the_files_and_nothing_else_is_taken(policy, monkeypatch):
    deciding = Deciding(top=2, abstain_below=0.4)
    declared = replace(policy, declaration=replace(policy.declaration, deciding=deciding))
    assert from_toml(to_toml(declared.declaration), "model.toml").deciding == deciding
    manifest = build_confined(declared, 1, evidence(policy), SETTINGS, CLAIM, CLOCK).manifest
    assert (manifest.top, manifest.threshold, manifest.abstain_below) == (2, 0.5, 0.4)
    monkeypatch.setattr(confined, "asdict", lambda value: {} if isinstance(value, Deciding) else asdict(value))
    with pytest.raises(GateFailed, match="another model than it got"):
        build_confined(declared, 1, evidence(policy), SETTINGS, CLAIM, CLOCK)


@pytest.mark.parametrize(
    ("deciding", "labels", "said"),
    [
        (Deciding(top=4), 3, "do not fit a model of 3 classes"), (Deciding(threshold=0.3), 3, "do not fit"),
        (Deciding(abstain_below=0.2), 0, "do not fit a model of 0 classes"),
    ],
)  # fmt: skip
def test_a_decision_that_does_not_fit_is_refused(deciding, labels, said):
    with pytest.raises(ConfigError, match=said):
        deciding.check(labels)
    with pytest.raises(ConfigError, match="threshold between 0 and 1"):
        Deciding(threshold=1.0)


def test_a_build_that_takes_too_much_is_ended_with_one_line(policy):
    with pytest.raises(GateFailed, match=r"quantization was ended|bad_alloc") as caught:
        build_confined(policy, 1, evidence(policy), SETTINGS, CLAIM, CLOCK, RunLimits(memory_bytes=1, run_seconds=1))
    assert "\n" not in str(caught.value)


def test_an_error_inside_keeps_its_words_and_its_code(policy):
    few = replace(evidence(policy), calibration_x=np.zeros((1, 4), np.float32))
    with pytest.raises(ConfigError, match="1 calibration rows, at least 2 are needed"):
        build_confined(policy, 1, few, SETTINGS, CLAIM, CLOCK)


def test_the_room_holds_installed_packages_and_of_a_checkout_the_package_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(confined_build, "_ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/usr/lib/python3", ""])
    installed = confined_build.room("/room", 9).programs
    assert {str(tmp_path), "/usr/lib/python3"} <= set(installed)
    (tmp_path / "pyproject.toml").touch()
    checkout = confined_build.room("/room", 9).programs
    assert str(tmp_path) not in checkout
    assert str(tmp_path / "fedinfer") in checkout
    assert not {"", "/", os.path.expanduser("~")} & {*installed, *checkout}


def answered(monkeypatch, head, data=b""):
    """A confined process that answers this."""

    @contextlib.contextmanager
    def process(module, parts):
        source, target = os.pipe()
        encoded = head if isinstance(head, bytes) else json.dumps(head).encode()
        os.write(target, ANSWER.pack(len(encoded)) + encoded + data)
        os.close(target)
        with os.fdopen(source, "rb", buffering=0) as pipe:
            yield pipe

    monkeypatch.setattr(confined, "confined_process", process)


def head_of(built, **changes):
    return {
        "manifest": built.manifest.to_bytes().decode(), "figures": built.figures, "outputs": [], "note": "",
        "files": {path: len(data) for path, data in built.files.items()}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"manifest": None}, "answers something else"),
        ({"files": {}}, "is missing"),
        ({"files": {"targets/a": 2**40}}, "answers something else"),
        ({"files": {"targets/a": -1}}, "answers something else"),
        ({"files": 1}, "answers something else"),
        ({"note": 1}, "answers something else"),
        ({"error": "\x1b[2J gone", "hint": "", "code": 5}, r"\\x1b\[2J gone"),
        ({"error": "bad", "hint": "", "code": "x"}, "answers something else"),
    ],
)
def test_what_a_subverted_process_answers_is_judged(policy, built, monkeypatch, changes, said):
    answered(monkeypatch, head_of(built, **changes), b"".join(built.files.values()))
    with pytest.raises(ArtifactRejected, match=said):
        build_confined(policy, 3, evidence(policy), SETTINGS, CLAIM, CLOCK)


@pytest.mark.parametrize("data", [b"[]", b"{", b"", b"[" * 100_000])
def test_an_answer_that_is_no_document_is_refused(policy, monkeypatch, data):
    answered(monkeypatch, data[: 2**15])
    with pytest.raises(ArtifactRejected, match="answers something else"):
        build_confined(policy, 3, evidence(policy), SETTINGS, CLAIM, CLOCK)


def test_another_version_task_or_file_than_asked_for_is_refused(policy, built, monkeypatch):
    files = b"".join(built.files.values())
    other = replace(built.manifest, task="other").to_bytes().decode()
    for version, changes in ((4, {}), (3, {"manifest": other})):
        answered(monkeypatch, head_of(built, **changes), files)
        with pytest.raises(GateFailed, match="another model than it got"):
            build_confined(policy, version, evidence(policy), SETTINGS, CLAIM, CLOCK)
    answered(monkeypatch, head_of(built), files[:-1] + bytes([files[-1] ^ 1]))
    with pytest.raises(ArtifactRejected, match="differ from the manifest"):
        build_confined(policy, 3, evidence(policy), SETTINGS, CLAIM, CLOCK)
