"""Synchronous rounds with over-selection and a deadline (Bonawitz et al. 2019, *Towards federated learning at scale*).

More devices are asked than are wanted; the round ends when enough have answered, or at the deadline. Answers that come
later are thrown away: that is what over-selection costs. A round with too few answers for its noise releases nothing.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from fedinfer.fleet.jobs import Fate, Jobs, begin_jobs
from fedinfer.fleet.server import VirtualServer
from fedinfer.fleet.state import FleetKeeper, restore, to_checkpoint
from fedinfer.fleet.sums import chunks_of
from fedinfer.fleet.tally import TOO_LATE, USED
from fedinfer.fleet.waiting import ClockPatience
from fedinfer.system import simulation_rng
from fedinfer.training import Checkpoint


def run_synchronous(server: VirtualServer, keeper: FleetKeeper, kept: Checkpoint | None) -> None:
    """All rounds of a scenario.

    Args:
        server: at its beginning; it is moved on.
        keeper: gets the state after each sum.
        kept: state of a process that is gone; None: the run begins.

    Raises:
        ConfigError: the state is of another run.
        TooFewSurvivors: no round could be made for days of virtual time.
    """
    rng = simulation_rng(server.seed, "fleet", "selection")
    number = 0 if kept is None else int(restore(server, rng, kept)["round"])
    patience = ClockPatience(server)
    while len(server.releases) < server.fixed.scenario.training.rounds:
        done = _round(server, rng, number)
        number += 1
        if done:
            patience.renew()
            keeper.keep(partial(to_checkpoint, server, rng, {"round": number}, {}))
        else:
            server.failed += 1
            patience.wait("a round with enough answers")


def _round(server: VirtualServer, rng: np.random.Generator, number: int) -> bool:
    """One round; False where it released nothing."""
    fixed, registry = server.fixed, server.registry
    wanted = fixed.budget.answers
    asked = math.ceil(wanted * fixed.scenario.fleet.clock.over_selection)
    devices = registry.select(asked, server.now, rng)
    if len(devices) < fixed.budget.least:
        return False
    rows = fixed.work.rows_of(fixed.rows.training_sizes_of(devices))
    jobs = begin_jobs(registry, fixed.scenario.fleet, fixed.work, devices, rows, server.now, number)
    end, used = end_of_round(jobs, wanted, fixed.scenario.training.deadline_seconds)
    enough = len(used) >= fixed.budget.least
    _count(server, jobs, used if enough else used[:0], end)
    server.now = end
    if not enough:
        return False
    began = np.full(len(used), jobs.began)
    chunks = chunks_of(
        len(server.releases), devices[used], began, np.ones(len(used)), server.weights, fixed.budget.mechanism
    )
    server.release(chunks, len(used), np.zeros(len(used)))
    return True


def end_of_round(jobs: Jobs, wanted: int, deadline_seconds: float) -> tuple[float, np.ndarray]:
    """When a round ends, and whose answers it uses.

    Args:
        jobs: of everybody who was asked.
        wanted: answers that are enough.
        deadline_seconds: longest wait.

    Returns:
        Virtual seconds, and places in `jobs` in the order of the answers. Without enough answers a server cannot know
        that no more will come: it waits for the deadline.
    """
    order = np.argsort(jobs.end, kind="stable")
    deadline = jobs.began + deadline_seconds
    answered = order[(jobs.fate[order] == Fate.ANSWERED) & (jobs.end[order] <= deadline)]
    used = answered[:wanted]
    return (float(jobs.end[used[-1]]) if len(used) == wanted else deadline), used


def _count(server: VirtualServer, jobs: Jobs, used: np.ndarray, end: float) -> None:
    """Bytes and energy: who is not through at the end of the round is told to stop."""
    tally, work, spent = server.tally, server.fixed.work, jobs.until(end)
    server.registry.spend(jobs.devices, spent, server.now)
    over = jobs.end <= end
    in_sum = np.zeros(len(spent), np.bool_)
    in_sum[used] = True
    answered = over & (jobs.fate == Fate.ANSWERED)
    failed = over & ~answered
    late = ~in_sum & ~failed
    tally.asked += len(spent)
    tally.down_bytes += work.down * len(spent)
    tally.up_bytes += work.up * int(answered.sum())
    tally.count(USED, int(in_sum.sum()), float(spent[in_sum].sum()))
    tally.count(TOO_LATE, int(late.sum()), float(spent[late].sum()))
    tally.count_fates(jobs.fate[failed], spent[failed])
