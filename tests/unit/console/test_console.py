"""The console: who sees it, who gives orders, what a page may do, and what hostile text becomes."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedinfer.console.app import COOKIE, MOST_STREAMS, STREAM_SECONDS, ConsoleSettings, make_console
from fedinfer.console.sessions import (
    FAILURE_SECONDS,
    MOST_FAILURES,
    MOST_SESSIONS,
    SESSION_SECONDS,
    ConsoleRole,
    ConsoleSessions,
    Tokens,
    is_own_form,
)
from fedinfer.console.snapshot import fingerprint, read_snapshot
from fedinfer.errors import ConfigError
from fedinfer.rollout import (
    WENT_BACK,
    Command,
    Order,
    OrderInbox,
    RolloutStore,
    Standing,
    StartRequest,
    admit_operator,
    read_operators,
)
from fedinfer.rollout.controller import Approval, Delivered, Phase
from fedinfer.secagg import verify_signature
from fedinfer.system import FrozenClock, SimulatedEntropy
from tests.unit.rollout.test_rollout_requests import KEYS, moment, rollout

VIEWER, OPERATOR = b"v" * 32, b"o" * 32
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
RUN = {
    "schema": 1, "run_id": "pilot", "scenario": HOSTILE, "status": "completed",
    "rounds": [{"round": 1, "status": "released", "survivors": 5, "cohort": 5, "metric": 0.5, "epsilon": 1.25}],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    events: list[dict[str, Any]] = [
        {"event": "window", "window": 1, "reporters": 4, "state": "ok", "time": "2026-01-01T00:00:00+00:00"},
        {"event": "alarm", "window": 2, "channel": HOSTILE, "p_value": 0.001, "time": "2026-01-01T00:01:00+00:00"},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    store = RolloutStore(tmp_path / "rollout.sqlite")
    store.start(rollout(approval=Approval.NONE), "coordinator", moment())
    store.acknowledge("r", 0, {"d1": "", "d2": HOSTILE}, moment())
    store.close()
    admit_operator(tmp_path, "ann", KEYS["ann"].public_bytes, None, SimulatedEntropy(1))
    return tmp_path


class Browser:
    """Asks the application without a socket and keeps its cookies."""

    def __init__(self, app: Any) -> None:
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
        self.cookies = self.http.cookies

    def get(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self.http.get(path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self.http.post(path, **more))


def console(folder: Path, signer: str = "ann", **more: Any) -> Browser:
    settings = ConsoleSettings(folder, Tokens(VIEWER, OPERATOR), signer, KEYS["ann"].sign, **more)
    app = make_console(settings, FrozenClock(moment()), SimulatedEntropy("console"))
    return Browser(app)


def entered(folder: Path, token: bytes = OPERATOR, **more: Any) -> Browser:
    client = console(folder, **more)
    assert client.post("/login", data={"token": token.decode()}).status_code == 303
    return client


def secret_of(page: str) -> str:
    found = re.search(r'name="secret" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def form(client: Browser, **changes: str) -> dict[str, str]:
    asked = {"secret": secret_of(client.get("/").text), "rollout": "r", "wave": "1", "order": "abort", "reason": "why"}
    return asked | changes


def requests(folder: Path) -> list[tuple[str, Standing]]:
    store = RolloutStore(folder / "rollout.sqlite")
    found = [(each.request.by, each.standing) for each in OrderInbox(store).requests()]
    store.close()
    return found


@pytest.mark.parametrize("path", ["/", "/changes", "/report", "/metrics"])
def test_nothing_is_shown_without_a_session(folder: Path, path: str) -> None:
    answer = console(folder).get(path, headers={"Cookie": f"{COOKIE}={'0' * 64}"})
    assert answer.status_code == 401
    assert "pilot" not in answer.text


def test_a_wrong_token_lets_nobody_in_and_many_shut_the_door(folder: Path) -> None:
    client = console(folder)
    for _ in range(MOST_FAILURES):
        answer = client.post("/login", data={"token": "guess"})
        assert (answer.status_code, COOKIE in answer.cookies) == (401, False)
    assert client.post("/login", data={"token": OPERATOR.decode()}).status_code == 401


def test_the_door_opens_again_and_sessions_end() -> None:
    clock = FrozenClock(moment())
    sessions = ConsoleSessions(Tokens(VIEWER, OPERATOR), clock, SimulatedEntropy(1))
    for _ in range(MOST_FAILURES):
        assert sessions.open(b"guess") is None
    assert sessions.open(VIEWER) is None
    clock.advance(FAILURE_SECONDS)
    name = sessions.open(VIEWER)
    assert name is not None
    session = sessions.find(name)
    assert session is not None
    assert session.role is ConsoleRole.VIEWER
    assert is_own_form(session, session.secret)
    assert not is_own_form(session, "")
    clock.advance(SESSION_SECONDS)
    assert sessions.find(name) is None


def test_an_empty_operator_token_is_no_door() -> None:
    sessions = ConsoleSessions(Tokens(VIEWER), FrozenClock(moment()), SimulatedEntropy(1))
    assert sessions.role_of(b"") is None


def test_one_token_is_not_for_two_roles(folder: Path) -> None:
    for tokens in (Tokens(VIEWER, VIEWER), Tokens(b"", OPERATOR)):
        with pytest.raises(ConfigError, match="a token each"):
            make_console(ConsoleSettings(folder, tokens), FrozenClock(moment()), SimulatedEntropy(1))


def test_the_page_shows_devices_by_name_rounds_rollouts_drift_and_log(folder: Path) -> None:
    page = entered(folder, VIEWER).get("/").text
    for text in ("d1", "wave 1 of 2", "5 of 5", "1.25", "4 reports", "acknowledged", "operators: ann"):
        assert text in page, text


def test_hostile_text_stays_text(folder: Path) -> None:
    page = entered(folder).get("/").text
    assert page.count("&lt;script&gt;alert(1)") >= 3  # the scenario, a device's problem, a channel
    assert "<script>alert" not in page
    assert "<img" not in page


def test_every_answer_forbids_other_addresses_frames_and_inline_scripts(folder: Path) -> None:
    client = entered(folder)
    for path in ("/", "/style.css", "/live.js", "/healthz", "/nowhere"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?! src)|<[^>]* style=", client.get("/").text)


def test_the_cookie_is_for_this_site_and_not_for_scripts(folder: Path) -> None:
    said = console(folder, secure=True).post("/login", data={"token": VIEWER.decode()}).headers["set-cookie"].lower()
    assert {"httponly", "secure", "samesite=strict"} <= {part.strip() for part in said.split(";")}


def test_an_operator_orders_and_the_request_is_signed_with_the_consoles_key(folder: Path) -> None:
    client = entered(folder)
    assert client.post("/order", data=form(client)).status_code == 303
    assert requests(folder) == [("ann", Standing.SUBMITTED)]
    store, operators = RolloutStore(folder / "rollout.sqlite"), read_operators(folder)
    assert operators is not None
    (handled,) = OrderInbox(store).carry_out(operators, moment(), verify_signature)
    assert (handled.standing, store.load("r").phase) == (Standing.DONE, Phase.ABORTED)
    store.close()


def test_an_approval_is_for_the_wave_that_the_page_showed(folder: Path) -> None:
    client = entered(folder)
    asked = form(client, order="approve", wave="1")
    store, operators = RolloutStore(folder / "rollout.sqlite"), read_operators(folder)
    assert operators is not None
    store.apply("r", Delivered(0, 12, 0), moment())
    assert store.load("r").wave == 1
    client.post("/order", data=asked)
    (handled,) = OrderInbox(store).carry_out(operators, moment(), verify_signature)
    assert handled.why == "its operator saw wave 1, the rollout is in wave 2"
    store.close()


def test_a_version_is_started_when_the_rollout_before_is_over(folder: Path) -> None:
    client = entered(folder)
    assert 'name="version"' not in client.get("/").text
    store = RolloutStore(folder / "rollout.sqlite")
    store.apply("r", Command(Order.ABORT, "ann", ""), moment())
    assert 'name="version"' in client.get("/").text
    assert client.post("/order", data=form(client, order="start", version="5", waves="0.5, 1")).status_code == 303
    (handed_in,) = OrderInbox(store).requests()
    asked = handed_in.request
    assert isinstance(asked, StartRequest)
    assert (asked.rollout, asked.version, asked.waves, asked.by) == ("r", 5, (0.5, 1.0), "ann")
    assert "start version 5" in client.get("/").text
    for wrong in ({"version": "five"}, {"version": "5", "waves": "1,0.5"}, {"version": "5", "waves": "half"}):
        assert client.post("/order", data=form(client, order="start", **wrong)).status_code == 400
    store.close()


def test_a_viewer_a_foreign_form_and_nonsense_order_nothing(folder: Path) -> None:
    viewer, operator = entered(folder, VIEWER), entered(folder)
    assert 'name="order"' not in viewer.get("/").text
    assert 'name="order"' in operator.get("/").text
    assert viewer.post("/order", data=form(viewer)).status_code == 403
    foreign = "0" * 64
    assert operator.post("/order", data=form(operator, secret=foreign)).status_code == 403
    assert operator.post("/order", data=form(operator, secret="")).status_code == 403
    assert operator.post("/order", data=form(operator, order="format")).status_code == 400
    assert operator.post("/order", data=form(operator, wave="x")).status_code == 400
    assert operator.post("/order", data=form(operator, reason="x" * 9000)).status_code == 403
    without_key = entered(folder, signer="")
    assert without_key.post("/order", data=form(without_key)).status_code == 403
    assert requests(folder) == []


def test_a_form_with_too_many_fields_is_an_empty_one(folder: Path) -> None:
    fields = {f"field{number}": "x" for number in range(30)}
    client = entered(folder)
    assert client.post("/order", data=fields).status_code == 403
    assert client.post("/login", data=fields).status_code == 401


def test_viewers_who_come_in_again_and_again_put_no_operator_out() -> None:
    sessions = ConsoleSessions(Tokens(VIEWER, OPERATOR), FrozenClock(moment()), SimulatedEntropy(1))
    operator, first = sessions.open(OPERATOR), sessions.open(VIEWER)
    assert operator is not None
    assert first is not None
    for _ in range(MOST_SESSIONS):
        newest = sessions.open(VIEWER)
    assert newest is not None
    assert [sessions.find(name) is not None for name in (operator, first, newest)] == [True, False, True]


def test_streams_of_viewers_are_bounded_and_take_none_of_an_operators(folder: Path) -> None:
    clock, settings = FrozenClock(moment()), ConsoleSettings(folder, Tokens(VIEWER, OPERATOR))
    client = Browser(make_console(settings, clock, SimulatedEntropy("console")))
    statuses: list[int] = []

    async def ask(role: bytes, times: int) -> None:
        await client.http.post("/login", data={"token": role.decode()})
        asked = [asyncio.create_task(client.http.get("/changes")) for _ in range(times)]
        await asyncio.sleep(0.05)
        over, open_ = await asyncio.wait(asked, timeout=0)
        statuses.extend(task.result().status_code for task in over)
        statuses.extend([200] * len(open_))

    async def all_of_them() -> None:
        await ask(VIEWER, MOST_STREAMS + 2)
        await ask(OPERATOR, 1)
        clock.advance(STREAM_SECONDS)

    asyncio.run(all_of_them())
    assert statuses == [503] * 2 + [200] * (MOST_STREAMS + 1)


def test_leaving_ends_the_session(folder: Path) -> None:
    client = entered(folder)
    cookie, secret = client.cookies[COOKIE], secret_of(client.get("/").text)
    assert client.post("/logout", data={"secret": "0" * 64}).status_code == 403
    assert client.post("/logout", data={"secret": secret}).status_code == 303
    assert client.get("/", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401


def test_metrics_are_for_a_token_and_count_what_is_there(folder: Path) -> None:
    client = console(folder)
    assert client.get("/metrics", headers={"Authorization": "Bearer guess"}).status_code == 401
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {VIEWER.decode()}"})
    for line in (
        'fedinfer_run_info{run="pilot",status="completed"} 1',
        'fedinfer_rounds{status="released"} 1',
        "fedinfer_alarms 1",
        'fedinfer_rollout_phase{phase="pushing"} 1',
        'fedinfer_devices{version="2"} 1',
        'fedinfer_devices{version="none"} 1',
        "fedinfer_devices_with_problem 1",
    ):
        assert line in answer.text.splitlines(), line


def test_a_device_that_went_back_runs_the_version_before(folder: Path) -> None:
    store = RolloutStore(folder / "rollout.sqlite")
    store.acknowledge("r", WENT_BACK, {"d1": ""}, moment())
    store.close()
    rows = {row.name: row for row in read_snapshot(folder).devices}
    assert (rows["d1"].version, rows["d2"].version) == ("1, again", "")


def test_an_empty_folder_and_damaged_files_are_said_and_shown(tmp_path: Path) -> None:
    assert "no run yet" in entered(tmp_path).get("/").text
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "rollout.sqlite").write_text("no database" * 100)
    (tmp_path / "operators.json").write_text("[]")
    assert len(read_snapshot(tmp_path).notes) >= 3
    assert entered(tmp_path).get("/").status_code == 200


def test_a_change_of_a_file_is_told_and_nothing_else_is(folder: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    (folder / "run.json").write_text(json.dumps(RUN | {"status": "aborted"}))
    assert fingerprint(folder) != before


def test_the_stream_says_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, slow = 0, asyncio.sleep

    async def slept(seconds: float, *more: Any) -> None:
        nonlocal rounds
        if seconds == 1.0:
            rounds += 1
            if rounds == 2:
                (folder / "run.json").write_text("{}")
        await slow(0, *more)

    monkeypatch.setattr(asyncio, "sleep", slept)
    client = entered(folder, stopping=lambda: rounds >= 4)
    assert client.get("/changes").text == ": open\n\ndata: changed\n\n"
    assert rounds == 4
