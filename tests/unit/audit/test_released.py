"""A run that was, of real devices too: the weights of levels that no row has are noise, and enough of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer.audit.released import audit_run
from fedinfer.cli.main import app
from fedinfer.errors import ConfigError
from fedinfer.system import simulation_rng


def record(noise: float, levels: int = 80, **changes: Any) -> dict[str, Any]:
    weights = noise * simulation_rng("canary levels", noise).standard_normal(levels)
    return {
        "run_id": "7",
        "scenario": "pilot",
        "statement": {"setting": "deployment", "epsilon": "0.99", "delta": "1e-05"},
        "rounds": [{"status": "released"}, {"status": "aborted"}, {"status": "released"}],
        "canaries": {"weights": weights.tolist(), "guaranteed": 1.0, "usual": 1.4} | changes,
    }


def kept(folder: Path, content: object) -> Path:
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def found(folder: Path, noise: float) -> tuple[str, ...]:
    return audit_run(kept(folder, record(noise))).found


def test_the_noise_of_all_devices_is_consistent_and_half_of_it_is_found(tmp_path: Path) -> None:
    report = audit_run(kept(tmp_path, record(1.4)))
    assert (report.run, report.rounds, report.epsilon, report.setting, report.found) == (
        "7",
        2,
        "0.99",
        "deployment",
        (),
    )
    assert found(tmp_path, 0.7) == ("noise of all devices",), "half of the shares: the claim may still stand"
    assert found(tmp_path, 0.5) == ("guaranteed noise", "noise of all devices")
    assert found(tmp_path, 0.0) == ("guaranteed noise", "noise of all devices")


def test_sound_runs_are_hardly_ever_accused_and_half_of_the_noise_hardly_ever_missed(tmp_path: Path) -> None:
    rng = simulation_rng("canary levels")
    sound = sum(bool(found_of(tmp_path, rng, 1.4)) for _ in range(60))
    half = sum("guaranteed noise" in found_of(tmp_path, rng, 0.5) for _ in range(60))
    assert (sound, half) == (0, 60)


def found_of(folder: Path, rng: np.random.Generator, noise: float) -> tuple[str, ...]:
    weights = (noise * rng.standard_normal(80)).tolist()
    return audit_run(kept(folder, record(1.0, weights=weights))).found


def test_rows_that_have_a_level_after_all_accuse_nobody(tmp_path: Path) -> None:
    weights = [3.0 + weight for weight in record(1.4)["canaries"]["weights"]]
    assert audit_run(kept(tmp_path, record(1.0, weights=weights))).found == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (record(1.0) | {"canaries": {}}, "says nothing of canary levels"),
        (record(1.0, levels=0), "says nothing of canary levels"),
        (record(1.0, guaranteed=0.0, usual=0.0), "not known how much noise"),
        (record(1.0, usual=0.5), "not known how much noise"),
        (record(1.0, weights=["x"]), "run.json"),
        ([], "run.json"),
        ({"canaries": {"weights": [1.0]}}, "run.json"),
    ],
)
def test_a_record_that_cannot_be_audited_says_why(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        audit_run(kept(tmp_path, content))
    with pytest.raises(ConfigError, match=r"run\.json"):
        audit_run(tmp_path / "nowhere")


def test_the_command_says_what_it_means_and_ends_with_one_when_noise_is_missing(tmp_path: Path) -> None:
    def called(noise: float, *more: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["audit", str(kept(tmp_path, record(noise))), *more])
        return result.exit_code, result.output

    code, text = called(1.4)
    assert code == 0
    assert "audit of run 7: pilot, 2 rounds, deployment" in text
    assert "verdict   consistent" in text
    assert called(0.7) == (1, called(0.7)[1])
    assert "add less than their share" in called(0.7)[1]
    code, text = called(0.0)
    assert (code, "the claim does not hold for this run" in text) == (1, True)
    code, text = called(0.0, "--json")
    assert (code, json.loads(text)["verdict"]) == (1, "violated")
    code, text = called(1.4, "--rounds", "3")
    assert (code, "only --json goes with it" in text) == (2, True)
