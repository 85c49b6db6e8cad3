"""Signed orders: whoever forges, replays, delays or redirects one changes nothing; what counts is carried out once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.errors import ArtifactRejected, ConfigError, LogTampered
from fedinfer.rollout import log
from fedinfer.rollout.controller import Approval, Command, Delivered, Order, Phase, RolloutState, begin
from fedinfer.rollout.gates import Bound, Gate, GateScope, GateSettings
from fedinfer.rollout.inbox import Handled, OrderInbox
from fedinfer.rollout.operators import admit_operator, dismiss_operator, read_operators
from fedinfer.rollout.requests import (
    FORWARD,
    MOST_AGE_SECONDS,
    MOST_WAIT_SECONDS,
    SKEW_SECONDS,
    Earlier,
    Operators,
    OrderRequest,
    Standing,
    StartRequest,
    judge_request,
    read_order,
    sign_order,
)
from fedinfer.rollout.state import RolloutStore
from fedinfer.rollout.waves import Wave
from fedinfer.secagg import IdentityKey, verify_signature
from fedinfer.system import SimulatedEntropy

KEYS = {name: IdentityKey.generate(SimulatedEntropy(name)) for name in ("ann", "ben", "cem", "eve")}
PUBLIC = {name: key.public_bytes for name, key in KEYS.items() if name != "eve"}
ONE = Operators("here", PUBLIC)
TWO = Operators("here", PUBLIC, approvers=2)
T0 = 1_800_000_000
GATES = GateSettings((Gate("install_failure", Bound.AT_MOST, 0.2, 0.2, 0.0, 1.0, GateScope.WAVE),), 1, 0.01, 0.01, 1)
FLEET: dict[str, dict[str, str]] = {f"d{i}": {} for i in range(12)}


def rollout(name: str = "r", approval: Approval = Approval.EACH_WAVE) -> RolloutState:
    return begin(name, "2", "1", FLEET, (Wave(0.5), Wave(1.0)), GATES, approval)


def order(what: Order = Order.APPROVE, by: str = "ann", wave: int = 1, at: int = T0, number: int = 0) -> OrderRequest:
    return OrderRequest("here", "r", what, wave, by, "because", at, number.to_bytes(16, "big"))


def start(by: str = "ann", version: int = 5, waves: tuple[float, ...] = (0.5, 1.0), after: str = "r") -> StartRequest:
    return StartRequest("here", after, version, waves, by, "because", T0, bytes(16))


def signed(request: OrderRequest | StartRequest, key: str = "") -> bytes:
    return sign_order(request, KEYS[key or request.by].sign)


def why_not(data: bytes, now: int = T0, earlier: tuple[Earlier, ...] = (), state: RolloutState | None = None) -> str:
    judged = judge_request(ONE, earlier, state or rollout(), data, now, verify_signature)
    assert (judged.standing is Standing.REFUSED) == (not judged.by)
    return judged.why


def over(phase: Phase = Phase.DONE) -> RolloutState:
    return replace(rollout(), phase=phase)


def test_an_order_of_an_operator_is_carried_out_in_their_name() -> None:
    judged = judge_request(ONE, (), rollout(), signed(order()), T0, verify_signature)
    assert judged.command is not None
    assert (judged.standing, judged.command.by, judged.command.reason) == (Standing.DONE, "ann", "because")


def test_what_is_not_an_operators_own_order_to_this_server_is_refused() -> None:
    assert "no operator" in why_not(signed(order(by="eve")))
    assert "not signed with the key of 'ann'" in why_not(signed(order(by="ann"), key="ben"))
    assert "another server" in why_not(signed(replace(order(), server="there")))
    assert "cannot be read" in why_not(b"")
    good = signed(order())
    assert not why_not(good)
    for place in range(len(good)):  # every byte counts
        assert why_not(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])


def test_a_stale_order_and_one_of_a_fast_clock_are_refused() -> None:
    data = signed(order())
    assert not why_not(data, T0 + MOST_AGE_SECONDS)
    assert "too long" in why_not(data, T0 + MOST_AGE_SECONDS + 1)
    assert not why_not(data, T0 - SKEW_SECONDS)
    assert "in the future" in why_not(data, T0 - SKEW_SECONDS - 1)


@pytest.mark.parametrize("what", list(Order))
def test_only_what_lets_a_model_go_on_is_bound_to_the_wave_that_was_seen(what: Order) -> None:
    assert ("wave 2" in why_not(signed(order(what, wave=2)))) == (what in FORWARD)


def test_an_order_about_an_older_rollout_is_refused() -> None:
    judged = judge_request(ONE, (), None, signed(order()), T0, verify_signature)
    assert "not about the newest rollout" in judged.why


def test_a_start_is_judged_like_an_order() -> None:
    good = signed(start())
    judged = judge_request(ONE, (), over(), good, T0, verify_signature)
    assert (judged.standing, judged.by, judged.command) == (Standing.DONE, "ann", None)
    for place in range(len(good)):  # every byte counts
        assert why_not(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], state=over())
    assert "no operator" in why_not(signed(start("eve")), state=over())
    assert "not signed with the key of 'ann'" in why_not(signed(start(), key="ben"), state=over())
    assert "another server" in why_not(signed(replace(start(), server="there")), state=over())
    assert "too long" in why_not(good, T0 + MOST_AGE_SECONDS + 1, state=over())
    again = (Earlier(read_order(good), Standing.DONE),)
    assert "handed in before" in why_not(good, earlier=again, state=over())


@pytest.mark.parametrize("phase", list(Phase))
def test_nothing_is_started_while_a_rollout_is_under_way(phase: Phase) -> None:
    allowed = {Phase.DONE, Phase.ABORTED, Phase.ROLLED_BACK}
    assert ("has to end" not in why_not(signed(start()), state=over(phase))) == (phase in allowed)


def test_four_eyes_see_the_same_version_and_the_same_waves() -> None:
    def standing(second: StartRequest) -> Standing:
        earlier = (Earlier(read_order(signed(start("ann"))), Standing.WAITING),)
        return judge_request(TWO, earlier, over(), signed(second), T0, verify_signature).standing

    assert judge_request(TWO, (), over(), signed(start()), T0, verify_signature).standing is Standing.WAITING
    assert standing(replace(start(), nonce=b"1")) is Standing.WAITING  # the same person is not a second one
    assert standing(start("ben", version=6)) is Standing.WAITING
    assert standing(start("ben", waves=(1.0,))) is Standing.WAITING
    assert standing(start("ben")) is Standing.DONE


@pytest.mark.parametrize("waves", [(0.5,), (1.0, 0.5, 1.0), (0.0, 1.0), (0.5, 0.5, 1.0), (float("nan"), 1.0), (2.0,)])
def test_waves_grow_and_end_with_everybody(waves: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="grow and end at 1"):
        start(waves=waves)
    assert start(waves=()).waves == ()
    with pytest.raises(ConfigError, match="counted from 1"):
        start(version=0)


asked = st.builds(
    order,
    st.sampled_from(Order),
    st.sampled_from(["ann", "ben", "cem"]),
    st.integers(1, 2),
    st.integers(T0 - MOST_WAIT_SECONDS, T0),
    st.integers(0, 3),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(asked, max_size=14))
def test_four_eyes_mean_two_names_and_nothing_is_carried_out_twice(requests: list[OrderRequest]) -> None:
    """Against a plain model: who waits for what, by wave and order."""
    earlier: list[Earlier] = []
    model: dict[tuple[Order, int], dict[str, int]] = {}
    accepted: set[bytes] = set()
    for request in sorted(requests, key=lambda each: each.at):  # each arrives as soon as it is signed
        data, now = signed(request), request.at
        judged = judge_request(TWO, earlier, rollout(), data, now, verify_signature)
        thing = (request.order, request.wave)
        forward = request.order in FORWARD
        if data in accepted or (forward and request.wave != 1):
            assert judged.standing is Standing.REFUSED
            continue
        accepted.add(data)
        names = {name for name, at in model.get(thing, {}).items() if now - at <= MOST_WAIT_SECONDS} | {request.by}
        if forward and len(names) < 2:
            assert judged.standing is Standing.WAITING
            model.setdefault(thing, {})[request.by] = now
        else:
            assert judged.command is not None
            assert judged.command.by == ", ".join(sorted(names))
            model.pop(thing, None)
            done = judged.standing
            earlier = [
                replace(each, standing=done) if (each.request.order, each.request.wave) == thing else each
                for each in earlier
            ]
        earlier.append(Earlier(read_order(data), judged.standing))


# --- in the database ---


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    opened = RolloutStore(tmp_path / "rollout.sqlite")
    opened.start(rollout(), "coordinator", moment())
    yield opened
    opened.close()


def moment(seconds: int = 0) -> datetime:
    return datetime.fromtimestamp(T0, UTC) + timedelta(seconds=seconds)


def carried(store: RolloutStore, *requests: bytes, operators: Operators = ONE, seconds: int = 0) -> list[Handled]:
    for data in requests:
        OrderInbox(store).submit(data, moment(seconds))
    return list(OrderInbox(store).carry_out(operators, moment(seconds), verify_signature))


def test_an_order_acts_once_and_the_log_holds_it_as_it_was_signed(store: RolloutStore) -> None:
    data = signed(order())
    (handled,) = carried(store, data)
    assert (handled.standing, store.load("r").phase) == (Standing.DONE, Phase.PUSHING)
    body = log.entry(store.log_lines("r")[-1])["body"]
    assert (body["by"], body["order"], body["requests"]) == ("ann", "approve", [data.hex()])
    assert read_order(bytes.fromhex(body["requests"][0])).request == order()
    assert carried(store) == []
    with pytest.raises(ConfigError, match="handed in before"):
        OrderInbox(store).submit(data, moment())
    store.verify(store.head())


def test_a_forged_order_is_logged_as_a_claim_and_changes_nothing(store: RolloutStore) -> None:
    (handled,) = carried(store, signed(order(Order.ABORT, by="ann"), key="eve"))
    assert (handled.standing, store.load("r").phase) == (Standing.REFUSED, Phase.READY)
    entry = log.entry(store.log_lines("r")[-1])
    assert (entry["kind"], entry["body"]["claimed"]) == ("refused", "ann")
    assert "by" not in entry["body"]
    store.verify(store.head())


def test_an_order_that_the_phase_does_not_allow_is_refused_with_its_reason(store: RolloutStore) -> None:
    (handled,) = carried(store, signed(order(Order.RESUME)))
    assert (handled.standing, handled.why) == (Standing.REFUSED, "rollout 'r' is ready: resume is not possible now")


def test_two_operators_approve_together_and_one_alone_stops(store: RolloutStore) -> None:
    (first,) = carried(store, signed(order()), operators=TWO)
    assert (first.standing, store.load("r").phase) == (Standing.WAITING, Phase.READY)
    (again,) = carried(store, signed(order(number=1)), operators=TWO)
    assert again.standing is Standing.WAITING  # the same person is not a second one
    (second,) = carried(store, signed(order(by="ben")), operators=TWO)
    assert (second.standing, store.load("r").phase) == (Standing.DONE, Phase.PUSHING)
    assert log.entry(store.log_lines("r")[-1])["body"]["by"] == "ann, ben"
    assert {each.standing for each in OrderInbox(store).requests()} == {Standing.DONE}
    (stop,) = carried(store, signed(order(Order.ABORT, number=9)), operators=TWO)
    assert (stop.standing, store.load("r").phase) == (Standing.DONE, Phase.ABORTED)


def test_an_approval_that_waits_counts_only_while_its_operator_is_listed_with_its_key(store: RolloutStore) -> None:
    assert carried(store, signed(order(by="ann")), operators=TWO)[0].standing is Standing.WAITING
    dismissed = replace(TWO, keys={name: PUBLIC[name] for name in ("ben", "cem")})
    assert carried(store, signed(order(by="ben")), operators=dismissed)[0].standing is Standing.WAITING
    another_key = replace(TWO, keys={"ann": KEYS["eve"].public_bytes, "ben": PUBLIC["ben"]})
    (again,) = carried(store, signed(order(by="ben", number=1)), operators=another_key)
    assert (again.standing, store.load("r").phase) == (Standing.WAITING, Phase.READY)
    (second,) = carried(store, signed(order(by="cem")), operators=dismissed)
    assert second.standing is Standing.DONE
    assert log.entry(store.log_lines("r")[-1])["body"]["by"] == "ben, cem"
    asked = [(each.request.by, each.standing) for each in OrderInbox(store).requests()]
    assert [name for name, standing in asked if standing is Standing.WAITING] == ["ann"]


def test_a_forged_copy_of_an_approval_that_waits_is_not_carried_out_with_it(store: RolloutStore) -> None:
    waits, forged = signed(order(by="ann")), signed(order(by="ann"), key="eve")
    first, copy = carried(store, waits, forged, operators=TWO)
    assert (first.standing, copy.standing) == (Standing.WAITING, Standing.REFUSED)
    last = signed(order(by="ben"))
    assert carried(store, last, operators=TWO)[0].standing is Standing.DONE
    assert [each.standing for each in OrderInbox(store).requests()] == [Standing.DONE, Standing.REFUSED, Standing.DONE]
    body = log.entry(store.log_lines("r")[-1])["body"]
    assert body["requests"] == [waits.hex(), last.hex()]


def test_one_key_under_two_names_is_one_operator(store: RolloutStore, tmp_path: Path) -> None:
    twice = replace(TWO, keys={"ann": PUBLIC["ann"], "ben": PUBLIC["ann"]})
    handled = carried(store, signed(order(by="ann")), signed(order(by="ben"), key="ann"), operators=twice)
    assert [(each.standing, each.why) for each in handled] == [
        (Standing.WAITING, "1 of 2 operators asked for it"),
    ] * 2
    admit_operator(tmp_path, "ann", PUBLIC["ann"], None, SimulatedEntropy(1))
    with pytest.raises(ConfigError, match="the key of operator 'ann'"):
        admit_operator(tmp_path, "ben", PUBLIC["ann"], 2, SimulatedEntropy(2))


def test_orders_are_carried_out_in_the_order_in_which_they_came(store: RolloutStore) -> None:
    data = [signed(order(what, number=place)) for place, what in enumerate((Order.APPROVE, Order.PAUSE, Order.RESUME))]
    assert [each.standing for each in carried(store, *data)] == [Standing.DONE] * 3
    assert store.load("r").phase is Phase.PUSHING


def test_an_approval_for_a_wave_that_is_over_is_refused(store: RolloutStore) -> None:
    late = signed(order(number=5))
    carried(store, signed(order()))
    store.apply("r", Delivered(0, 6, 0), moment())
    assert (store.load("r").phase, store.load("r").wave) == (Phase.READY, 1)
    (handled,) = carried(store, late)
    assert handled.standing is Standing.REFUSED
    assert store.load("r").phase is Phase.READY


def test_a_later_rollout_shuts_orders_about_the_one_before_out(store: RolloutStore) -> None:
    store.start(rollout("s"), "coordinator", moment())
    (handled,) = carried(store, signed(order(Order.ROLLBACK)))
    assert "newest" in handled.why


def test_an_acknowledgement_that_was_changed_added_or_removed_shows(tmp_path: Path, store: RolloutStore) -> None:
    carried(store, signed(order()))
    store.acknowledge("r", 0, {"d1": "", "d2": "disk full"}, moment())
    store.verify(store.head())
    for statement, back in (
        ("UPDATE rollout_ack SET problem = '' WHERE device = 'd2'", "UPDATE rollout_ack SET problem = 'disk full' "
         "WHERE device = 'd2'"),
        ("INSERT INTO rollout_ack VALUES ('r', 1, 'd3', '')", "DELETE FROM rollout_ack WHERE device = 'd3'"),
        ("DELETE FROM rollout_ack WHERE device = 'd1'", "INSERT INTO rollout_ack VALUES ('r', 0, 'd1', '')"),
    ):  # fmt: skip
        with store.changing() as db:
            db.execute(statement)
        with pytest.raises(LogTampered, match="acknowledgements of wave"):
            store.verify(None)
        with store.changing() as db:
            db.execute(back)
        store.verify(None)


def test_a_start_begins_one_rollout_and_the_log_holds_it_as_it_was_signed(store: RolloutStore) -> None:
    store.apply("r", Command(Order.ABORT, "ann", ""), moment())
    inbox, data = OrderInbox(store), signed(start())
    begun: list[StartRequest] = []

    def begin_it(asked: StartRequest) -> RolloutState:
        begun.append(asked)
        return begin("ordered", "6", "2", FLEET, [Wave(each) for each in asked.waves], GATES, Approval.NONE)

    inbox.submit(data, moment())
    assert inbox.carry_out(ONE, moment(), verify_signature) == ()  # nobody here reaches a device
    assert inbox.requests()[0].standing is Standing.SUBMITTED
    (handled,) = inbox.carry_out(ONE, moment(), verify_signature, begin_it)
    assert (handled.standing, handled.to_json()["version"], handled.to_json()["waves"]) == (
        Standing.DONE,
        "5",
        [0.5, 1],
    )
    assert (store.names(), store.load("ordered").phase) == (("r", "ordered"), Phase.PUSHING)
    body = log.entry(store.log_lines("ordered")[0])["body"]
    assert (body["by"], body["order"], body["repeats"], body["why"]) == ("ann", "start", 5, "because")
    assert read_order(bytes.fromhex(body["requests"][0])).request == begun[0] == start()
    assert inbox.carry_out(ONE, moment(), verify_signature, begin_it) == ()
    store.verify(store.head())


def test_a_start_that_cannot_be_planned_is_refused_with_its_reason(store: RolloutStore) -> None:
    def refuse(asked: StartRequest) -> RolloutState:
        raise ArtifactRejected(f"version {asked.version} was withdrawn")

    store.apply("r", Command(Order.ABORT, "ann", ""), moment())
    OrderInbox(store).submit(signed(start()), moment())
    (handled,) = OrderInbox(store).carry_out(ONE, moment(), verify_signature, refuse)
    assert (handled.standing, handled.why) == (Standing.REFUSED, "version 5 was withdrawn")
    assert store.names() == ("r",)
    assert log.entry(store.log_lines("r")[-1])["body"]["claimed"] == "ann"


# --- the list of operators ---


def test_operators_are_admitted_and_dismissed_and_the_id_of_the_server_stays(tmp_path: Path) -> None:
    assert read_operators(tmp_path) is None
    first = admit_operator(tmp_path, "ann", PUBLIC["ann"], None, SimulatedEntropy(1))
    both = admit_operator(tmp_path, "ben", PUBLIC["ben"], 2, SimulatedEntropy(2))
    assert read_operators(tmp_path) == both == Operators(first.server, {n: PUBLIC[n] for n in ("ann", "ben")}, 2)
    with pytest.raises(ConfigError, match="another key"):
        admit_operator(tmp_path, "ann", PUBLIC["cem"], None, SimulatedEntropy(3))
    with pytest.raises(ConfigError, match="2 operators would have to approve, 1 are listed"):
        dismiss_operator(tmp_path, "ben")
    admit_operator(tmp_path, "ben", PUBLIC["ben"], 1, SimulatedEntropy(3))
    assert dismiss_operator(tmp_path, "ben") == first
    with pytest.raises(ConfigError, match="no operator"):
        dismiss_operator(tmp_path, "ben")


@pytest.mark.parametrize("text", ["", "[]", '{"server": "x", "approvers": 0, "operators": {}}', '{"server": 1}'])
def test_a_list_that_is_none_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "operators.json").write_text(text)
    with pytest.raises(ConfigError):
        read_operators(tmp_path)
