"""Private sums: the server's side of the flow that training, drift reports and canary evaluations share.

plan -> keys -> shares -> masked vectors -> survivors -> unmask -> total (Bonawitz et al. 2017, figure 4; the sparse
graph is that of Bell et al. 2020). The ledger has been charged before this is called. The pure state machine of
fedinfer.secagg says what to ask; this module only carries it.

The groups of a round go through the stages side by side: one exchange carries what all of them ask, so a round with
groups takes five exchanges as one without, and waits in each for the slowest device of all groups. Every group has a
state of its own and reads nothing but the answers of its own devices, so its sum is the one that it would have alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from fedinfer.errors import BadMessage, BudgetExceeded
from fedinfer.messages import Kind, MaskedSumWork, PlainReply, PlainRequest, SumPlan
from fedinfer.ports import Adder, Answer, Ask, Transport
from fedinfer.privacy import mechanism_of
from fedinfer.secagg import (
    Aborted,
    Done,
    ServerState,
    Session,
    Stage,
    StageRequest,
    answer_limit,
    ideal_sum,
    packed_size,
    session_of,
    unpack,
)
from fedinfer.secagg import server as secagg
from fedinfer.types import AggregationMode, DeviceId, RingVector
from fedinfer.wire import decode, encode

KINDS = {
    Stage.KEYS: Kind.KEYS,
    Stage.SHARES: Kind.SHARES,
    Stage.MASKED: Kind.MASKED,
    Stage.SURVIVORS: Kind.SURVIVORS,
    Stage.UNMASK: Kind.UNMASK,
}


_HEADER_BYTES = 64
"""A PlainReply is at most so much longer than its packed vector."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes per device of one sum: the mean over the cohort."""

    up: int
    down: int


@dataclass(frozen=True, slots=True)
class Total:
    """The sum mod 2^bits over the survivors; still carries the mechanism's scale and rotation.

    Args:
        ring: integers modulo 2^bits, uint32 (padded,).
        survivors: devices whose vectors are in the sum.
        refused: devices whose own ledger refused.
        blamed: devices that broke the protocol, with what they did.
        errors: what devices answered instead of taking part.
        traffic: mean bytes per device of the cohort.
    """

    ring: RingVector
    survivors: tuple[DeviceId, ...]
    refused: tuple[DeviceId, ...]
    blamed: tuple[tuple[DeviceId, str], ...]
    errors: tuple[tuple[DeviceId, str], ...]
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class AbortedSum:
    """No sum, because too few devices were left. What left the devices counts in every ledger all the same.

    Args:
        reason: for people, with numbers.
        stage: of the protocol in which it ended.
        survivors: devices that were left then.
        refused, blamed, errors, traffic: as in `Total`.
    """

    reason: str
    stage: str
    survivors: tuple[DeviceId, ...]
    refused: tuple[DeviceId, ...]
    blamed: tuple[tuple[DeviceId, str], ...]
    errors: tuple[tuple[DeviceId, str], ...]
    traffic: Traffic


MOST_BYTES_TOGETHER = 1 << 30
"""Masked vectors that are waited for at once; groups beyond it wait for their turn."""


class _Meter:
    """Adds up what was sent to one cohort and received, and who refused."""

    def __init__(self, cohort: int) -> None:
        self._cohort = cohort
        self._up = self._down = 0
        self.refused: list[DeviceId] = []
        self.errors: list[tuple[DeviceId, str]] = []

    def sent(self, asks: Sequence[Ask]) -> None:
        """Count what is asked."""
        self._down += sum(len(ask.common) + len(ask.own) for ask in asks)

    def received(self, answers: Sequence[Answer]) -> dict[DeviceId, bytes]:
        """Bodies of the devices that answered without an error."""
        self._up += sum(len(answer.body) for answer in answers)
        self.refused += [answer.device for answer in answers if answer.error == BudgetExceeded.__name__]
        self.errors += [(answer.device, f"{answer.error}: {answer.detail}") for answer in answers if answer.error]
        return {answer.device: answer.body for answer in answers if not answer.error}

    @property
    def traffic(self) -> Traffic:
        """Mean bytes per cohort member."""
        return Traffic(self._up // self._cohort, self._down // self._cohort)


def private_sums(
    plans: Sequence[SumPlan],
    work: bytes,
    roster: Mapping[DeviceId, bytes],
    transport: Transport,
    deadline_seconds: float,
) -> tuple[Total | AbortedSum, ...]:
    """Run the sums of a round, masked or in plaintext as the plans say, side by side.

    Args:
        plans: the promises, of one mode; every device of a cohort gets the same bytes.
        work: encoded FitWork, ReportWork or GateWork with the SHA-256 that the plans carry.
        roster: Ed25519 public key of every enrolled device, 32 bytes each.
        transport: reaches the devices.
        deadline_seconds: longest wait in each stage, > 0.

    Returns:
        Per plan the total; or why there is none. Too few survivors are no exception: the ledger must be committed
        either way.
    """
    found: list[Total | AbortedSum] = []
    for some in _batches(plans):
        exchange = _Exchange(transport, deadline_seconds, some)
        match some[0].mode:
            case AggregationMode.PROTOCOL:
                found += _masked_sums(some, work, roster, exchange)
            case AggregationMode.IDEAL if isinstance(transport, Adder):
                found += [_sum_where_they_are(plan, work, transport) for plan in some]
            case AggregationMode.IDEAL | AggregationMode.OFF:
                found += _plain_sums(some, work, exchange)
            case _:
                assert_never(some[0].mode)
    return tuple(found)


def _batches(plans: Sequence[SumPlan]) -> list[list[SumPlan]]:
    """Plans that go side by side: of different devices, and not more vectors than memory is for."""
    batches: list[list[SumPlan]] = []
    asked: set[DeviceId] = set()
    held = 0
    for plan in plans:
        size = len(plan.cohort) * packed_size(plan.bits, plan.dimension)
        if not batches or not asked.isdisjoint(plan.cohort) or held + size > MOST_BYTES_TOGETHER:
            batches.append([])
            asked, held = set(), 0
        batches[-1].append(plan)
        asked.update(plan.cohort)
        held += size
    return batches


class _Exchange:
    """Carries the asks of several sums at once, and gives each the answers of its own devices."""

    def __init__(self, transport: Transport, deadline_seconds: float, plans: Sequence[SumPlan]) -> None:
        self._transport, self._deadline = transport, deadline_seconds
        self.meters = [_Meter(len(plan.cohort)) for plan in plans]
        self._home = {device: place for place, plan in enumerate(plans) for device in plan.cohort}

    def ask(self, wanted: Mapping[int, Sequence[Ask]]) -> dict[int, dict[DeviceId, bytes]]:
        """Bodies by place of the plan and device."""
        for place, asks in wanted.items():
            self.meters[place].sent(asks)
        every = [ask for asks in wanted.values() for ask in asks]
        parts: dict[int, list[Answer]] = {place: [] for place in wanted}
        for answer in self._transport.ask(every, self._deadline):
            home = self._home.get(answer.device)
            if home is not None and home in parts:  # else nobody asked, or its sum is over
                parts[home].append(answer)
        return {place: self.meters[place].received(answers) for place, answers in parts.items()}


def _masked_sums(
    plans: Sequence[SumPlan], work: bytes, roster: Mapping[DeviceId, bytes], exchange: _Exchange
) -> list[Total | AbortedSum]:
    firsts, sessions = [encode(plan) for plan in plans], [session_of(plan) for plan in plans]
    begun = [secagg.begin(session, roster) for session in sessions]
    states: list[ServerState] = [state for state, _ in begun]
    requests = dict(enumerate(requests for _, requests in begun))
    while open_ := [place for place, state in enumerate(states) if not isinstance(state, Done | Aborted)]:
        answers = exchange.ask({place: _asks(requests[place], firsts[place], work, sessions[place]) for place in open_})
        for place in open_:
            states[place], requests[place] = secagg.step(states[place], answers[place])
    return [_masked_result(state, meter) for state, meter in zip(states, exchange.meters, strict=True)]


def _masked_result(state: ServerState, meter: _Meter) -> Total | AbortedSum:
    refused, errors = tuple(sorted(meter.refused)), tuple(meter.errors)
    match state:
        case Done():
            return Total(state.total, state.survivors, refused, state.blamed, errors, meter.traffic)
        case Aborted():
            return AbortedSum(state.reason, state.stage, state.survivors, refused, state.blamed, errors, meter.traffic)
        case _:
            raise ValueError(f"a sum that is not over: {type(state).__name__}")


def _asks(requests: Mapping[DeviceId, StageRequest], plan: bytes, work: bytes, session: Session) -> list[Ask]:
    """Asks of one stage. What all devices get is encoded once; the plan and the work travel with it."""
    if not requests:
        return []
    first = next(iter(requests.values()))
    match first.stage:
        case Stage.KEYS:
            common = plan
        case Stage.MASKED:
            common = encode(MaskedSumWork(work, first.common))
        case Stage.SHARES | Stage.SURVIVORS | Stage.UNMASK:
            common = first.common
        case _:
            assert_never(first.stage)
    kind, most = KINDS[first.stage], answer_limit(session, first.stage)
    return [Ask(device, kind, common, request.own, most) for device, request in requests.items()]


def _sum_where_they_are(plan: SumPlan, work: bytes, adder: Adder) -> Total | AbortedSum:
    """The ideal sum of devices in this process: as `_plain_sum`, but nothing is packed that nobody would unpack."""
    common = encode(PlainRequest(plan, work))
    added = adder.add_up(common, plan.cohort)
    refused = tuple(sorted(answer.device for answer in added.refusals if answer.error == BudgetExceeded.__name__))
    errors = tuple((answer.device, f"{answer.error}: {answer.detail}") for answer in added.refusals)
    traffic = Traffic(added.reply_bytes * len(added.survivors) // len(plan.cohort), len(common))
    if len(added.survivors) < plan.min_survivors:
        return AbortedSum(_too_few(plan, added.survivors), "masked", added.survivors, refused, (), errors, traffic)
    return Total(added.ring, added.survivors, refused, (), errors, traffic)


def _too_few(plan: SumPlan, survivors: Sequence[DeviceId]) -> str:
    return f"{len(survivors)} survivors, threshold {plan.min_survivors}"


def _plain_sums(plans: Sequence[SumPlan], work: bytes, exchange: _Exchange) -> list[Total | AbortedSum]:
    wanted = {}
    for place, plan in enumerate(plans):
        common, mechanism = encode(PlainRequest(plan, work)), mechanism_of(plan)
        most = packed_size(mechanism.bits, mechanism.padded) + _HEADER_BYTES
        wanted[place] = [Ask(device, Kind.PLAIN, common, most_reply=most) for device in plan.cohort]
    bodies = exchange.ask(wanted)
    return [_plain_result(plan, bodies[place], exchange.meters[place]) for place, plan in enumerate(plans)]


def _plain_result(plan: SumPlan, bodies: Mapping[DeviceId, bytes], meter: _Meter) -> Total | AbortedSum:
    mechanism = mechanism_of(plan)
    rings: dict[DeviceId, RingVector] = {}
    blamed: list[tuple[DeviceId, str]] = []
    for device, body in sorted(bodies.items()):
        try:
            rings[device] = unpack(decode(PlainReply, body).packed, mechanism.bits, mechanism.padded)
        except BadMessage as error:
            blamed.append((device, str(error)))
    survivors, refused = tuple(rings), tuple(sorted(meter.refused))
    if len(survivors) < plan.min_survivors:
        return AbortedSum(
            _too_few(plan, survivors), "masked", survivors, refused, tuple(blamed), tuple(meter.errors), meter.traffic
        )
    total = ideal_sum(rings.values(), mechanism.bits)
    return Total(np.asarray(total), survivors, refused, tuple(blamed), tuple(meter.errors), meter.traffic)
