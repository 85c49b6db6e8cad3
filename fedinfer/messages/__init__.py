"""What coordinator and device say to each other: one frozen dataclass per request and reply.

Every request is two byte strings: `common`, equal for the whole cohort and encoded once, and `own`, for one device.
Encoding, version and size checks are those of fedinfer.wire. The stages of secure aggregation carry the messages of
fedinfer.secagg inside; this module knows only that they are bytes.

Every field of variable length declares its limit, every message its own; `fedinfer.exchanges` says who answers whom. A
text that people read (`Shown`) is made printable and cut on both sides, all else beyond its limit is refused.
"""

from fedinfer.messages.fields import (
    KIB,
    MIB,
    MOST_CERTIFICATE_BYTES,
    MOST_ERROR,
    MOST_LIST_BYTES,
    MOST_REASON,
    PROTOCOL_VERSION,
    Kind,
    Purpose,
)
from fedinfer.messages.joining import MOST_DESCRIPTIONS, EnrollReply, EnrollRequest, JoinFacts, JoinReply, JoinRequest
from fedinfer.messages.models import (
    HealthReply,
    HealthRequest,
    PushReply,
    PushRequest,
    WindowReply,
    WindowRequest,
    WithdrawReply,
    WithdrawRequest,
)
from fedinfer.messages.sums import (
    INDEPENDENT,
    ONE_GROUP,
    FitWork,
    GateWork,
    MaskedSumWork,
    PlainReply,
    PlainRequest,
    ReportWork,
    ScheduledRound,
    Split,
    SumPlan,
    ThresholdWork,
)

__all__ = [
    "INDEPENDENT",
    "KIB",
    "MIB",
    "MOST_CERTIFICATE_BYTES",
    "MOST_DESCRIPTIONS",
    "MOST_ERROR",
    "MOST_LIST_BYTES",
    "MOST_REASON",
    "ONE_GROUP",
    "PROTOCOL_VERSION",
    "EnrollReply",
    "EnrollRequest",
    "FitWork",
    "GateWork",
    "HealthReply",
    "HealthRequest",
    "JoinFacts",
    "JoinReply",
    "JoinRequest",
    "Kind",
    "MaskedSumWork",
    "PlainReply",
    "PlainRequest",
    "Purpose",
    "PushReply",
    "PushRequest",
    "ReportWork",
    "ScheduledRound",
    "Split",
    "SumPlan",
    "ThresholdWork",
    "WindowReply",
    "WindowRequest",
    "WithdrawReply",
    "WithdrawRequest",
]
