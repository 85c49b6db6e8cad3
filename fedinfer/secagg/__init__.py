"""Secure aggregation: SecAgg+ with authenticated keys. numpy and cryptography; no torch, no privacy accounting."""

from fedinfer.secagg.authority import Authority, fingerprint
from fedinfer.secagg.device import answer_keys, answer_masked, answer_shares, answer_survivors, answer_unmask
from fedinfer.secagg.enrolment import (
    Challenge,
    Enrolment,
    Possession,
    Step,
    Validation,
    certified,
    prove_possession,
    read_certificate,
    sign_enrolment,
    validation,
    verify_enrolment,
    verify_possession,
)
from fedinfer.secagg.groups import MAX_GROUP, FloatArray, check_group, most_corrupt, random_groups, rate_of
from fedinfer.secagg.hypergeometric import corrupt_among, share_of
from fedinfer.secagg.ideal import ideal_sum
from fedinfer.secagg.keys import IdentityKey, Stage, verify_signature
from fedinfer.secagg.messages import StageRequest, answer_limit, read_session
from fedinfer.secagg.packing import pack, packed_size, unpack
from fedinfer.secagg.parameters import GraphParameters, Session, check_session, choose_graph
from fedinfer.secagg.revocation import RevocationList, check_not_older, read_revocations, seconds_of, sign_revocations
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
from fedinfer.secagg.sessions import session_of
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
    "MAX_GROUP",
    "Aborted",
    "Authority",
    "AwaitKeys",
    "AwaitMasked",
    "AwaitShares",
    "AwaitSurvivors",
    "AwaitUnmask",
    "Challenge",
    "DeviceState",
    "Done",
    "Enrolment",
    "Finished",
    "FloatArray",
    "GraphParameters",
    "IdentityKey",
    "Possession",
    "RevocationList",
    "SentKeys",
    "SentMasked",
    "SentShares",
    "ServerState",
    "Session",
    "SignedSurvivors",
    "Stage",
    "StageRequest",
    "Step",
    "Validation",
    "answer_keys",
    "answer_limit",
    "answer_masked",
    "answer_shares",
    "answer_survivors",
    "answer_unmask",
    "begin",
    "certified",
    "check_group",
    "check_not_older",
    "check_session",
    "choose_graph",
    "corrupt_among",
    "decode_state",
    "encode_state",
    "fingerprint",
    "ideal_sum",
    "most_corrupt",
    "pack",
    "packed_size",
    "prove_possession",
    "random_groups",
    "rate_of",
    "read_certificate",
    "read_revocations",
    "read_session",
    "refuse_second_use",
    "seconds_of",
    "session_of",
    "share_of",
    "sign_enrolment",
    "sign_revocations",
    "step",
    "unpack",
    "validation",
    "verify_enrolment",
    "verify_possession",
    "verify_signature",
]
