"""One private sum: the server's side of the flow that training, drift reports and canary evaluations share.

plan -> keys -> shares -> masked vectors -> survivors -> unmask -> total (Bonawitz et al. 2017, figure 4; the sparse
graph is that of Bell et al. 2020). The ledger has been charged before this is called. The pure state machine of
fedinfer.secagg says what to ask; this module only carries it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from fedinfer.errors import BadMessage, BudgetExceeded
from fedinfer.messages import Kind, MaskedSumWork, PlainReply, PlainRequest, SumPlan
from fedinfer.ports import Adder, Ask, Transport
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


class _Meter:
    """Adds up what was sent and received, and who refused."""

    def __init__(self, transport: Transport, deadline_seconds: float, cohort: int) -> None:
        self._transport = transport
        self._deadline = deadline_seconds
        self._cohort = cohort
        self._up = self._down = 0
        self.refused: list[DeviceId] = []
        self.errors: list[tuple[DeviceId, str]] = []

    def ask(self, asks: Sequence[Ask]) -> dict[DeviceId, bytes]:
        """Bodies of the devices that answered without an error."""
        self._down += sum(len(ask.common) + len(ask.own) for ask in asks)
        answers = self._transport.ask(asks, self._deadline)
        self._up += sum(len(answer.body) for answer in answers)
        self.refused += [answer.device for answer in answers if answer.error == BudgetExceeded.__name__]
        self.errors += [(answer.device, f"{answer.error}: {answer.detail}") for answer in answers if answer.error]
        return {answer.device: answer.body for answer in answers if not answer.error}

    @property
    def traffic(self) -> Traffic:
        """Mean bytes per cohort member."""
        return Traffic(self._up // self._cohort, self._down // self._cohort)


def private_sum(
    plan: SumPlan,
    work: bytes,
    roster: Mapping[DeviceId, bytes],
    transport: Transport,
    deadline_seconds: float,
) -> Total | AbortedSum:
    """Run one sum, masked or in plaintext as the plan says.

    Args:
        plan: the promise; every device of the cohort gets the same bytes.
        work: encoded FitWork, ReportWork or GateWork with the SHA-256 that the plan carries.
        roster: Ed25519 public key of every enrolled device, 32 bytes each.
        transport: reaches the devices.
        deadline_seconds: longest wait in each stage, > 0.

    Returns:
        The total; or why there is none. Too few survivors are no exception: the ledger must be committed either way.
    """
    meter = _Meter(transport, deadline_seconds, len(plan.cohort))
    match plan.mode:
        case AggregationMode.PROTOCOL:
            return _masked_sum(plan, work, roster, meter)
        case AggregationMode.IDEAL if isinstance(transport, Adder):
            return _sum_where_they_are(plan, work, transport)
        case AggregationMode.IDEAL | AggregationMode.OFF:
            return _plain_sum(plan, work, meter)
        case _:
            assert_never(plan.mode)


def _masked_sum(plan: SumPlan, work: bytes, roster: Mapping[DeviceId, bytes], meter: _Meter) -> Total | AbortedSum:
    first = encode(plan)
    state: ServerState
    session = session_of(plan)
    state, requests = secagg.begin(session, roster)
    while not isinstance(state, Done | Aborted):
        state, requests = secagg.step(state, meter.ask(_asks(requests, first, work, session)))
    refused = tuple(sorted(meter.refused))
    if isinstance(state, Aborted):
        return AbortedSum(
            state.reason, state.stage, state.survivors, refused, state.blamed, tuple(meter.errors), meter.traffic
        )
    return Total(state.total, state.survivors, refused, state.blamed, tuple(meter.errors), meter.traffic)


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


def _plain_sum(plan: SumPlan, work: bytes, meter: _Meter) -> Total | AbortedSum:
    common = encode(PlainRequest(plan, work))
    mechanism = mechanism_of(plan)
    most = packed_size(mechanism.bits, mechanism.padded) + _HEADER_BYTES
    bodies = meter.ask([Ask(device, Kind.PLAIN, common, most_reply=most) for device in plan.cohort])
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
