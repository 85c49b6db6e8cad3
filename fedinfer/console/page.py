"""The pages of the console. All text from files, devices and people goes through `text`, which escapes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedinfer.console.sessions import ConsoleRole, ConsoleSession
from fedinfer.console.snapshot import DeviceRow, Snapshot
from fedinfer.report import Markup, join, tag, text
from fedinfer.rollout import START, Order
from fedinfer.types import Json

STOPS = frozenset({Order.PAUSE, Order.ABORT, Order.ROLLBACK})
SECTIONS = ("rollouts", "devices", "rounds", "drift", "ledger", "log")
MOST_ROWS = 50
_HEAD = Markup(
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="stylesheet" href="style.css">'
)
_SCRIPT = Markup('<script src="live.js" defer></script>')


def login_page(problem: str = "") -> Markup:
    """The page that asks for a token.

    Args:
        problem: why the last one did not let in.
    """
    told = tag("p", problem, class_="bad") if problem else None
    field = _input(name="token", type="password", autocomplete="current-password", aria_label="token", required="")
    form = tag("form", field, tag("button", "Enter", type="submit"), class_="orders", method="post", action="login")
    return _document("fedinfer console", tag("main", told, tag("p", "Your token:"), form), live=False)


def console_page(snapshot: Snapshot, session: ConsoleSession, signer: str) -> Markup:
    """All there is to see, on one page.

    Args:
        snapshot: of the run folder.
        session: of who looks.
        signer: name of the operator whose key signs orders here; empty: none does.
    """
    orders = session.role is ConsoleRole.OPERATOR and bool(signer)
    parts: dict[str, Markup] = {
        "rollouts": _rollouts(snapshot, session, signer if orders else ""),
        "devices": _devices(snapshot.devices),
        "rounds": _rounds(snapshot.run),
        "drift": _drift(snapshot),
        "ledger": _ledger(snapshot.ledger),
        "log": _log(snapshot),
    }
    sections = [tag("section", tag("h2", name.capitalize()), parts[name], id=name) for name in SECTIONS]
    notes = [tag("p", note, class_="muted") for note in snapshot.notes]
    return _document("fedinfer console", join(_header(snapshot, session), tag("main", *notes, *sections)), live=True)


def _document(title: str, body: Markup, *, live: bool) -> Markup:
    head = tag("head", _HEAD, tag("title", title), _SCRIPT if live else None)
    return join(Markup("<!doctype html>"), tag("html", head, tag("body", body), lang="en"))


def _header(snapshot: Snapshot, session: ConsoleSession) -> Markup:
    run = snapshot.run
    about = f"{run.get('scenario', 'no run yet')}: {run.get('status', '')}" if run else "no run yet"
    links = [tag("a", name, href=f"#{name}") for name in SECTIONS]
    leave = tag("form", _hidden("secret", session.secret), tag("button", "Leave", type="submit"),
                method="post", action="logout")  # fmt: skip
    return tag(
        "header", tag("h1", "fedinfer"), tag("span", about), tag("span", str(session.role), class_="muted"),
        tag("nav", *links, tag("a", "report", href="report")), leave,
    )  # fmt: skip


def _rollouts(snapshot: Snapshot, session: ConsoleSession, signer: str) -> Markup:
    if not snapshot.rollouts:
        return tag("p", "No rollout yet.", class_="muted")
    return join(*(_rollout(rollout, session, signer) for rollout in snapshot.rollouts), _requests(snapshot))


def _rollout(rollout: Json, session: ConsoleSession, signer: str) -> Markup:
    facts = (
        f"{rollout['phase']}, wave {rollout['wave']} of {len(rollout['waves'])}; {rollout['installed']} installed and "
        f"{rollout['failed']} failed in this wave; {rollout['went_back']} answered a rollback"
    )
    why = tag("p", rollout["reason"]) if rollout["reason"] else None
    gates = [tag("p", f"{each['verdict']}: {each['reason']}", class_="muted") for each in rollout["findings"]]
    title = f"{rollout['rollout']}: version {rollout['version']} after {rollout['previous'] or 'none'}"
    form = _order_form(rollout, session, signer) if signer and rollout["orders"] else None
    start = _start_form(rollout, session, signer) if signer and rollout["may_start"] else None
    return join(tag("h3", title), tag("p", facts), why, *gates, form, start)


def _start_form(rollout: Json, session: ConsoleSession, signer: str) -> Markup:
    """Another version, in a rollout of its own, after one that is over."""
    version = _input(name="version", type="number", min="1", required="", placeholder="version", aria_label="version")
    waves = _input(name="waves", maxlength="300", placeholder="waves: 0.1,0.5,1", aria_label="waves")
    facts = {"secret": session.secret, "rollout": str(rollout["rollout"])}
    hidden = [_hidden(name, value) for name, value in facts.items()]
    parts = (*hidden, version, waves, _reason(signer), _order_button(START))
    return tag("form", *parts, class_="orders", method="post", action="order")


def _reason(signer: str) -> Markup:
    return _input(name="reason", required="", maxlength="300", placeholder=f"reason, signed by {signer}",
                  aria_label="reason")  # fmt: skip


def _order_form(rollout: Json, session: ConsoleSession, signer: str) -> Markup:
    buttons = [_order_button(order) for order in rollout["orders"]]
    facts = {"secret": session.secret, "rollout": str(rollout["rollout"]), "wave": str(rollout["wave"])}
    hidden = [_hidden(name, value) for name, value in facts.items()]
    return tag("form", *hidden, _reason(signer), *buttons, class_="orders", method="post", action="order")


def _order_button(order: str) -> Markup:
    kind = "stop" if order in STOPS else "go"
    return Markup(f'<button type="submit" name="order" value="{text(order)}" class="{kind}">{text(order)}</button>')


def _requests(snapshot: Snapshot) -> Markup:
    listed = "nobody signs here" if snapshot.operators is None else ", ".join(snapshot.operators)
    cells = [
        (_what(each), each["rollout"], each["by"], each["standing"], each["why"] or each["reason"])
        for each in snapshot.requests
    ]
    heads = ("Order", "Rollout", "By", "Standing", "Why")
    return join(tag("h3", f"Orders (operators: {listed})"), _table(heads, cells, "No order yet."))


def _what(order: Json) -> str:
    return f"{order['order']} version {order['version']}" if "version" in order else str(order["order"])


def _devices(devices: Sequence[DeviceRow]) -> Markup:
    cells = [(each.name, each.version or "none", each.at, each.problem) for each in devices]
    return _table(("Device", "Version", "Acknowledged", "Problem"), cells, "No device has answered a push yet.")


def _rounds(run: Json) -> Markup:
    cells = [
        (str(row.get("round", "")), row.get("reason", ""), row.get("status", ""),
         f"{row.get('survivors', '')} of {row.get('cohort', '')}", _number(row.get("metric")),
         _number(row.get("epsilon")), row.get("detail", ""))
        for row in _rows(run, "rounds")[::-1]
    ]  # fmt: skip
    heads = ("Round", "Why", "Status", "Devices", "Metric", "Epsilon", "Detail")
    return _table(heads, cells, "No round yet.")


def _drift(snapshot: Snapshot) -> Markup:
    events = [event for event in snapshot.events if event.get("event") in ("window", "alarm", "waiting")]
    cells = [
        (str(event.get("window", "")), event["event"], str(event.get("time", "")), _about(event))
        for event in events[::-1]
    ]
    return _table(("Window", "What", "When", "About"), cells, "No window yet.")


def _about(event: Json) -> str:
    if event["event"] == "alarm":
        return f"{event.get('channel', '')}, p {_number(event.get('p_value'))}"
    if event["event"] == "waiting":
        return f"{event.get('ready', 0)} devices are ready, {event.get('idle', 0)} have predicted too little"
    return f"{event.get('reporters', 0)} reports, {event.get('state', '')}"


def _ledger(ledger: Json) -> Markup:
    accounts = [
        (row.get("owner", ""), row.get("task", ""), _number(row.get("budget")), _number(row.get("spent")),
         _number(row.get("left")))
        for row in _rows(ledger, "accounts")
    ]  # fmt: skip
    return _table(("Account", "Run", "Budget", "Spent", "Left"), accounts, "No account yet.")


def _log(snapshot: Snapshot) -> Markup:
    cells = [
        (str(entry["seq"]), str(entry.get("at", "")), str(entry.get("kind", "")), _said(entry.get("body")))
        for entry in snapshot.lines
    ]
    return _table(("Entry", "When", "What", "About"), cells, "The log is empty.")


def _said(body: object) -> str:
    if not isinstance(body, dict):
        return ""
    names = ("rollout", "by", "claimed", "order", "wave", "installed", "failed", "to", "reason", "why")
    return ", ".join(f"{name} {body[name]}" for name in names if body.get(name) not in (None, ""))


def _table(heads: Sequence[str], cells: Iterable[Sequence[object]], empty: str) -> Markup:
    rows = [tag("tr", *(tag("td", str(cell)) for cell in row)) for row in list(cells)[:MOST_ROWS]]
    if not rows:
        return tag("p", empty, class_="muted")
    head = tag("thead", tag("tr", *(tag("th", head) for head in heads)))
    return tag("div", tag("table", head, tag("tbody", *rows)), class_="wide")


def _rows(document: Json, name: str) -> list[Json]:
    found = document.get(name)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "" if value is None else str(value)


def _hidden(name: str, value: str) -> Markup:
    return _input(name=name, value=value, type="hidden")


def _input(**attributes: str) -> Markup:
    shown = "".join(f' {name.replace("_", "-")}="{text(value)}"' for name, value in attributes.items())
    return Markup(f"<input{shown}>")
