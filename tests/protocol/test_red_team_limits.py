"""Bounds that hold whatever the other side sends: texts, groups, entropy, sampling."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedinfer.device.aggregate.check_plan import check_plan, corruption_rate
from fedinfer.device.aggregate.contribution import private_vectors
from fedinfer.errors import BadMessage, Misbehaviour
from fedinfer.flower.records import RECORD, build_id, read_reply, request_message
from fedinfer.messages import MOST_ERROR, MOST_REASON, PROTOCOL_VERSION, Kind, Split
from fedinfer.ports import Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.privacy.charges import mechanism_of
from fedinfer.privacy.mechanism.noise import SecureStream
from fedinfer.secagg.groups import most_corrupt, random_groups
from fedinfer.secagg.hypergeometric import corrupt_among
from fedinfer.system import SystemEntropy
from fedinfer.training.engines import batched
from fedinfer.training.engines.sampling import poisson_rows
from fedinfer.wire import MAX_BYTES, decode, encode
from tests.protocol.fleet import Fleet, enrolled, real, settings, simulated, work

LARGE = Budget(8.0, 1e-5)


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages only inside a task."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def reply(**fields: object) -> Message:
    header = {"protocol_version": PROTOCOL_VERSION, "build_id": build_id()}
    values = {**header, "device": "d", "body": b"", "error": "", "detail": "", **fields}
    asked = request_message(Ask("d", Kind.HEALTH, b""), 1, "g")
    return Message(RecordDict({RECORD: ConfigRecord(values)}), reply_to=asked)  # type: ignore[arg-type]  # str, int, bytes


# --- a malicious device's words ---


@pytest.mark.usefixtures("flower")
def test_a_device_cannot_fill_the_servers_log_with_an_error_text() -> None:
    answer = read_reply(reply(error="E" * 10**6, detail="x" * 10**7))
    assert (len(answer.error), len(answer.detail)) == (MOST_ERROR, MOST_REASON)


@pytest.mark.usefixtures("flower")
def test_a_device_cannot_command_the_operators_terminal() -> None:
    answer = read_reply(reply(error="Bad\x1b]0;", detail="fine\x1b[2J\nround 1 released\x07"))
    assert (answer.error + answer.detail).isprintable()
    assert "fine" in answer.detail


# --- groups ---


def test_in_a_group_a_device_counts_on_the_worst_deal_not_on_the_mean(tmp_path: Path) -> None:
    """100 of 1000 devices may be corrupt; a random group of 100 can hold far more than 10 of them."""
    fleet: Fleet = simulated(tmp_path, settings(), 4)
    host = fleet.hosts[min(fleet.hosts)]
    host.policy = replace(host.policy, corruption_rate=0.1, min_survivors=2)
    everyone = tuple(sorted([*fleet.roster, *(f"x{i:04d}" for i in range(996))]))
    split = Split(10, b"s" * 32, everyone)
    device = min(fleet.hosts)
    cohort = next(group for group in random_groups(everyone, 10, split.seed) if device in group)
    worst = most_corrupt(1000, 100, len(cohort), 10)
    assert worst > 20
    plan = fleet.promise("round-1/group-1", work(), cohort=cohort, split=split, min_survivors=len(cohort))
    assert corrupt_among(len(cohort), corruption_rate(host, plan)) == worst
    for contributors, fine in ((len(cohort) - worst, True), (len(cohort) - worst + 1, False)):
        mechanism = replace(mechanism_of(plan), contributors=contributors, summands=len(cohort))
        offered = replace(plan, mechanism=encode(mechanism))
        if fine:
            check_plan(host, offered, device)
        else:
            with pytest.raises(Misbehaviour, match="surely honest"):
                check_plan(host, offered, device)


# --- sources of randomness on a real device ---


def test_a_real_device_uses_the_operating_systems_entropy_for_everything(tmp_path: Path) -> None:
    """Keys, shares, noise, and which rows a step samples: no seed of a scenario reaches any of them."""
    fleet = real(enrolled(tmp_path / "stores", 3, LARGE, 2), settings("secure_aggregation.dropout_rate = 0.0"))
    device = min(fleet.hosts)
    host, plan = fleet.hosts[device], fleet.promise("round-1", work())
    assert type(host.entropy) is SystemEntropy
    assert type(host.generator(plan, device)) is SystemEntropy
    streams = [host.noise(plan, device, use) for use in ("share", "share", "local")]
    assert all(type(stream) is SecureStream for stream in streams)
    assert len({stream.words(4).tobytes() for stream in streams}) == 3


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_a_real_device_takes_every_row_by_itself_whatever_its_random_source_is(
    trust: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches would let chosen weights turn other rows' gradients round. The host says how, not a type."""
    changes = f'privacy.trust = "{trust}"\ntraining.sampling_rate = 1.0\nsecure_aggregation.dropout_rate = 0.0'
    fleet = real(enrolled(tmp_path / "stores", 3, LARGE, 2), settings(changes))
    device = min(fleet.hosts)
    host, plan = fleet.hosts[device], fleet.promise("round-1", work())
    host.generator = lambda _plan, _device: np.random.default_rng(1)
    for name in ("gradient_sums", "private_updates"):
        monkeypatch.setattr(batched, name, None)
    monkeypatch.setitem(sys.modules, "opacus", None)
    vector = private_vectors(host, plan, work(), [device])[0]
    if trust == "local":
        assert vector.any()
        return
    x, y = host.rows.training(device, 0)
    keep = np.arange(1, len(y))
    sums = []
    for chosen in (keep, np.zeros(1, np.int64)):
        host.rows = SimpleNamespace(training=lambda *_, at=chosen: (x[at], y[at]))  # type: ignore[assignment]  # rows only
        sums.append(private_vectors(host, plan, work(), [device])[0])
    np.testing.assert_array_equal(sums[0] + sums[1], vector, "to the last bit")


def test_poisson_sampling_from_entropy_is_fresh_and_independent() -> None:
    """Accounting uses each row's own coin: rate, independence of rows and of rounds, and no fixed size."""
    entropy, rate, rows, rounds = SystemEntropy(), 0.2, 400, 500
    taken = np.zeros((rounds, rows), bool)
    for number in range(rounds):
        taken[number, poisson_rows(entropy, rows, rate)] = True
    assert abs(taken.mean() - rate) < 6 * np.sqrt(rate * (1 - rate) / taken.size)
    sizes = taken.sum(axis=1)
    spread = sizes.var() / (rows * rate * (1 - rate))
    assert 0.6 < spread < 1.6, "a binomial number of rows: neither fixed nor clustered"
    again = (taken[1:] & taken[:-1]).mean()
    assert abs(again - rate**2) < 6 * np.sqrt(rate**2 / taken.size)


def test_the_server_is_not_told_how_many_rows_were_sampled(tmp_path: Path) -> None:
    """Every answer of a masked stage has the same size, whatever was drawn."""
    fleet = real(enrolled(tmp_path / "stores", 4, LARGE), settings())
    sizes = set()
    for number in range(3):
        fleet.sum(fleet.promise(f"round-{number}", work()), work())
        sizes |= {len(answer.body) for answer in fleet.post.answers(Kind.MASKED).values()}
    assert len(sizes) == 1


# --- messages ---


def test_an_array_that_announces_more_than_it_brings_is_refused_before_memory_is_taken() -> None:
    from fedinfer.messages import FitWork

    honest = encode(FitWork(np.zeros(4, np.float32), 0))
    at = honest.index((4).to_bytes(4, "little"), honest.index(b"FitWork"))
    huge = honest[:at] + (2**32 - 1).to_bytes(4, "little") + honest[at + 4 :]
    with pytest.raises(BadMessage, match="larger than a message may be"):
        decode(FitWork, huge)
    more = honest[:at] + (5).to_bytes(4, "little") + honest[at + 4 :]  # fits a message, but is not there
    with pytest.raises(BadMessage, match="truncated"):
        decode(FitWork, more)


def test_no_message_is_longer_than_its_limit() -> None:
    from fedinfer.messages import HealthRequest

    with pytest.raises(BadMessage, match="limit"):
        decode(HealthRequest, encode(HealthRequest(1)), limit_bytes=8)
    assert MAX_BYTES == 1 << 30
