"""The console in headless Chromium, over its own sockets: enter, look on a phone, order, and see what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedinfer.artifact import Protection
from fedinfer.deployment import OPERATOR_CARD, make_operator, read_operator_card
from fedinfer.rollout import OrderInbox, RolloutStore, Standing, admit_operator, read_operators
from fedinfer.rollout.controller import Approval
from fedinfer.secagg import verify_signature
from fedinfer.system import SystemClock, SystemEntropy
from tests.e2e.test_report_browser import FLAGS
from tests.unit.artifact.key_folders import PASSPHRASE
from tests.unit.rollout.test_rollout_requests import rollout

pytestmark = pytest.mark.browser
WAIT_SECONDS = 60.0
OPERATOR = "o" * 32
START = "from fedinfer.cli.main import main; main()"


class Browser:
    """Chromium, driven over its pipe (Chrome DevTools Protocol: JSON with a zero byte behind each message)."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = ["chromium", *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "-", *command]
        self.process = subprocess.Popen(
            shell, pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.heard: list[dict[str, Any]] = []
        self._number, self._rest, self._session = 0, b"", ""

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (said := self._next()).get("id") != self._number:
            self.heard.append(said)
        assert "error" not in said, said
        return said["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser is gone"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, address: str, width: int) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.perf_counter() + WAIT_SECONDS
        while self.value(expression) is not True:
            assert time.perf_counter() < end, (expression, self.value("document.body.innerText"))
            time.sleep(0.2)

    def asked(self) -> set[str]:
        requests = [said["params"]["request"] for said in self.heard if said["method"] == "Network.requestWillBeSent"]
        return {request["url"] for request in requests if not request["url"].startswith("about:")}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    make_operator(tmp_path / "ann", "ann", Protection(lambda _: PASSPHRASE, SystemEntropy()))
    admit_operator(folder, *read_operator_card(tmp_path / "ann" / OPERATOR_CARD), None, SystemEntropy())
    store, now = RolloutStore(folder / "rollout.sqlite"), SystemClock().now()
    store.start(rollout(approval=Approval.NONE), "coordinator", now)
    store.acknowledge("r", 0, {"clinic-" + "north" * 11: "", "d2": "disk full " * 20}, now)
    store.close()
    return folder


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    for name, token in (("viewer", "v" * 32), ("operator", OPERATOR)):
        path = run.parent / name
        path.write_text(token)
        path.chmod(0o600)
    options = ("--viewer-token-file", "viewer", "--operator-token-file", "operator", "--key", "ann", "--port", "0")
    process = subprocess.Popen(
        [sys.executable, "-c", START, "server", "console", str(run), *options],
        cwd=run.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "FEDINFER_PASSPHRASE": PASSPHRASE},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    try:
        assert line.startswith("console on http://"), line
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(90)
        process.stderr.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


def test_an_operator_enters_looks_orders_and_sees_what_came_of_it(run: Path, address: str, browser: Browser) -> None:
    browser.open(address, width=360)
    browser.until("document.querySelector('[name=token]') !== null")
    browser.value(f"document.querySelector('[name=token]').value = '{OPERATOR}'")
    browser.value("document.querySelector('button').click()")
    browser.until("document.querySelector('#rollouts') !== null")
    assert browser.value("document.documentElement.scrollWidth") == 360  # nothing sticks out on a phone
    assert browser.value("document.querySelector('button[value=abort]').offsetHeight") >= 44

    browser.value("document.querySelector('[name=reason]').value = 'wrong labels'")
    browser.value("document.querySelector('button[value=abort]').click()")
    browser.until("document.querySelector('#rollouts').innerText.includes('submitted')")
    browser.value("document.documentElement.dataset.same = 'page'")
    store, operators = RolloutStore(run / "rollout.sqlite"), read_operators(run)
    assert operators is not None
    (handled,) = OrderInbox(store).carry_out(operators, SystemClock().now(), verify_signature)
    store.close()
    assert (handled.request.by, handled.request.reason, handled.standing) == ("ann", "wrong labels", Standing.DONE)
    browser.until("document.querySelector('#rollouts').innerText.includes('aborted')")  # told by the server
    assert browser.value("document.documentElement.dataset.same") == "page"

    assert {url.removeprefix(address) for url in browser.asked()} >= {"", "style.css", "live.js", "changes", "order"}
    assert all(url.startswith(address) for url in browser.asked() if "favicon" not in url)
    said = [entry["params"]["entry"] for entry in browser.heard if entry["method"] == "Log.entryAdded"]
    problems = [entry["text"] for entry in said if entry["level"] in ("warning", "error")]
    # 401: the page that asks for a token.
    assert [text for text in problems if "401" not in text and "favicon" not in text] == []
