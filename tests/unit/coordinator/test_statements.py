"""The statement of a run follows from its plan, and run, report, summary and manifest say the same."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from fedinfer.cli import summary
from fedinfer.cli.claims import claim_of, statement_in
from fedinfer.config import Scenario, load_scenario
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.run_plan import IN_THE_FIELD, RunPlan, make_plan
from fedinfer.coordinator.plan.statement import make_statement
from fedinfer.coordinator.run import carry_out
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.errors import ConfigError
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.manifest import NO_CLAIM, Manifest, Statement
from fedinfer.messages.joining import MOST_DESCRIPTIONS
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.group import group_epsilon, with_missing_shares
from fedinfer.privacy.rounding import at_most
from fedinfer.report.statement import statement as in_words
from fedinfer.simulation.coordinate import open_server
from fedinfer.simulation.grid import LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.system import SystemClock
from fedinfer.types import Relation
from tests.protocol.fleet import SCHEMA, federation, settings

DEVICES = Population(devices=200, rows=2000, least_rows=5, dimension=650, classes=10)


def stated(scenario: Scenario, plan: RunPlan, *, real: bool = False) -> Statement:
    return make_statement(scenario, SCHEMA, plan, DEVICES.devices, (), 0, real=real)


def digits(*overrides: str) -> tuple[Scenario, RunPlan]:
    scenario = load_scenario("digits", list(overrides))
    return scenario, make_plan(scenario, DEVICES, "local", ())


def test_its_delta_is_rounded_up() -> None:
    scenario, plan = digits("privacy.delta=1.0000004e-5")
    assert stated(scenario, plan).delta == "1.00001e-05"


def test_it_claims_the_whole_plan_and_its_tables_follow_from_the_planned_events() -> None:
    scenario, plan = digits()
    said, delta = stated(scenario, plan), scenario.privacy.delta
    assert plan.planned is not None
    assert said.epsilon == at_most(plan.planned.epsilon, 6)
    assert (said.unit, said.relation, said.trust, said.mode) == ("device", "zero-out-one", "distributed", "protocol")
    assert (said.setting, said.label_bits) == ("simulation", 0)
    assert said.parts == (), "everything touches a whole device"
    assert said.groups[0] == (2, at_most(group_epsilon(plan.events.all, delta, 2), 6))
    counted = plan.train.mechanism.contributors
    assert (said.honest, said.corrupt, said.least) == (counted, plan.gates[0].corrupt, plan.train.min_survivors)
    assert said.corrupt < plan.train.corrupt, "the smallest sum decides: a wave"
    one_less = account(
        [
            *with_missing_shares(plan.events.rounds, counted, 1),
            *with_missing_shares(plan.events.windows, plan.drift.mechanism.contributors, 1),  # type: ignore[union-attr]
            *with_missing_shares(plan.events.evaluations, min(g.mechanism.contributors for g in plan.gates), 1),
        ],
        delta,
        Relation.ZERO_OUT,
    )
    assert said.missing[0] == (1, at_most(one_less.epsilon, 6))
    assert [missing for missing, _ in said.missing] == [1, 2, 3]
    assert float(said.missing[0][1]) > float(said.epsilon)
    assert (said.windows, said.evaluations) == (10, 2)


def test_a_deployment_says_so_and_which_bits_are_not_covered() -> None:
    scenario, plan = digits()
    said = stated(scenario, plan, real=True)
    assert (said.setting, said.label_bits) == ("deployment", MOST_DESCRIPTIONS)


def test_without_protection_everything_is_infinite() -> None:
    scenario, plan = digits("privacy.unit=none")
    said = stated(scenario, plan)
    assert {said.epsilon, said.budget, said.over_runs, said.windows_epsilon, said.evaluations_epsilon} == {"inf"}
    assert (said.mechanism, said.accountant, said.groups, said.missing) == ("none", "none", (), ())


@pytest.mark.parametrize("trust", ["local", "central"])
def test_noise_that_is_not_shared_has_no_missing_shares(trust: str) -> None:
    scenario, plan = digits(f"privacy.trust={trust}", "privacy.epsilon=50")
    said = stated(scenario, plan)
    assert (said.honest, said.missing, said.mechanism) == (0, (), "gaussian")


def test_a_deployment_that_stands_no_corrupt_device_is_refused_and_a_simulation_warns() -> None:
    scenario = load_scenario("digits", ["secure_aggregation.corruption_rate=0"])
    with pytest.raises(ConfigError, match="none of 200 devices may work for the attacker") as caught:
        make_plan(scenario, DEVICES, IN_THE_FIELD, ())
    assert "0.01 or more" in caught.value.hint
    warned = make_plan(scenario, DEVICES, "local", ())
    assert any("corruption_rate is 0" in warning for warning in warned.warnings)
    central = load_scenario("digits", ["secure_aggregation.corruption_rate=0", "privacy.trust=central"])
    assert make_plan(central, DEVICES, IN_THE_FIELD, ()).planned is not None, "nobody's share is counted on there"


def test_run_report_summary_and_manifest_say_the_same(tmp_path: Path) -> None:
    """One run, its record, its signed manifest, and the words of report and summary, side by side."""
    scenario = settings("training.rounds = 1\ndrift.rounds = 0\ndrift.max_triggers = 0")
    clock, rows = SystemClock(), federation()
    host = simulated_host(scenario, rows, tmp_path / "devices", clock, Processes.ONE)
    app = CohortClientApp(lambda context: (f"d{int(context.node_config['partition-id']):02d}", DeviceResponder(host)))
    grid = LocalGrid(app, len(rows.devices), {})
    server, plan = open_server(grid, scenario, rows, tmp_path, "local", clock, lambda name, fields: None)
    record = carry_out(server, plan)
    written = json.loads((tmp_path / "run.json").read_text())
    documents = [path for path in tmp_path.rglob("*.json") if b'"check_rows"' in path.read_bytes()]
    assert len(documents) >= 2, "in the repository, and on the devices"
    manifests = [Manifest.from_bytes(path.read_bytes()) for path in documents]
    assert written["statement"] == record["statement"] == server.statement.to_json()
    for manifest in manifests:
        assert manifest.privacy.statement == server.statement
        assert manifest.privacy.sentence == server.statement.sentence()
        assert float(manifest.privacy.epsilon) <= float(server.statement.epsilon)
    assert statement_in(tmp_path) == statement_in(documents[0]) == server.statement
    words = "\n".join(f"{item.value}\n{item.meaning}" for item in in_words(written))
    said = server.statement
    for figure in (said.epsilon, said.delta.replace("e-0", "e-"), *(most for _, most in (*said.parts, *said.missing))):
        assert figure.replace("inf", "no bound") in words
    shown = "\n".join(text for _, text in summary._lines(written))
    assert f"{said.corrupt} corrupt device of a sum" in shown
    assert said.missing[0][1].replace("inf", "no epsilon") in shown
    assert f"at least {said.least} devices, {said.least - said.corrupt} once 1 corrupt one" in shown


def test_without_masks_nothing_is_said_to_be_under_them() -> None:
    record = {
        "privacy": {"private": True, "trust": "distributed", "epsilon": 1.0, "budget": 2.0, "delta": 1e-5,
                    "unit": "example", "relation": "zero-out-one", "accountant": "pld"},
        "secure_aggregation": {"mode": "off"},
    }  # fmt: skip
    text = summary._privacy(record)
    assert "masks it sees what each device sends" in text
    assert "under the masks" not in text
    assert "under the masks" in summary._privacy(record | {"secure_aggregation": {"mode": "protocol"}})
    mechanism = next(item for item in in_words(record) if item.component == "Mechanism")
    assert "inside the secure sum" not in mechanism.meaning


def test_a_model_file_claims_what_a_statement_says_or_nothing(tmp_path: Path) -> None:
    scenario, plan = digits()
    said = stated(scenario, plan)
    assert claim_of(None) == NO_CLAIM
    assert math.isinf(float(NO_CLAIM.epsilon))
    file = tmp_path / "statement.json"
    file.write_text(json.dumps(said.to_json()))
    assert claim_of(file).statement == said
    assert claim_of(file).epsilon == said.epsilon
    file.write_text(json.dumps(said.to_json() | {"epsilon": 0.1}))
    with pytest.raises(ConfigError, match="no privacy statement can be read"):
        claim_of(file)
    for bad in ("0.5", "[]", "{}", "nothing"):
        file.write_text(bad)
        with pytest.raises(ConfigError):
            claim_of(file)
    with pytest.raises(ConfigError, match=r"no run\.json"):
        statement_in(tmp_path)


def test_runs_before_this_one_add_up() -> None:
    scenario, plan = digits()
    twice = make_statement(scenario, SCHEMA, plan, 200, plan.events.all, 1, real=False)
    assert (twice.earlier, twice.epsilon) == (1, stated(scenario, plan).epsilon)
    both = account([*plan.events.all, *plan.events.all], scenario.privacy.delta, Relation.ZERO_OUT)
    assert twice.over_runs == at_most(both.epsilon, 6)
    assert replace(twice, earlier=0, over_runs=twice.epsilon) == stated(scenario, plan)
