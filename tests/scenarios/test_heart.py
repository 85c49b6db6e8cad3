"""`fedinfer run heart`: four hospitals, privacy per patient, noise by the hospitals, real secure aggregation."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedinfer.data import load
from fedinfer.privacy.accounting.ledger import Ledger
from fedinfer.store import read_store
from fedinfer.training.models.build import build_model
from tests.scenarios.record_shape import missing
from tests.scenarios.runs import Run, run, scenario, without_times

pytestmark = pytest.mark.slow
SEEDS = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    folder = tmp_path_factory.mktemp("heart")
    return {seed: run(scenario("heart", f"scenario.seed={seed}"), folder / str(seed)) for seed in SEEDS}


def pooled(seed: int) -> tuple[float, float]:
    """Accuracy and AUC of a logistic regression without privacy on all hospitals' rows, prepared as the model does."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    wanted = scenario("heart", f"scenario.seed={seed}")
    federation = load(wanted)
    model = build_model(wanted.model, federation.schema, seed)

    def prepared(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model.prepare(torch.from_numpy(x)).numpy()

    x = np.concatenate([device.train_x for device in federation.devices.values()])
    y = np.concatenate([device.train_y for device in federation.devices.values()])
    fitted = LogisticRegression(max_iter=2000).fit(prepared(x), y)
    chances = fitted.predict_proba(prepared(federation.test[0]))[:, 1]
    labels = federation.test[1]
    return float(((chances > 0.5) == labels).mean()), float(roc_auc_score(labels, chances))


def test_every_run_completes_as_promised(runs: dict[int, Run]) -> None:
    for seed, result in runs.items():
        record = result.record
        assert result.failure is None
        assert (record["status"], record["engine"], record["seed"]) == ("completed", "local", seed)
        assert record["secure_aggregation"]["mode"] == "protocol"
        assert (record["privacy"]["unit"], record["privacy"]["trust"]) == ("example", "distributed")
        assert record["population"] == 4
        assert record["models"][-1]["devices_active"] == 4


def test_the_whole_run_stays_within_epsilon_1_at_1e_5(runs: dict[int, Run]) -> None:
    """Drift reports and triggered rounds included; the ledger says the same as the record."""
    for result in runs.values():
        privacy = result.record["privacy"]
        assert privacy["delta"] == 1e-5
        assert 0.5 < privacy["epsilon"] <= 1.0
        ledger = Ledger(read_store(result.folder / "ledger.sqlite"))
        assert ledger.spent("server", "simulation").epsilon == pytest.approx(privacy["epsilon"])
        assert max(row["epsilon"] for row in result.record["rounds"]) <= privacy["epsilon"]


def test_no_hospital_spends_more_than_the_run(runs: dict[int, Run]) -> None:
    result = runs[1]
    ledger = Ledger(read_store(result.folder / "devices" / "devices.sqlite"))
    hospitals = sorted({owner for owner, _, _ in ledger.accounts()})
    assert len(hospitals) == 4
    for hospital in hospitals:
        assert 0 < ledger.spent(hospital, "simulation").epsilon <= result.record["privacy"]["epsilon"] + 1e-9


def test_the_mean_over_five_seeds_is_useful_and_close_to_pooled_training(runs: dict[int, Run]) -> None:
    accuracy = np.mean([result.record["metrics"]["accuracy"] for result in runs.values()])
    auc = np.mean([result.record["metrics"]["auc"] for result in runs.values()])
    best = np.mean([pooled(seed) for seed in SEEDS], axis=0)
    assert accuracy >= 0.79
    assert auc >= 0.87
    assert best[0] - accuracy <= 0.03, (accuracy, best)
    assert best[1] - auc <= 0.03, (auc, best)


def test_a_hospital_drops_out_of_some_rounds_and_the_round_goes_on(runs: dict[int, Run]) -> None:
    for result in runs.values():
        record = result.record
        survivors = [row["survivors"] for row in record["rounds"] if row["status"] == "released"]
        assert set(survivors) == {3, 4}
        assert record["devices"]["dropped"] == sum(row["cohort"] - row["survivors"] for row in record["rounds"])
        assert record["devices"]["dropped"] > 0
        assert record["devices"]["refused"] == 0


def test_the_record_has_every_binding_key(runs: dict[int, Run]) -> None:
    for result in runs.values():
        assert missing(result.record) == []


def test_the_model_on_the_devices_is_the_published_file(runs: dict[int, Run]) -> None:
    for result in runs.values():
        model = result.record["models"][-1]
        digests = {
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (result.folder / "artifacts" / "targets").rglob("*")
            if path.is_file()
        }
        assert model["sha256"] in digests
        installed = [
            path
            for path in (result.folder / "devices").rglob("*")
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == model["sha256"]
        ]
        assert len(installed) >= 4


def test_what_the_devices_see_fits_what_the_server_sees(runs: dict[int, Run]) -> None:
    """The int8 model on the devices predicts their own rows about as well as the record says."""
    for result in runs.values():
        record = result.record
        assert record["inference"]["predictions"] > 100 * record["drift"]["windows"]
        assert record["inference"]["metric"] == pytest.approx(record["metrics"]["accuracy"], abs=0.05)
        assert abs(record["models"][-1]["quantized_metric"] - record["models"][-1]["float_metric"]) <= 0.02


def test_the_same_seed_gives_the_same_record_apart_from_times(runs: dict[int, Run], tmp_path: Path) -> None:
    again = run(scenario("heart", "scenario.seed=1"), tmp_path / "again")
    assert without_times(again.record) == without_times(runs[1].record)
    assert without_times(runs[2].record) != without_times(runs[1].record)


def test_dp_sgd_in_each_hospital_runs_beside_it(tmp_path: Path) -> None:
    """Trust `local`: nobody is trusted to add noise for others."""
    result = run(scenario("heart", "privacy.trust=local", "training.rounds=5"), tmp_path / "local")
    assert result.record["status"] == "completed"
    assert result.record["privacy"]["epsilon"] <= 1.0
    assert result.record["privacy"]["accountant"] in ("pld", "rdp")
