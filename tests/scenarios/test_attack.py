"""`fedinfer attack`: rows are recovered and recognised without privacy, and not with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer.attack import AttackReport, AttackSettings, run_attack
from fedinfer.attack.membership import likelihood_ratios, roc
from fedinfer.attack.rounds import AttackedRun
from fedinfer.attack.targets import targets_of
from fedinfer.cli.main import app
from fedinfer.config import load_scenario
from fedinfer.errors import ConfigError
from fedinfer.report import render_attack
from fedinfer.simulation import prepare_local
from fedinfer.system import SystemClock
from fedinfer.training import load_trainer
from fedinfer.types import Unit


def _attack(*overrides: str, runs: int = 8) -> AttackReport:
    prepared = prepare_local(load_scenario("heart", list(overrides)))
    return run_attack(prepared, AttackSettings(runs), SystemClock(), lambda done, total: None)


@pytest.mark.slow
def test_a_row_is_read_back_from_its_gradient_and_not_from_what_is_released() -> None:
    """And no row is in the result unless it is asked for."""
    found = _attack("training.rounds=1").inversions
    assert all(view.shown == () for view in found)
    views = {view.view: view.likeness for view in found}
    assert views["one row's gradient, unprotected"] == pytest.approx(1.0, abs=1e-6)
    assert views["one device's sum, unprotected"] < 0.95
    chance = views["nothing: random numbers"]
    assert views["what the rounds release, with privacy"] == pytest.approx(chance, abs=0.25)


def test_units_are_told_apart_by_a_release_that_holds_their_gradients_bare() -> None:
    """The two scores of an attack, on releases made by hand: the sum of the gradients of who was in, without noise."""
    prepared = prepare_local(load_scenario("heart", ["data.public_fraction=0.8"]))
    scenario, federation = prepared.scenario, prepared.federation
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, 1)
    targets = targets_of(federation, Unit.EXAMPLE, trainer.dimension, np.random.default_rng(1))
    start, coins, scores = trainer.initial(), [], []
    gradients = targets.gradients(trainer, start)
    for _ in range(60):
        coin = np.random.default_rng(len(coins)).random(targets.count) < 0.5
        coins.append(coin[targets.guessed])
        scores.append(targets.match(trainer, AttackedRun((start,), (gradients[coins[-1]].sum(axis=0),), None)))
    curve = roc(likelihood_ratios(np.array(scores), np.array(coins)), np.array(coins))
    assert curve.area > 0.55, "what a row adds is small beside what the others add, and is seen all the same"
    assert targets.chosen(coin).schema == federation.schema
    assert sum(len(data.train_y) for data in targets.chosen(coin).devices.values()) == coin.sum()


@pytest.mark.slow
def test_with_privacy_no_more_is_found_than_the_claim_allows() -> None:
    report = _attack("training.rounds=3", runs=8)
    allowed = report.to_json()["allowed"]
    for curve in report.private.values():
        assert curve.at(0.1) < allowed["0.1"]
        assert curve.area < 0.55


@pytest.mark.soak
def test_the_command_prints_one_document_and_writes_a_page_without_scripts(tmp_path: Path) -> None:
    page = tmp_path / "attack.html"
    arguments = ["attack", "heart", "--rounds", "2", "--runs", "8"]
    said = CliRunner().invoke(app, [*arguments, "--json", "--out", str(page)])
    assert said.exit_code == 0, said.output
    document = json.loads(said.stdout)
    assert set(document["membership"]) == {"with privacy", "without privacy"}
    assert set(document["membership"]["with privacy"]) == {"model", "rounds"}
    html = page.read_text()
    assert "<script" not in html
    assert "what the claim allows" in html
    assert "No row of the data is on this page" in html
    assert all(view["shown"] == [] for view in document["inversion"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(("privacy.unit=none",), "no claim"), (("training.rounds=0",), "nothing is released")],
)
def test_what_cannot_be_attacked_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _attack(*overrides)


def test_too_few_runs_are_refused_before_anything_is_trained() -> None:
    said = CliRunner().invoke(app, ["attack", "heart", "--runs", "3"])
    assert said.exit_code == 2
    assert "--runs 32" in said.output


def test_the_page_says_when_it_holds_rows() -> None:
    pair = {"row": [0.0, 1.0], "recovered": [0.1, 0.9]}
    for shown, said in (([pair], "keep it as you keep the data"), ([], "No row of the data is on this page")):
        assert said in render_attack({"scenario": "s", "inversion": [{"view": "v", "likeness": 1.0, "shown": shown}]})
