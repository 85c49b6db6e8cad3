"""Secure aggregation: SecAgg+ with authenticated keys. numpy and cryptography; no torch, no privacy accounting."""

from fedinfer.secagg.device import answer_keys, answer_masked, answer_shares, answer_survivors, answer_unmask
from fedinfer.secagg.ideal import ideal_sum
from fedinfer.secagg.keys import IdentityKey, Stage
from fedinfer.secagg.messages import StageRequest, read_session
from fedinfer.secagg.parameters import GraphParameters, Session, check_session, choose_graph
from fedinfer.secagg.rounds import (
    Aborted,
    AwaitKeys,
    AwaitMasked,
    AwaitShares,
    AwaitSurvivors,
    AwaitUnmask,
    Done,
    ServerState,
)
from fedinfer.secagg.server import begin, step
from fedinfer.secagg.states import (
    DeviceState,
    Finished,
    SentKeys,
    SentMasked,
    SentShares,
    SignedSurvivors,
    decode_state,
    encode_state,
    refuse_second_use,
)

__all__ = [
    "Aborted",
    "AwaitKeys",
    "AwaitMasked",
    "AwaitShares",
    "AwaitSurvivors",
    "AwaitUnmask",
    "DeviceState",
    "Done",
    "Finished",
    "GraphParameters",
    "IdentityKey",
    "SentKeys",
    "SentMasked",
    "SentShares",
    "ServerState",
    "Session",
    "SignedSurvivors",
    "Stage",
    "StageRequest",
    "answer_keys",
    "answer_masked",
    "answer_shares",
    "answer_survivors",
    "answer_unmask",
    "begin",
    "check_session",
    "choose_graph",
    "decode_state",
    "encode_state",
    "ideal_sum",
    "read_session",
    "refuse_second_use",
    "step",
]
