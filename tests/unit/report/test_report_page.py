from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from fedinfer.cli.report import report
from fedinfer.errors import ConfigError, StoreError
from fedinfer.report import write_report
from fedinfer.report.ledger import mechanism_words
from fedinfer.report.page import render
from fedinfer.report.reading import RunFiles, read_run
from tests.unit.report import sample_runs

HOSTILE = "</title></style><script>alert(1)</script><img src=http://x.invalid/ onerror=alert(2)>\"'&]]>-->"
SAMPLES = (sample_runs.digits, sample_runs.heart, sample_runs.aborted)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def _tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page)
    return parser.seen


def _body(page: str) -> ElementTree.Element:
    """The body parsed strictly: fails on any tag that is not closed."""
    return ElementTree.fromstring(page[page.index("<body>") : page.index("</body>") + len("</body>")])


def _render(run: Any, events: list[Any], ledger: Any = None) -> str:
    return render(RunFiles(run, tuple(events), ledger or {}, ()))


@pytest.mark.parametrize("make", SAMPLES)
def test_the_page_is_whole_and_loads_nothing(make: Any, tmp_path: Path) -> None:
    run, events = make()
    path = write_report(sample_runs.write(tmp_path / "run", run, events))
    assert path == tmp_path / "run" / "report.html"
    page = path.read_text(encoding="utf-8")
    _body(page)
    assert set(re.findall(r"https?://[^\s\"<)]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|src=|<script|<iframe", page)
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".part"] == []


@pytest.mark.parametrize("make", SAMPLES)
def test_no_drawing_holds_a_number_that_is_none(make: Any) -> None:
    page = _render(*make())
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert not re.search(r"\b(nan|NaN|inf|Infinity|None|null)\b", svg)


def test_the_loop_is_drawn_for_a_desktop_and_for_a_phone() -> None:
    page = _render(*sample_runs.digits())
    assert page.count("<title>The loop over time</title>") == 2
    assert 'viewBox="0 0 900' in page
    assert 'viewBox="0 0 326' in page


def test_hostile_text_in_every_place_stays_text() -> None:
    run, events = sample_runs.digits()
    run["warnings"] = ["x"]
    events += [{"event": "blamed", "round": "r", "device": "d", "reason": "x"}]
    events += [{"event": "stopped", "message": "m", "hint": "h"}]
    entry = {"reference": "r", "reason": "x", "event": {"kind": "k"}, "epsilon_alone": 1, "reserved_at": "t"}
    account = {"owner": "o", "budget": {"epsilon": 1}, "spent": {"relation": "r", "accountant": "a"}}
    hostile = [_poison(event) | {"event": event["event"]} for event in events]
    page = _render(_poison(run), hostile, _poison({"accounts": [account], "entries": [entry]}))
    names = {name for name, _ in _tags(page)}
    assert not names & {"script", "img", "iframe", "object", "base", "form", "a"}
    assert all(not key.startswith("on") for _, attributes in _tags(page) for key in attributes)
    assert [name for name, _ in _tags(page)].count("title") >= 1
    assert "alert(1)" in "".join(_body(page).itertext())
    head = page[: page.index("<body>")]
    assert head.count("</title>") == 1
    assert head.count("</style>") == 1


def _poison(value: Any) -> Any:
    """Every string replaced by a hostile one; those that choose a branch keep their meaning in other tests."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, list):
        return [_poison(item) for item in value]
    if isinstance(value, dict):
        return {key: _poison(item) for key, item in value.items()}
    return value


def test_hostile_channel_and_version_names_stay_text() -> None:
    run, events = sample_runs.digits()
    for event in events:
        for channel in event.get("channels", []):
            channel["channel"] = HOSTILE
        if event["event"] == "pushed":
            event["version"] = HOSTILE
    page = _render(run, events)
    _body(page)
    assert "script" not in {name for name, _ in _tags(page)}


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items: Any = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


JUNK = (None, "x", "inf", float("nan"), -1, 10**400, [None, 3], {"a": 1})


def test_any_value_missing_or_replaced_by_junk_still_gives_a_page() -> None:
    whole, _ = sample_runs.digits(initial=3, after=2, windows=4, inject_at=2)
    run = _short(whole)
    assert list(_places(run)) == list(_places(whole)), "what is left away is no place of its own"
    assert len(_body(_render(run, [])).findall(".//section")) == len(_body(_render(whole, [])).findall(".//section"))
    for place in _places(run):
        for junk in JUNK:
            _body(_render(_replaced(run, place, junk), []))


def test_any_event_with_junk_still_gives_a_page() -> None:
    run, events = sample_runs.digits(initial=3, after=1, windows=3, inject_at=2)
    for place in list(_places(events)):
        for junk in JUNK:
            found = _replaced(events, place, junk)
            _body(_render(run, [event for event in found if isinstance(event, dict)]))


def _short(value: Any) -> Any:
    """With at most six entries of each list: 200 devices and curves of 200 points are read as six of each are."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value[:6]] if isinstance(value, list) else value


def _replaced(value: Any, place: tuple[Any, ...], junk: object) -> Any:
    if not place:
        return junk
    made = copy.copy(value)
    made[place[0]] = _replaced(value[place[0]], place[1:], junk)
    return made


def test_an_empty_run_gives_a_page() -> None:
    assert "No round and no drift window was recorded" in _render({"schema": 1}, [])


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("completed", "Completed"),
        ("budget_exhausted", "privacy budget used up"),
        ("aborted", "Aborted"),
        ("odd", "odd"),
    ],
)
def test_the_status_is_said_in_words(status: str, said: str) -> None:
    run, events = sample_runs.heart()
    assert said in "".join(_body(_render(run | {"status": status}, events)).itertext())


def test_an_aborted_run_says_what_happened_and_invents_no_figure() -> None:
    text = "".join(_body(_render(*sample_runs.aborted())).itertext())
    assert "no round succeeded, 5 aborted" in text
    assert "No model was pushed" in text
    assert "there is no figure of quality" in text


def test_warnings_of_the_run_are_repeated() -> None:
    text = "".join(_body(_render(*sample_runs.heart())).itertext())
    assert "ranges_confirmed = false" in text


def test_every_round_model_and_alarm_is_in_a_table() -> None:
    run, events = sample_runs.digits()
    body = _body(_render(run, events))
    tables = {(table.findtext("caption") or "").split(";")[0]: table for table in body.iter("table")}
    assert len(list(tables["One row per round"].iter("tr"))) == 1 + len(run["rounds"])
    assert len(list(tables["One row per published version"].iter("tr"))) == 1 + 2
    assert len(list(tables["Alarms"].iter("tr"))) == 1 + 2
    first = [cell.text for cell in list(tables["One row per round"].iter("tr"))[3]]
    assert first[:5] == ["3", "initial", "\u2715 aborted", "40", "21"]


def test_windows_say_which_accuracy_is_known_and_what_was_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    run, events = sample_runs.digits()
    first, second, *_ = run["drift"]["timeline"]
    first |= {
        "estimated": {"accuracy": 0.9, "low": 0.85, "high": 0.95},
        "labelled": None,
        "decision": {"action": "none"},
    }
    second |= {
        "labelled": {"accuracy": 0.5, "low": 0.4, "high": 0.6},
        "decision": {"action": "suggest_round", "reason": "errors"},
    }
    table = next(each for each in _body(_render(run, events)).iter("table") if each.findtext("caption") == "Windows")
    lines = [["".join(cell.itertext()) for cell in line] for line in table.iter("tr")]
    assert len(lines) == 1 + len(run["drift"]["timeline"])
    assert lines[1][2:] == ["0.900 (0.850 to 0.950)", "\u2013", "none"]
    assert lines[2][2:] == ["\u2013", "0.500 (0.400 to 0.600)", "suggest round: errors"]
    monkeypatch.setattr("fedinfer.report.tables.MOST_SHOWN", 2)
    captions = [each.findtext("caption") for each in _body(_render(run, events)).iter("table")]
    assert f"The last 2 of {len(run['drift']['timeline'])} windows" in captions


def test_waves_blame_and_the_reason_of_a_stop_are_shown() -> None:
    text = "".join(_body(_render(*sample_runs.aborted())).itertext())
    assert "5 rounds in a row aborted. Hint: see docs." in text
    assert "Devices blamed for false messages" in text
    assert "BadSignature: truncated" in "".join(_body(_render(*sample_runs.digits())).itertext())


def test_the_ledger_is_shown_entry_by_entry(tmp_path: Path) -> None:
    page = write_report(sample_runs.write(tmp_path, *sample_runs.heart())).read_text()
    text = " ".join(_body(page).itertext())
    assert "Poisson sampling 0.1 of: gaussian, noise_multiplier 4" in text
    assert "spent (reserved, never finished)" in text
    tables = {(table.findtext("caption") or "").split(";")[0]: table for table in _body(page).iter("table")}
    assert len(list(tables["Entries, oldest first"].iter("tr"))) == 3


def test_events_of_every_shape_are_put_into_words() -> None:
    gaussian = {"kind": "gaussian", "noise_multiplier": 2.0}
    assert (
        mechanism_words({"kind": "repeated", "count": 3, "event": gaussian}) == "3 times: gaussian, noise_multiplier 2"
    )
    assert mechanism_words({"kind": "composed", "events": [gaussian, gaussian]}).count("gaussian") == 2
    assert mechanism_words({"kind": "non_private"}) == "non private"
    assert mechanism_words({}) == "\u2013"


def test_a_missing_or_broken_ledger_is_said(tmp_path: Path) -> None:
    folder = sample_runs.write(tmp_path, *sample_runs.heart())
    (folder / "ledger.sqlite").write_bytes(b"not a database" * 100)
    assert "ledger.sqlite cannot be read" in write_report(folder).read_text()
    (folder / "ledger.sqlite").unlink()
    assert "ledger.sqlite is missing" in write_report(folder).read_text()


def test_missing_and_broken_events_are_said(tmp_path: Path) -> None:
    run, events = sample_runs.digits()
    folder = sample_runs.write(tmp_path, run, None)
    assert "events.jsonl is missing" in write_report(folder).read_text()
    (folder / "events.jsonl").write_bytes(json.dumps(events[0]).encode() + b'\n\xff\xfe\n[1]\n{"event": "rou')
    assert "3 unreadable line(s)" in write_report(folder).read_text()


def test_of_several_runs_and_of_a_simulation_that_went_back_only_what_happened_is_read(tmp_path: Path) -> None:
    run, _ = sample_runs.digits()
    told = [("old", "round", 1), ("now", "started", 0), ("now", "round", 1), ("now", "round", 2), ("now", "round", 3)]
    events = [{"event": name, "run_id": of, "round": number} for of, name, number in told]
    again = {"event": "started", "run_id": "now", "resumed": {"round": 1, "lines": 3}}
    events += [again, {"event": "round", "run_id": "now", "round": 2}]
    folder = sample_runs.write(tmp_path, {**run, "run_id": "now"}, events)
    found = [(event["event"], event.get("round")) for event in read_run(folder).events]
    assert found == [("started", 0), ("round", 1), ("started", None), ("round", 2)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"), (b"{", "cannot be read"), (b"\xff", "cannot be read"), (b"[]", "object is expected"),
        (b"{}", "schema None"), (b'{"schema": 2}', "schema 2"), (b"[" * 100_000, "cannot be read"),
    ],
)  # fmt: skip
def test_a_run_json_that_cannot_be_used_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_a_typed_error_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sample_runs.write(tmp_path, *sample_runs.heart())
    path = write_report(folder)
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedinfer.report.page.os.replace", full)
    with pytest.raises(StoreError, match="No space left"):
        write_report(folder)
    assert path.read_text() == "old"


def test_equal_runs_give_equal_pages() -> None:
    assert _render(*sample_runs.digits()) == _render(*sample_runs.digits())


def _command() -> Typer:
    app = Typer()
    app.command()(report)
    return app


def test_the_command_prints_the_path(tmp_path: Path) -> None:
    folder = sample_runs.write(tmp_path / "a run", *sample_runs.heart())
    done = CliRunner().invoke(_command(), [str(folder)])
    assert done.exit_code == 0
    assert done.stdout.strip() == str(folder / "report.html")


def test_the_command_prints_json(tmp_path: Path) -> None:
    folder = sample_runs.write(tmp_path, *sample_runs.heart())
    done = CliRunner().invoke(_command(), [str(folder), "--json"])
    assert json.loads(done.stdout) == {"report": str(folder / "report.html")}


def test_the_command_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    assert CliRunner().invoke(_command(), [str(tmp_path)]).exit_code == 2
