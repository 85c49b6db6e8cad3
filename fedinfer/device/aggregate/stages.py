"""The device's part of a private sum, one function per stage; each takes all asks of one message type.

Rules, each with a test in tests/protocol/test_device_rules.py:
* a plan that breaks the owner's rules (`check_plan`) is refused, at the first stage and again before data is
  touched: joining another task in mid-round changes nothing that was promised;
* spend is written to the device's ledger before data is touched;
* a refused device answers with BudgetExceeded and touches nothing;
* the work must have the hash that the plan promised;
* with correlated noise a device takes part in no round before its participation schedule allows it, also not after a
  restart;
* a round is started once, each stage is answered once, also by two processes at a time; secrets are wiped at the end,
  and at once when the device refuses;
* sums without masks happen only where the owner's policy allows them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar, assert_never

from fedinfer.device.aggregate.check_plan import check_plan, corruption_rate
from fedinfer.device.aggregate.contribution import private_vectors
from fedinfer.device.aggregate.refusals import answered, failure, sorted_out
from fedinfer.device.aggregate.spending import charged, divided
from fedinfer.device.host import Host
from fedinfer.device.session_store import Running
from fedinfer.errors import BudgetExceeded, FedInferError, Misbehaviour, TransportError
from fedinfer.messages import INDEPENDENT, Kind, MaskedSumWork, PlainReply, PlainRequest, SumPlan
from fedinfer.ports import Answer, Ask
from fedinfer.privacy import Refusal, mechanism_of, strategy_of
from fedinfer.privacy import encode as encode_vectors
from fedinfer.secagg import (
    DeviceState,
    PairSecrets,
    SentKeys,
    SentMasked,
    SentShares,
    SignedSurvivors,
    agree,
    check_session,
    decode_state,
    encode_state,
    pack,
    session_of,
)
from fedinfer.secagg import device as secagg
from fedinfer.types import AggregationMode, DeviceId, RingVector
from fedinfer.wire import decode, encode

STAGES = (Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK)
Reply = Callable[[Ask, SumPlan, RingVector], bytes]
S = TypeVar("S")


def answer_keys(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """First stage: check the plan, make fresh keys.

    Args:
        host: wiring of this process.
        asks: with one common part, an encoded `SumPlan`.

    Returns:
        One answer per ask, in order: a signed `KeysBody`, or the device's own refusal.

    Raises:
        BadMessage: the common part cannot be decoded.
    """
    plan = decode(SumPlan, asks[0].common)
    return [answered(ask, lambda ask: _start(host, plan, ask)) for ask in asks]


def answer_shares(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Second stage: check the members' identities, share this device's secrets among its holders.

    Args:
        host: wiring of this process.
        asks: with one common part, an encoded `KeyList`.

    Returns:
        One answer per ask, in order: a signed `SharesBody`, or the device's own refusal.
    """
    # A real device is alone in its process; of simulated ones either end of a pair computes what both need.
    agreement = PairSecrets().agree if host.policy.reveals_simulation else agree

    def step(ask: Ask) -> bytes:
        running, state = _running(host, ask, Kind.KEYS, SentKeys)
        with _wiped_on_refusal(host, ask.device):
            pinned = host.joined().pinned
            after, body = secagg.answer_shares(state, ask.common, ask.own, pinned, host.entropy, agreement)
        _advance(host, ask.device, running, Kind.SHARES, after)
        return body

    return [answered(ask, step) for ask in asks]


def answer_masked(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Third stage: spend, compute, encode, mask.

    Args:
        host: wiring of this process.
        asks: with one common part, an encoded `MaskedSumWork`; the own part is an encoded `Inbox`.

    Returns:
        One answer per ask, in order: a signed `MaskedBody`, or the device's own refusal.

    Raises:
        BadMessage: the common part cannot be decoded.
        Misbehaviour: the plan of the first stage does not fit the task that was joined since, or the work is wrong.
    """
    request = decode(MaskedSumWork, asks[0].common)
    alive, answers = sorted_out(asks, lambda ask: _running(host, ask, Kind.SHARES, SentShares))

    def reply(ask: Ask, _: SumPlan, ring: RingVector) -> bytes:
        running, state = _running(host, ask, Kind.SHARES, SentShares)
        with _wiped_on_refusal(host, ask.device):
            after, body = secagg.answer_masked(state, request.secagg, ask.own, ring)
        _advance(host, ask.device, running, Kind.MASKED, after)
        return body

    if alive:
        plan = decode(SumPlan, host.sessions.load(alive[0].device).plan)
        # The device may have joined another task since the first stage: what it would clip to now must fit the plan.
        with _wiped_on_refusal(host, *(ask.device for ask in alive)):
            check_plan(host, plan, alive[0].device)
        answers |= _contribute(host, plan, request.work, alive, reply)
    return [answers[ask.device] for ask in asks]


def answer_plain(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """The only stage of a sum without masks: check the plan, spend, compute, encode.

    Args:
        host: wiring of this process.
        asks: with one common part, an encoded `PlainRequest`.

    Returns:
        One answer per ask, in order: an encoded `PlainReply`, or the device's own refusal.

    Raises:
        BadMessage: the common part cannot be decoded.
        Misbehaviour: the work does not fit the plan.
    """
    request = decode(PlainRequest, asks[0].common)

    def reply(_: Ask, plan: SumPlan, ring: RingVector) -> bytes:
        return encode(PlainReply(pack(ring, plan.bits)))

    alive, answers = sorted_out(asks, lambda ask: _start_plain(host, request.plan, ask))
    answers |= _contribute(host, request.plan, request.work, alive, reply)
    return [answers[ask.device] for ask in asks]


def _start_plain(host: Host, plan: SumPlan, ask: Ask) -> None:
    check_plan(host, plan, ask.device)
    begin_plain(host, plan, ask)


def begin_plain(host: Host, plan: SumPlan, ask: Ask) -> None:
    """Begin and end a sum without masks on a device that has checked the plan.

    Args:
        host: wiring of this process.
        plan: checked.
        ask: to one of its devices.

    Raises:
        Misbehaviour: the owner's policy allows no such sums, or the round was begun before.
        TransportError: the device drops out here (a simulation).
    """
    if not host.policy.plain_sums or not _is_plain(plan.mode):
        raise Misbehaviour(f"device {ask.device} does not send vectors without masks")
    _drop_out(host, plan.round_id, ask)
    _take_scheduled(host, plan, ask.device)
    # Nothing is kept between messages here; begun and ended at once, so that no round is answered twice.
    host.sessions.begin(ask.device, Running(plan.round_id, Kind.PLAIN, b"", b"", plan.run_id))
    host.sessions.finish(ask.device)


def _is_plain(mode: AggregationMode) -> bool:
    match mode:
        case AggregationMode.PROTOCOL:
            return False
        case AggregationMode.IDEAL | AggregationMode.OFF:
            return True
        case _:
            assert_never(mode)


def answer_survivors(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Fourth stage: check the survivor sets and sign them, once.

    Args:
        host: wiring of this process.
        asks: with one common part, an encoded `SurvivorSets`.

    Returns:
        One answer per ask, in order: the signed sets, or the device's own refusal.
    """

    def step(ask: Ask) -> bytes:
        running, state = _running(host, ask, Kind.MASKED, SentMasked)
        with _wiped_on_refusal(host, ask.device):
            after, body = secagg.answer_survivors(state, ask.common, ask.own)
        _advance(host, ask.device, running, Kind.SURVIVORS, after)
        return body

    return [answered(ask, step) for ask in asks]


def answer_unmask(host: Host, asks: Sequence[Ask]) -> list[Answer]:
    """Last stage: reveal one share per dealer, once, and wipe everything.

    Args:
        host: wiring of this process.
        asks: with one common part, an encoded `UnmaskRequest`; the own part is an encoded `Acknowledgements`.

    Returns:
        One answer per ask, in order: a signed `UnmaskBody`, or the device's own refusal.
    """

    def step(ask: Ask) -> bytes:
        running, state = _running(host, ask, Kind.SURVIVORS, SignedSurvivors)
        with _wiped_on_refusal(host, ask.device):
            _, body = secagg.answer_unmask(state, ask.common, ask.own)
        _complete(host, ask.device, running)
        return body

    return [answered(ask, step) for ask in asks]


def _contribute(host: Host, plan: SumPlan, work: bytes, asks: Sequence[Ask], reply: Reply) -> dict[DeviceId, Answer]:
    """Spend for all, then compute and encode for those whose ledger agreed."""
    try:
        check_work(plan, work)
    except Misbehaviour as error:
        _wipe(host, *(ask.device for ask in asks))
        return {ask.device: failure(ask.device, error) for ask in asks}
    paying, answers = reserve(host, plan, asks)
    if not paying:
        return answers
    devices = [ask.device for ask in paying]
    mechanism = mechanism_of(plan)
    for ask, vector in zip(paying, private_vectors(host, plan, work, devices), strict=True):
        noise = host.noise(plan, ask.device, "share")
        ring = encode_vectors(vector, mechanism, plan.rotation_seed, noise, noise)
        try:
            answers[ask.device] = Answer(ask.device, reply(ask, plan, ring))
        except FedInferError as error:
            answers[ask.device] = failure(ask.device, error)
    host.ledger.commit(devices, plan.run_id, plan.round_id, host.clock.now())
    return answers


def check_work(plan: SumPlan, work: bytes) -> None:
    """Refuse work that is not the one that was promised.

    Args:
        plan: carries its SHA-256.
        work: encoded, as it came.

    Raises:
        Misbehaviour: the hashes differ.
    """
    if hashlib.sha256(work).digest() != plan.work_hash:
        raise Misbehaviour(f"the work of round {plan.round_id} is not the one that was promised")


def reserve(host: Host, plan: SumPlan, asks: Sequence[Ask]) -> tuple[list[Ask], dict[DeviceId, Answer]]:
    """Write the spend of everybody into the ledger; who may not spend answers with the refusal.

    One transaction for all devices whose rows are divided alike.

    Args:
        host: wiring of this process.
        plan: checked.
        asks: to devices of this process.

    Returns:
        Asks of those who paid, and the answers of the others.
    """
    verdicts: dict[DeviceId, Refusal | None] = {}
    for split, devices in divided(host, [ask.device for ask in asks]).items():
        found, moved = charged(host, plan, split, devices)
        verdicts |= found
        _wipe(host, *moved)
    answers = {device: failure(device, error) for device, error in verdicts.items() if error is not None}
    for device in answers:
        host.refused[device] = host.refused.get(device, 0) + 1
    # Who is only asked a second time keeps its state: another process may be answering the first time.
    _wipe(host, *(device for device, error in verdicts.items() if isinstance(error, BudgetExceeded)))
    return [ask for ask in asks if ask.device not in answers], answers


@contextmanager
def _wiped_on_refusal(host: Host, *devices: DeviceId) -> Iterator[None]:
    """Who refuses is out of the round."""
    try:
        yield
    except FedInferError:
        _wipe(host, *devices)
        raise


def _wipe(host: Host, *devices: DeviceId) -> None:
    """Erase the keys and shares of a round that a device takes no further part in, now and not at its next round."""
    for device in devices:
        with suppress(Misbehaviour):  # nothing is kept, or another process moved on and answers for itself
            _complete(host, device, host.sessions.load(device))


def _start(host: Host, plan: SumPlan, ask: Ask) -> bytes:
    check_plan(host, plan, ask.device)
    _drop_out(host, plan.round_id, ask)
    session, member = session_of(plan), host.members[ask.device]
    policy = host.policy
    check_session(session, policy.min_survivors, policy.dropout_rate, corruption_rate(host, plan))
    _take_scheduled(host, plan, ask.device)
    state, body = secagg.answer_keys(session, member.identity, ask.device, host.entropy)
    begun = Running(plan.round_id, Kind.KEYS, ask.common, encode_state(state), plan.run_id)
    host.sessions.begin(ask.device, begun)
    _remember(host, ask.device, begun, state)
    return body


def _take_scheduled(host: Host, plan: SumPlan, device: DeviceId) -> None:
    """Before anything is answered: a participation that is begun counts, whatever becomes of its round."""
    if plan.scheduled != INDEPENDENT:
        host.sessions.take_scheduled(device, plan.run_id, strategy_of(plan), plan.scheduled)


def _running(host: Host, ask: Ask, stage: Kind, kind: type[S]) -> tuple[Running, S]:
    """The running round of a device, which must have finished `stage`."""
    running = host.sessions.load(ask.device)
    _drop_out(host, running.round_id, ask)
    if running.stage is not stage:
        raise Misbehaviour(f"device {ask.device} is at stage {running.stage}, asked for {ask.kind}")
    known = host.states.get(ask.device)
    state = known[1] if known is not None and known[0] == running.state else decode_state(running.state)
    if not isinstance(state, kind):
        raise Misbehaviour(f"device {ask.device} holds a {type(state).__name__} at stage {stage}")
    return running, state


def _advance(host: Host, device: DeviceId, was: Running, stage: Kind, state: DeviceState) -> None:
    now = was.at(stage, encode_state(state))
    host.sessions.advance(device, was, now)
    _remember(host, device, now, state)


def _complete(host: Host, device: DeviceId, was: Running) -> None:
    host.states.pop(device, None)
    host.sessions.complete(device, was)


def _remember(host: Host, device: DeviceId, running: Running, state: DeviceState) -> None:
    """A simulated device need not decode at the next stage what it encoded at this one. A real one keeps no secret."""
    if host.policy.reveals_simulation:
        host.states[device] = running.state, state


def _drop_out(host: Host, round_id: str, ask: Ask) -> None:
    """Simulated devices drop out at a drawn stage and stay away for the rest of the round."""
    at = host.drops_out(round_id, ask.device)
    if at is not None and _position(Kind(ask.kind)) >= STAGES.index(at):
        host.sessions.finish(ask.device)
        host.states.pop(ask.device, None)
        raise TransportError(f"device {ask.device} dropped out at {at} in round {round_id}")


def _position(kind: Kind) -> int:
    return STAGES.index(Kind.MASKED if kind is Kind.PLAIN else kind)
