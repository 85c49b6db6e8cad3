"""The session that a plan describes; coordinator and device derive it alike, so a changed plan is another session."""

from __future__ import annotations

import hashlib

from fedinfer.messages import SumPlan
from fedinfer.secagg.parameters import Session
from fedinfer.wire import encode


def session_of(plan: SumPlan) -> Session:
    """Bind everything the server promised: the hash of the whole plan is part of the session id."""
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
