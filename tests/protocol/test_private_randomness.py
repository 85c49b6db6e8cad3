"""What devices add and sample, round by round, against numbers worked out from the promise alone.

A device's share of the noise has the variance that the plan promises, is fresh in every round and on every device; the
rows of a round are drawn anew; nothing leaves that is longer than promised; and every report is charged.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedinfer.coordinator import drift
from fedinfer.coordinator.context import LEDGER_OWNER
from fedinfer.device.aggregate.contribution import private_vectors
from fedinfer.device.counted import layout_of
from fedinfer.device.host import Host
from fedinfer.drift import report_channels, width
from fedinfer.messages import FitWork, Kind, PlainReply, PlainRequest, Purpose, ReportWork
from fedinfer.ports import Ask
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.privacy.charges import mechanism_of
from fedinfer.secagg.packing import unpack
from fedinfer.types import Relation
from fedinfer.wire import decode, encode
from tests.protocol.fleet import DIMENSION, SCHEMA, Fleet, enrolled, real, rows, settings, simulated, work
from tests.protocol.opened import opened

DEVICES, ROUNDS = 4, 40
SUMMED = "privacy.device_epsilon = 1000.0\nsecure_aggregation.mode = 'ideal'\n"


def noise_of_round(fleet: Fleet, number: int) -> np.ndarray:
    """(devices, padded) whole numbers: what devices send for windows in which nothing was counted."""
    job = encode(ReportWork(number))
    plan, answers = fleet.promise(f"window-{number}", job, Purpose.DRIFT), []
    mechanism = mechanism_of(plan)
    for device in sorted(fleet.hosts):
        channels = report_channels(SCHEMA.classes)
        zeros = np.zeros(width(channels), np.float32)
        fleet.hosts[device].sketches.put(device, number, zeros, layout_of(channels))
    asks = [Ask(device, Kind.PLAIN, encode(PlainRequest(plan, job))) for device in sorted(fleet.hosts)]
    for answer in next(iter(fleet.post.responders.values())).answer(asks):  # all at once, as one process is asked
        assert not answer.error, answer
        ring = unpack(decode(PlainReply, answer.body).packed, plan.bits, plan.dimension).astype(np.int64)
        half = 1 << (mechanism.bits - 1)
        answers.append((ring + half) % (2 * half) - half)
    return np.stack(answers)


@pytest.mark.parametrize("unit", ["example", "device"])
def test_every_device_adds_its_whole_share_of_the_noise_anew_in_every_round(unit: str, tmp_path: Path) -> None:
    """`contributors` shares make z C; with fewer, smaller or repeated ones the claim would be of less noise."""
    fleet = simulated(tmp_path, settings(f'{SUMMED}privacy.unit = "{unit}"'), DEVICES)
    assert fleet.plan.drift is not None
    promised = fleet.plan.drift.mechanism
    share = (promised.scale * promised.clipping_norm * promised.noise_multiplier) ** 2 / promised.contributors
    seen = np.stack([noise_of_round(fleet, number) for number in range(1, ROUNDS + 1)]).astype(float)
    assert seen.shape == (ROUNDS, DEVICES, promised.padded)

    def expect(numbers: np.ndarray, variance: float) -> None:
        """The standard error of a variance of n values is its size times sqrt(2 / n)."""
        assert np.square(numbers).mean() == pytest.approx(variance, rel=5 * np.sqrt(2 / numbers.size))

    for device in range(DEVICES):
        expect(seen[:, device], share)
        expect(seen[:, device].sum(axis=0) / np.sqrt(ROUNDS), share)  # repeated in every round: ROUNDS times as much
    expect(seen.sum(axis=1), DEVICES * share)
    assert len({row.tobytes() for row in seen.reshape(-1, promised.padded)}) == ROUNDS * DEVICES


def fleet_of(kind: str, folder: Path, extra: str = "") -> Fleet:
    if kind == "simulated":
        return simulated(folder, settings(extra), DEVICES)
    return real(enrolled(folder / "stores", DEVICES, Budget(8.0, 1e-5)), settings(extra))


def holding(host: Host, x: np.ndarray, y: np.ndarray) -> None:
    host.rows = SimpleNamespace(training=lambda *_: (x, y))  # type: ignore[assignment]  # training rows only


@pytest.mark.parametrize("kind", ["simulated", "real"])
def test_each_round_draws_its_rows_anew(kind: str, tmp_path: Path) -> None:
    """Which of four rows are in a sum of gradients follows from the sum: four rows, four independent gradients."""
    fleet = fleet_of(kind, tmp_path)
    device = min(fleet.hosts)
    host, (x, y) = fleet.hosts[device], rows(3, 4)

    def summed(round_id: str, rate: float) -> np.ndarray:
        plan = fleet.promise(round_id, work(), sampling_rate=rate)
        return private_vectors(host, plan, work(), [device])[0].astype(np.float64)

    alone = []
    for row in range(4):
        holding(host, x[[row]], y[[row]])
        alone.append(summed(f"alone-{row}", 1.0))
    holding(host, x, y)
    sums = np.stack([summed(f"round-{number}", 0.5) for number in range(200)])
    taken = np.linalg.lstsq(np.stack(alone, axis=1), sums.T, rcond=None)[0].T
    np.testing.assert_allclose(taken, taken.round(), atol=1e-3)
    taken = taken.round().astype(bool)
    error = 5 * np.sqrt(0.25 / taken.size)
    assert taken.mean() == pytest.approx(0.5, abs=error)
    assert (taken[1:] == taken[:-1]).mean() == pytest.approx(0.5, abs=error), "two rounds agree on half of the rows"


@pytest.mark.parametrize("unit", ["example", "device"])
@pytest.mark.parametrize("kind", ["simulated", "real"])
def test_nothing_leaves_that_is_longer_than_the_clipping_norm(kind: str, unit: str, tmp_path: Path) -> None:
    """One row with a gradient longer than a hundredth, and an update longer than that: both leave with that length."""
    changes = f'privacy.unit = "{unit}"\nprivacy.clipping_norm = 0.01\ntraining.sampling_rate = 1.0\n'
    fleet = fleet_of(kind, tmp_path, changes + "privacy.epsilon = 30.0\nsecure_aggregation.dropout_rate = 0.0")
    device = min(fleet.hosts)
    holding(fleet.hosts[device], *rows(3, 1))
    job = encode(FitWork(np.zeros(DIMENSION, np.float32), 0, 0.01))
    vector = private_vectors(fleet.hosts[device], fleet.promise("round-1", job), job, [device])[0]
    assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(0.01, rel=1e-3)


def test_every_report_of_a_window_is_charged_to_the_run(tmp_path: Path) -> None:
    """As much as each device charges by itself, who has its own ledger; the window itself costs nothing."""
    run = opened(tmp_path, settings(SUMMED), 8)
    watch = drift.start_watch(run.server.scenario, run.plan)
    put_report(run.host)
    drift._report(run.server, run.plan.drift, window_one(run.progress), watch, sorted(run.host.members))
    (own,) = run.host.ledger.entries(min(run.host.members))
    (charged,) = run.server.ledger.entries(LEDGER_OWNER)
    assert (charged.reference, charged.event) == (own.reference, own.event) == ("window-0001", own.event)
    spent = run.server.account.spent().epsilon
    assert spent == account([own.event], 1e-5, Relation.ZERO_OUT).epsilon > 0


def put_report(host: Host) -> None:
    for device in host.members:
        channels = report_channels(SCHEMA.classes)
        host.sketches.put(device, 1, np.ones(width(channels), np.float32), layout_of(channels))


def window_one(progress: drift.Progress) -> drift.Progress:
    progress.window = 1
    return progress
