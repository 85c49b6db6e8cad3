"""A hospital repeats another's mask key in the heart scenario, whose owners count on one corrupt hospital of four."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedinfer.device.aggregate import stages as sums
from fedinfer.secagg import device as secagg
from fedinfer.secagg import server
from fedinfer.secagg.keys import IdentityKey, Signed, Stage, seal
from fedinfer.secagg.messages import KeysBody
from fedinfer.secagg.parameters import Session
from fedinfer.wire import decode
from tests.scenarios.runs import run, scenario

WANTED = ("training.rounds=2", "drift.enabled=false", "fleet.dropout=0.0")


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The last hospital of every session publishes the first one's mask key as its own, correctly signed."""
    honest, seen = secagg.answer_keys, {}
    names: list[str] = []

    def answer(session: Session, identity: IdentityKey, device: str, entropy: Any) -> tuple[Any, bytes]:
        state, reply = honest(session, identity, device, entropy)
        seen[device] = state.public[:32]
        if device != session.cohort[-1]:
            return state, reply
        names[:] = [session.cohort[0], device]
        public = seen[session.cohort[0]] + state.public[32:]
        reply = seal(identity, Stage.KEYS, device, session.sid, KeysBody(session.sid, public, state.holders))
        return replace(state, public=public, signature=decode(Signed, reply).signature), reply

    monkeypatch.setattr(sums.secagg, "answer_keys", answer)
    return names


def test_a_server_leaves_both_hospitals_out_and_names_them(copied: list[str], tmp_path: Path) -> None:
    wanted = scenario("heart", *WANTED)
    assert wanted.secure_aggregation.corruption_rate == 0.25
    result = run(wanted, tmp_path / "run")
    blamed = {(event["device"], event["reason"]) for event in result.events("blamed")}
    one, other = copied
    reason = "its mask or box key is also that of"
    assert blamed == {(one, f"{reason} {other}"), (other, f"{reason} {one}")}
    assert all("2 of 4 devices sent keys, 3 are needed" in str(event) for event in result.events("round"))
    assert result.failure is not None


def test_hospitals_refuse_a_server_that_lets_the_copy_pass(
    copied: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server, "cleared_twins", lambda keyed: ())
    result = run(scenario("heart", *WANTED), tmp_path / "run")
    rounds = result.events("errors")
    assert len(rounds) == len(result.events("round")) > 0
    for event in rounds:
        assert event["count"] == 4
        for text in event["first"].values():
            assert f"Misbehaviour: {copied[0]} and {copied[1]} published the same mask or box key" in text
    assert result.failure is not None
