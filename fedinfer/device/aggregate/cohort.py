"""The plain sum of many simulated devices of one process, without a message, a packed vector or a transaction for each.

Rules:
* Every device checks, pays and begins as in `stages.answer_plain`, and its vector is the same to the bit.
* What the plan says to all devices alike is checked once for all of them.
* Memory is bounded by groups of devices; the sum does not depend on how they are grouped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedinfer.device.aggregate.check_plan import check_member, check_plan_of_all
from fedinfer.device.aggregate.contribution import private_vectors
from fedinfer.device.aggregate.refusals import failure, sorted_out
from fedinfer.device.aggregate.stages import begin_plain, check_work, reserve
from fedinfer.device.host import Host
from fedinfer.errors import FedInferError
from fedinfer.messages import Kind, PlainReply, PlainRequest, SumPlan
from fedinfer.ports import Added, Ask
from fedinfer.privacy import NoiseStream, encode_sum, mechanism_of
from fedinfer.secagg import packed_size
from fedinfer.types import DeviceId, RingVector
from fedinfer.wire import decode, encode

_GROUP_NUMBERS = 1 << 21
"""Numbers of all vectors that are held at once (8 MB of float32): they stay in the last cache until they are added."""


def add_up(host: Host, common: bytes, devices: Sequence[DeviceId]) -> Added:
    """What the answers of devices to one plain request add up to.

    Args:
        host: wiring of this process, a simulation.
        common: encoded `PlainRequest`.
        devices: of this host, sorted and unique.

    Returns:
        Sum and survivors. An error that concerns the plan is everybody's refusal.
    """
    try:
        return _added(host, decode(PlainRequest, common), [Ask(device, Kind.PLAIN, common) for device in devices])
    except FedInferError as error:
        return Added(np.zeros(0, np.uint32), (), tuple(failure(device, error) for device in devices), 0)


def _added(host: Host, request: PlainRequest, asks: Sequence[Ask]) -> Added:
    plan = request.plan
    check_plan_of_all(host, plan)
    check_work(plan, request.work)
    cohort = frozenset(plan.cohort)

    def begin(ask: Ask) -> None:
        if ask.device not in cohort:
            check_member(plan, ask.device)
        begin_plain(host, plan, ask)

    alive, refusals = sorted_out(asks, begin)
    paying, refused = reserve(host, plan, alive) if alive else ([], {})
    survivors = tuple(ask.device for ask in paying)
    ring = _sum(host, plan, request.work, survivors)
    if survivors:
        host.ledger.commit(survivors, plan.run_id, plan.round_id, host.clock.now())
    size = len(encode(PlainReply(bytes(packed_size(plan.bits, plan.dimension)))))
    return Added(ring, survivors, tuple((refusals | refused).values()), size)


def _sum(host: Host, plan: SumPlan, work: bytes, devices: Sequence[DeviceId]) -> RingVector:
    """The sum modulo 2^bits of what devices send, uint32 (padded,)."""
    mechanism = mechanism_of(plan)
    total = np.zeros(mechanism.padded, np.uint32)
    step = max(1, _GROUP_NUMBERS // mechanism.dimension)
    for start in range(0, len(devices), step):
        some = devices[start : start + step]
        vectors = private_vectors(host, plan, work, some)
        streams = [_stream(host, plan, device) for device in some]
        total += encode_sum(vectors, mechanism, plan.rotation_seed, streams)  # wraps at 2^32, a multiple of 2^bits
    return total & np.uint32((1 << mechanism.bits) - 1)


def _stream(host: Host, plan: SumPlan, device: DeviceId) -> Callable[[], NoiseStream]:
    return lambda: host.noise(plan, device, "share")
