"""A virtual fleet on Ray: the same record as in one process, bit for bit, and refusals."""

from __future__ import annotations

import importlib.util

import pytest

from fedinfer.errors import ConfigError
from fedinfer.fleet import prepare_fleet, run_fleet
from fedinfer.simulation import ray_benches
from tests.unit.fleet.fleets import run, scenario

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="extra ray")


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_record_of_one_process_bit_for_bit() -> None:
    found = scenario(
        privacy__trust="distributed", fleet__clock__rounds="buffered", fleet__clock__buffer=150, training__rounds=2
    )
    with ray_benches(found, "") as workers:
        record = run_fleet(prepare_fleet(found), workers, lambda *_: None)
    assert record == run(found)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "somewhere", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"address|cluster") as caught, ray_benches(scenario(), address):
        pass
    assert "ray start" in caught.value.hint
