"""What a plan costs: the events that server and device both write into their ledgers, derived from the plan alone.

A device does not take the server's word for the price: it computes it from the same plan that it will carry out.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from typing import assert_never

from fedinfer.config import Scenario
from fedinfer.errors import ConfigError, Misbehaviour
from fedinfer.messages import INDEPENDENT, Purpose, SumPlan
from fedinfer.privacy.accounting.events import Event, InPart
from fedinfer.privacy.accounting.filter import Promise, PromiseLine, read_promise
from fedinfer.privacy.accounting.ledger_records import Protected
from fedinfer.privacy.mechanism.matrix_mechanism import Factorization, Participation
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism
from fedinfer.privacy.mechanism.noise import pieces
from fedinfer.privacy.noise_model import Central, noise_model
from fedinfer.types import Relation, Unit
from fedinfer.wire import decode, encode

MOST_SAMPLES = 1 << 34
"""Samples that a device draws for one share, at most: an hour's work. A share above the largest table's variance is a
sum of many samples, so one number in a plan could keep a device busy for years."""

TRAINED, WATCHED = "training", "windows"
"""Its parts: rows that are trained on, and rows that canary evaluations, and windows that are not live, are made of."""


@lru_cache(maxsize=64)
def _decoded(data: bytes) -> IntegerMechanism:
    return decode(IntegerMechanism, data)


def mechanism_of(plan: SumPlan) -> IntegerMechanism:
    """The integer mechanism of a plan.

    Args:
        plan: from a server; nothing in it is trusted.

    Raises:
        Misbehaviour: when it does not fit the ring that the plan promises, its signal or noise does not fit into that
            ring (nobody could decode such a sum), or one share of noise takes more than MOST_SAMPLES samples.
        BadMessage: the bytes are no mechanism.
    """
    mechanism = _decoded(plan.mechanism)
    # Masks have the plan's length and width: with another ring the sum would not cancel them, or cut the noise.
    if (mechanism.bits, mechanism.padded) != (plan.bits, plan.dimension):
        raise Misbehaviour(
            f"the mechanism needs {mechanism.padded} x {mechanism.bits} bits, "
            f"the plan has {plan.dimension} x {plan.bits}"
        )
    largest = max(mechanism.scale * mechanism.clipping_norm, math.sqrt(mechanism.share_variance))
    if largest >= 2**mechanism.bits:
        raise Misbehaviour(f"one unit or one share of noise reaches {largest:.3g} in a ring of {mechanism.bits} bits")
    samples = mechanism.padded * (pieces(mechanism.share_variance) if mechanism.share_variance else 1)
    if samples > MOST_SAMPLES:
        raise Misbehaviour(f"one share of noise takes {samples:.3g} samples, this device draws {MOST_SAMPLES:.3g}")
    return mechanism


def relation_of(unit: Unit) -> Relation:
    """Neighbours of a unit: with its content, or with a blank in its place that adds nothing to any sum.

    Who takes part, and how many rows each device holds, is public, so neither a device nor a row can be claimed to be
    there or not: its place stays, and its content is what is hidden (zero-out-one, Kairouz et al. 2021, *Practical and
    private (deep) learning without sampling or shuffling*, section 1.1). docs/decisions/0013 has the choice.

    Args:
        unit: what is protected; for `none` the relation has no meaning.
    """
    match unit:
        case Unit.EXAMPLE | Unit.DEVICE | Unit.NONE:
            return Relation.ZERO_OUT
        case _:
            assert_never(unit)


def protected_of(unit: Unit) -> Protected:
    """What a ledger's account for a unit protects.

    Args:
        unit: of the scenario.
    """
    return Protected(unit, relation_of(unit))


class WindowRows(StrEnum):
    """What the windows of a run are made of."""

    HELD_OUT = "held out"
    """Rows of the table that are not trained on: in a simulation."""
    LIVE = "held out, windows live"
    """What a device predicted in service: in a deployment. Nobody knows whether the same case is a training row."""


def split_of(scenario: Scenario, windows: WindowRows) -> str:
    """How the rows of a device are divided into rows that are trained on and rows that are held out.

    This is the one place, with `touching`, that says which releases add up and which do not. Held-out rows follow from
    the table's length, `data.test_fraction` and the device's name (with `data.time`: from their order), for the whole
    run: a device refuses a run under which its division changes. So no row is in both parts, and `parallel` counts the
    worse part instead of the sum. Canary evaluations and choices of a threshold are made of held-out rows, and so are
    the windows of simulations. Windows of live predictions count for every row.

    Args:
        scenario: of the run; server and device have the same.
        windows: what its windows are made of.

    Returns:
        Name of the division, for the ledger of a run; empty where whole devices are protected.
    """
    match scenario.privacy.unit:
        case Unit.EXAMPLE:
            return str(windows)
        case Unit.DEVICE | Unit.NONE:
            return ""
        case _:
            assert_never(scenario.privacy.unit)


def touching(event: Event, purpose: Purpose, split: str) -> Event:
    """The event, marked with the rows that a sum for this purpose is made of.

    Args:
        event: what the sum costs.
        purpose: of the sum.
        split: from `split_of`, or a device's own name for its division; empty: the sum may touch every unit.
    """
    match purpose:
        case Purpose.TRAIN:
            return InPart(split, TRAINED, event) if split else event
        case Purpose.GATE | Purpose.THRESHOLD:
            return InPart(split, WATCHED, event) if split else event
        case Purpose.DRIFT:
            return InPart(split, WATCHED, event) if split and not split.startswith(WindowRows.LIVE) else event
        case _:
            assert_never(purpose)


def encode_promise(lines: Sequence[tuple[Purpose, PromiseLine]]) -> bytes:
    """A promise as plans carry it: lines with what they are for, since each device marks the parts of its own rows.

    Args:
        lines: of the whole run.
    """
    found = [{"purpose": str(purpose), **json.loads(Promise((line,)).to_text())[0]} for purpose, line in lines]
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode()


def promise_in(plan: SumPlan, split: str) -> Promise:
    """What the server of a plan promises for its whole run.

    Args:
        plan: from a server; nothing in it is trusted.
        split: how the rows of this device are divided, see `split_of`.

    Raises:
        Misbehaviour: when it is no promise.
    """
    return _promise_in(plan.promise, split)


@lru_cache(maxsize=64)
def _promise_in(text: bytes, split: str) -> Promise:
    if not text:
        return Promise()
    try:
        found = json.loads(text)
        plain = read_promise(json.dumps([{key: row[key] for key in ("most", "events")} for row in found]))
        purposes = [Purpose(row["purpose"]) for row in found]
        return Promise(
            tuple(
                PromiseLine(line.most, tuple(touching(event, purpose, split) for event in line.events))
                for purpose, line in zip(purposes, plain.lines, strict=True)
            )
        )
    except (ConfigError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Misbehaviour(f"the promise of the run cannot be read: {str(error)[:200]}") from error


def charge(plan: SumPlan, split: str = "") -> tuple[Event, ...]:
    """Events of one private sum, for one unit of privacy that takes part in it.

    Args:
        plan: from a server; nothing in it is trusted.
        split: how rows are divided into parts, see `split_of`; empty: the sum counts for every unit.

    Returns:
        One event; `NonPrivate` for unit `none`.

    Raises:
        ConfigError: noise outside the ring with a noise multiplier or sampling rate that no event may have.
        Misbehaviour: a plan that claims privacy but has no noise, or counts noise of more devices than it promises, or
            correlates noise that no single party adds, or samples beside it.
        BadMessage: the mechanism of the plan cannot be decoded.
    """
    return (touching(_event(plan), plan.purpose, split),)


def _event(plan: SumPlan) -> Event:
    if plan.scheduled != INDEPENDENT:
        return _correlated(plan)
    model, mechanism = noise_model(plan.trust, plan.unit), mechanism_of(plan)
    if model.noise_in_ring:
        _check_shares(plan, mechanism)
    return model.event(mechanism, plan.noise_multiplier, plan.sampling_rate, plan.local_steps)


def _check_shares(plan: SumPlan, mechanism: IntegerMechanism) -> None:
    if mechanism.unit is not plan.unit:
        raise Misbehaviour(f"the mechanism protects a {mechanism.unit}, the plan promises a {plan.unit}")
    # Shares sized for more devices than are sure to survive would make the claimed noise a fiction.
    if mechanism.contributors > plan.min_survivors:
        raise Misbehaviour(
            f"noise counts on {mechanism.contributors} shares, only {plan.min_survivors} survivors are promised"
        )


def server_charge(plan: SumPlan, split: str = "") -> tuple[Event, ...]:
    """Events of one private sum for a ledger that stands for every unit at once.

    With correlated noise every unit takes part at most once in `separation` rounds (a cycle of the participation
    schedule), so after the rounds of cycle k no unit owes more than the charges of cycles 0..k. They are due in the
    first round of each cycle, and the other rounds cost nothing.

    Args:
        plan: the one that the devices get.
        split: as in `charge`.

    Returns:
        No event in the later rounds of a cycle; else as `charge`.

    Raises:
        ConfigError: as in `charge`.
        Misbehaviour: see `charge`.
    """
    events = charge(plan, split)
    return () if plan.scheduled.index % plan.scheduled.separation else events


def strategy_of(plan: SumPlan) -> bytes:
    """SHA-256 of what may not change between rounds whose noise is correlated: their charges would not add up.

    Args:
        plan: of any round of the schedule.

    Returns:
        32 bytes, equal for all rounds of one schedule.
    """
    strategy = encode(replace(plan.scheduled, index=0)) + plan.mechanism + struct.pack("<d", plan.noise_multiplier)
    return hashlib.sha256(strategy).digest()


def _correlated(plan: SumPlan) -> Event:
    scheduled = plan.scheduled
    if not isinstance(noise_model(plan.trust, plan.unit), Central):
        raise Misbehaviour(f"correlated noise for unit {plan.unit} with {plan.trust} trust: only a server can add it")
    # The charges of the cycles are proved for the plain Gaussian mechanism on C G; sampling amplification is not.
    if plan.sampling_rate != 1 or plan.local_steps != 1:
        raise Misbehaviour(
            f"correlated noise with sampling rate {plan.sampling_rate}, {plan.local_steps} local steps: both must be 1"
        )
    if not 0 <= scheduled.index < scheduled.rounds or len(scheduled.coefficients) > scheduled.rounds:
        raise Misbehaviour(
            f"round index {scheduled.index} and {len(scheduled.coefficients)} coefficients for {scheduled.rounds} "
            "rounds"
        )
    try:
        factorization = Factorization(
            scheduled.coefficients, Participation(scheduled.rounds, scheduled.limit, scheduled.separation)
        )
    except ConfigError as error:
        raise Misbehaviour(f"correlated noise: {error}") from error
    return factorization.charge(plan.noise_multiplier, scheduled.index // scheduled.separation)
