"""The session that a plan describes; coordinator and device derive it alike, so a changed plan is another session."""

from __future__ import annotations

import hashlib

from fedinfer.messages import SumPlan
from fedinfer.secagg.parameters import Session
from fedinfer.wire import encode


def session_of(plan: SumPlan) -> Session:
    """The session that a plan describes; the hash of the whole plan is part of the session id.

    So everything that the server promised is bound: a plan that differs in one byte for one device is another session.

    Args:
        plan: as the server sent it.

    Raises:
        BadMessage: a number of the plan is outside the range of `Session`.
    """
    return Session(
        run_id=plan.run_id,
        round_id=plan.round_id,
        purpose=plan.purpose.value,
        model_hash=plan.work_hash,
        cohort=plan.cohort,
        degree=plan.degree,
        threshold=plan.threshold,
        min_survivors=plan.min_survivors,
        bits=plan.bits,
        dimension=plan.dimension,
        mechanism_hash=hashlib.sha256(encode(plan)).digest(),
    )
