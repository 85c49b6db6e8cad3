"""The device's part of a private sum, one function per stage; each takes all asks of one message type.

Rules, each with a test of that name in tests/protocol/test_device_sums.py:
* a plan that does not name this device, or hides it among too few, is refused;
* spend is written to the device's ledger before data is touched;
* a refused device answers with BudgetExceeded and touches nothing;
* the work must have the hash that the plan promised;
* a round is started once; its secrets are wiped when it ends;
* sums without masks happen only where the owner's policy allows them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from fedinfer.device.host import Host
from fedinfer.device.sessions import Running
from fedinfer.device.vectors import private_vectors
from fedinfer.errors import FedInferError, Misbehaviour, TransportError
from fedinfer.messages import Kind, MaskedRequest, PlainReply, PlainRequest, SumPlan
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.charges import charge, mechanism_of
from fedinfer.privacy.encoding import encode as encode_vectors
from fedinfer.secagg import device as secagg
from fedinfer.secagg.packing import pack
from fedinfer.secagg.sessions import session_of
from fedinfer.types import AggregationMode, DeviceId, RingVector
from fedinfer.wire import decode, encode


def answer_keys(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """First stage: check the plan, make fresh keys."""
    plan = decode(SumPlan, asks[0].common)
    return [_answered(host, ask, lambda ask: _start(host, plan, ask)) for ask in asks]


def answer_stage(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Shares, survivors and unmask: nothing but the protocol."""
    return [_answered(host, ask, lambda ask: _advance(host, ask)) for ask in asks]


def answer_masked(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Third stage: spend, compute, encode, mask."""
    request = decode(MaskedRequest, asks[0].common)

    def masked(ask: Ask, plan: SumPlan, ring: RingVector) -> bytes:
        running = _expect(host, ask, Kind.SHARES)
        state, body = secagg.answer_masked(
            secagg.decode_state(running.state), request.secagg, ask.own, ring  # type: ignore[arg-type]
        )
        host.sessions.advance(ask.device, Running(plan.round_id, Kind.MASKED, running.plan, secagg.encode_state(state)))
        return body

    plans = {ask.device: _plan_of(host, ask) for ask in asks}
    alive = [ask for ask in asks if isinstance(plans[ask.device], SumPlan)]
    answers = {device: plan for device, plan in plans.items() if isinstance(plan, Answer)}
    if alive:
        plan = plans[alive[0].device]
        assert isinstance(plan, SumPlan)
        answers |= _contribute(host, plan, request.work, alive, masked)
    return [answers[ask.device] for ask in asks]


def answer_plain(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """The only stage of a sum without masks."""
    request = decode(PlainRequest, asks[0].common)
    plan = request.plan
    answers: dict[DeviceId, Answer] = {}
    alive: list[Ask] = []
    for ask in asks:
        try:
            _check_plan(host, plan, ask.device)
            if not host.policy.plain_sums or plan.mode is AggregationMode.PROTOCOL:
                raise Misbehaviour("this device does not send vectors without masks")
            _vanish(host, plan.round_id, ask)
            host.sessions.begin(ask.device, Running(plan.round_id, Kind.PLAIN, b"", b""))
            host.sessions.finish(ask.device)
            alive.append(ask)
        except FedInferError as error:
            answers[ask.device] = failure(ask.device, error)

    def packed(ask: Ask, plan: SumPlan, ring: RingVector) -> bytes:
        return encode(PlainReply(pack(ring, mechanism_of(plan).bits)))

    answers |= _contribute(host, plan, request.work, alive, packed)
    return [answers[ask.device] for ask in asks]


def failure(device: DeviceId, error: FedInferError) -> Answer:
    """A typed error as an ordinary reply."""
    return Answer(device, b"", type(error).__name__, str(error))


def _contribute(
    host: Host,
    plan: SumPlan,
    work: bytes,
    asks: Sequence[Ask],
    reply: Callable[[Ask, SumPlan, RingVector], bytes],
) -> dict[DeviceId, Answer]:
    """Spend for all, then compute and encode for those whose ledger agreed."""
    if hashlib.sha256(work).digest() != plan.work_hash:
        error = Misbehaviour(f"the work of round {plan.round_id} is not the one that was promised")
        return {ask.device: failure(ask.device, error) for ask in asks}
    devices = [ask.device for ask in asks]
    refused = host.ledger.reserve(
        devices, plan.run_id, plan.round_id, charge(plan), f"{plan.purpose} {plan.round_id}", host.clock.now()
    )
    answers: dict[DeviceId, Answer] = {}
    paying = [ask for ask in asks if refused[ask.device] is None]
    for device, error in refused.items():
        if error is not None:
            host.refused[device] = host.refused.get(device, 0) + 1
            answers[device] = failure(device, error)
    if not paying:
        return answers
    vectors = private_vectors(host, plan, work, [ask.device for ask in paying])
    mechanism = mechanism_of(plan)
    for ask, vector in zip(paying, vectors, strict=True):
        noise = host.noise(plan, ask.device, "share")
        ring = encode_vectors(vector, mechanism, plan.rotation_seed, noise, noise)
        answers[ask.device] = _answered(host, ask, lambda ask, ring=ring: reply(ask, plan, ring))  # type: ignore[misc]
    host.ledger.commit([ask.device for ask in paying], plan.run_id, plan.round_id, host.clock.now())
    return answers


def _start(host: Host, plan: SumPlan, ask: Ask) -> bytes:
    _check_plan(host, plan, ask.device)
    _vanish(host, plan.round_id, ask)
    member = host.members[ask.device]
    state, body = secagg.answer_keys(session_of(plan), member.identity, ask.device, host.entropy)
    host.sessions.begin(ask.device, Running(plan.round_id, Kind.KEYS, ask.common, secagg.encode_state(state)))
    return body


def _check_plan(host: Host, plan: SumPlan, device: DeviceId) -> None:
    if plan.run_id != host.joined().run_id:
        raise Misbehaviour(f"plan of run {plan.run_id!r}, this device joined {host.joined().run_id!r}")
    if device not in plan.cohort:
        raise Misbehaviour(f"device {device} is not in the cohort of round {plan.round_id}")
    if plan.min_survivors < host.policy.min_survivors:
        raise Misbehaviour(
            f"the plan hides this device among {plan.min_survivors} survivors, its owner demands "
            f"{host.policy.min_survivors}"
        )
    if len(plan.cohort) < plan.min_survivors:
        raise Misbehaviour(f"{len(plan.cohort)} devices cannot give {plan.min_survivors} survivors")


def _advance(host: Host, ask: Ask) -> bytes:
    kind = Kind(ask.kind)
    before = {Kind.SHARES: Kind.KEYS, Kind.SURVIVORS: Kind.MASKED, Kind.UNMASK: Kind.SURVIVORS}[kind]
    running = _expect(host, ask, before)
    _vanish(host, running.round_id, ask)
    state = secagg.decode_state(running.state)
    if kind is Kind.SHARES:
        next_state, body = secagg.answer_shares(state, ask.common, ask.own, host.joined().pinned, host.entropy)
    elif kind is Kind.SURVIVORS:
        next_state, body = secagg.answer_survivors(state, ask.common, ask.own)
    else:
        _, body = secagg.answer_unmask(state, ask.common, ask.own)
        host.sessions.finish(ask.device)
        return body
    host.sessions.advance(ask.device, Running(running.round_id, kind, running.plan, secagg.encode_state(next_state)))
    return body


def _plan_of(host: Host, ask: Ask) -> SumPlan | Answer:
    try:
        running = _expect(host, ask, Kind.SHARES)
        _vanish(host, running.round_id, ask)
        return decode(SumPlan, running.plan)
    except FedInferError as error:
        return failure(ask.device, error)


def _expect(host: Host, ask: Ask, stage: Kind) -> Running:
    running = host.sessions.load(ask.device)
    if running.stage is not stage:
        raise Misbehaviour(f"device {ask.device} is at stage {running.stage}, asked for {ask.kind}")
    return running


def _vanish(host: Host, round_id: str, ask: Ask) -> None:
    """Simulated devices vanish at a drawn stage and stay away for the rest of the round."""
    at = host.vanishes(round_id, ask.device)
    if at is not None and _order(Kind(ask.kind)) >= _order(at):
        host.sessions.finish(ask.device)
        raise TransportError(f"device {ask.device} vanished at {at} in round {round_id}")


def _order(kind: Kind) -> int:
    if kind is Kind.PLAIN:
        return _order(Kind.MASKED)
    return (Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK).index(kind)


def _answered(host: Host, ask: Ask, body: Callable[[Ask], bytes]) -> Answer:
    try:
        return Answer(ask.device, body(ask))
    except FedInferError as error:
        return failure(ask.device, error)
