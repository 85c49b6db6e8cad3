"""The table of all exchanges: which message asks, which one answers, and how large either may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedinfer.messages import (
    KIB,
    MIB,
    EnrollReply,
    EnrollRequest,
    HealthReply,
    HealthRequest,
    JoinReply,
    JoinRequest,
    Kind,
    MaskedSumWork,
    PlainReply,
    PlainRequest,
    PushReply,
    PushRequest,
    SumPlan,
    WindowReply,
    WindowRequest,
    WithdrawReply,
    WithdrawRequest,
)
from fedinfer.wire import MAX_BYTES, most_bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one kind of message asks with, is answered with, and how large either may be.

    Args:
        request: class of the part common to a cohort; None: a message of fedinfer.secagg.
        reply: class of the answer; None: a message of fedinfer.secagg.
        most_request: bytes of both parts of a request together that a device reads.
        most_reply: bytes of an answer that a server keeps; an `Ask` may set less (`most_reply`).
    """

    request: type | None
    reply: type | None
    most_request: int
    most_reply: int


def _typed(request: type, reply: type) -> Exchange:
    return Exchange(request, reply, most_bytes(request), most_bytes(reply))


EXCHANGES: Mapping[Kind, Exchange] = MappingProxyType(
    {
        Kind.ENROLL: _typed(EnrollRequest, EnrollReply),
        Kind.JOIN: _typed(JoinRequest, JoinReply),
        Kind.KEYS: Exchange(SumPlan, None, most_bytes(SumPlan), 4 * KIB),
        Kind.SHARES: Exchange(None, None, 64 * MIB, 16 * MIB),
        Kind.MASKED: Exchange(MaskedSumWork, None, MAX_BYTES, MAX_BYTES),
        Kind.PLAIN: _typed(PlainRequest, PlainReply),
        Kind.SURVIVORS: Exchange(None, None, MIB, 64 * KIB),
        Kind.UNMASK: Exchange(None, None, 16 * MIB, 16 * MIB),
        Kind.PUSH: _typed(PushRequest, PushReply),
        Kind.WITHDRAW: _typed(WithdrawRequest, WithdrawReply),
        Kind.WINDOW: _typed(WindowRequest, WindowReply),
        Kind.HEALTH: _typed(HealthRequest, HealthReply),
    }
)
"""Every kind of message; `fedinfer.device.dispatch` names who answers each."""
