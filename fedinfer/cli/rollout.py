"""`fedinfer rollout`: watch and steer the rollouts of a server through its state database."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedinfer.cli.operators import (
    admit,
    dismiss,
    operator,
    order_of,
    order_with_key,
    requests,
    signing_operators,
    start_of,
    told,
)
from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, printable, stdout
from fedinfer.cli.secrets import PassphraseFile
from fedinfer.errors import ConfigError
from fedinfer.rollout import Command, Handled, Order, RolloutStore, log, read_devices, read_plan, status
from fedinfer.system import SystemClock
from fedinfer.types import Json

app = typer.Typer(no_args_is_help=True, help="Give a model to the fleet in waves, stop it, roll it back.")

for command in (operator, admit, dismiss, requests):
    app.command()(command)

State = Annotated[Path, typer.Argument(help="state database (SQLite)")]
Name = Annotated[str, typer.Argument(help="rollout; default: the newest")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="for the audit log")]
By = Annotated[str, typer.Option("--by", help="who says so, for the audit log; default: this user")]
Key = Annotated[Path | None, typer.Option("--key", help="folder of the operator who signs the order")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="seconds to wait until a signed order is carried out")]
WAIT_SECONDS = 10.0


@app.command()
def start(
    state: State,
    plan: Annotated[Path | None, typer.Argument(help="plan (TOML); without operators")] = None,
    devices: Annotated[
        Path | None, typer.Argument(help="devices (CSV: device and attributes); without operators")
    ] = None,
    version: Annotated[
        int, typer.Option("--version", min=0, help="signed order: version that the server's repository holds")
    ] = 0,
    waves: Annotated[
        str,
        typer.Option("--waves", help="signed order: 0.1,0.5,1 - part of the fleet after each; default: the scenario's"),
    ] = "",
    reason: Reason = "",
    by: By = "",
    key: Key = None,
    wait: Wait = WAIT_SECONDS,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a rollout: from a plan, or on a live deployment by an operator's signed order (--version, --key)."""
    with errors_to_exit():
        if (operators := signing_operators(state)) is not None:
            if plan or devices or not version:
                raise ConfigError(
                    "this server takes signed orders only", hint="fedinfer rollout start STATE --version N --key DIR"
                )
            asked, who = start_of(version, waves, reason), _key_of(Signing(key, wait, passphrase_file), by)
            with _opened(state) as store:
                handled = order_with_key(store, operators, who, asked, wait, passphrase_file)
                _show(store, _newest(store), as_json, handled)
            return
        _check_unsigned(Signing(key, wait, passphrase_file))
        if version or waves or plan is None or devices is None:
            raise ConfigError(
                "a server without operators needs a plan and a list of devices",
                hint="--version and --waves are for signed orders: fedinfer rollout admit DIR FILE",
            )
        begun = read_plan(plan).begin(read_devices(devices))
        with _opened(state, new=True) as store:
            store.start(begun, by or _user(), SystemClock().now())
            _show(store, begun.rollout, as_json)


@app.command("status")
def show_status(state: State, rollout: Name = "", as_json: JsonOption = False) -> None:
    """Where a rollout stands and why."""
    with errors_to_exit(), _opened(state) as store:
        _show(store, rollout or _newest(store), as_json)


@app.command()
def approve(
    state: State,
    reason: Reason,
    rollout: Name = "",
    by: By = "",
    key: Key = None,
    wait: Wait = WAIT_SECONDS,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Let a waiting wave go, or pass a held one under your name."""
    _order(Order.APPROVE, state, rollout, by, reason, Signing(key, wait, passphrase_file), as_json)


@app.command()
def pause(
    state: State,
    rollout: Name = "",
    reason: Reason = "",
    by: By = "",
    key: Key = None,
    wait: Wait = WAIT_SECONDS,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Push nothing until `resume`; a failing gate still rolls back."""
    _order(Order.PAUSE, state, rollout, by, reason, Signing(key, wait, passphrase_file), as_json)


@app.command()
def resume(
    state: State,
    rollout: Name = "",
    reason: Reason = "",
    by: By = "",
    key: Key = None,
    wait: Wait = WAIT_SECONDS,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Go on where `pause` stopped."""
    _order(Order.RESUME, state, rollout, by, reason, Signing(key, wait, passphrase_file), as_json)


@app.command()
def abort(
    state: State,
    rollout: Name = "",
    reason: Reason = "",
    by: By = "",
    key: Key = None,
    wait: Wait = WAIT_SECONDS,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Stop for good, at once, without asking back. Devices that have the model keep it until `rollback`."""
    _order(Order.ABORT, state, rollout, by, reason, Signing(key, wait, passphrase_file), as_json)


@app.command()
def rollback(
    state: State,
    rollout: Name = "",
    reason: Reason = "",
    by: By = "",
    key: Key = None,
    wait: Wait = WAIT_SECONDS,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Take the model back from every device that has it."""
    _order(Order.ROLLBACK, state, rollout, by, reason, Signing(key, wait, passphrase_file), as_json)


@app.command("log")
def show_log(state: State, rollout: Name = "", as_json: JsonOption = False) -> None:
    """Print the audit log, one canonical line per entry; all rollouts unless one is named."""
    with errors_to_exit(), _opened(state) as store:
        lines = store.log_lines(rollout)
        if as_json:
            print_json({"head": str(store.head()), "entries": [log.entry(line) for line in lines]})
        else:
            sys.stdout.write(log.dump(map(printable, lines)).decode())  # an entry of ours is plain ASCII


@app.command("verify-log")
def verify_log(
    state: Annotated[Path, typer.Argument(help="state database, or a log printed by `fedinfer rollout log`")],
    head: Annotated[str, typer.Option("--head", help="COUNT:DIGEST kept elsewhere; shows a cut-off end")] = "",
    as_json: JsonOption = False,
) -> None:
    """Check the hash chain of the audit log."""
    with errors_to_exit():
        found = _verify(state, log.Head.parse(head) if head else None)
        if as_json:
            print_json({"entries": found.count, "head": str(found), "valid": True})
        else:
            stdout.print(f"{found.count} entries, unbroken. head {found}", highlight=False, soft_wrap=True)


def _verify(path: Path, expected: log.Head | None) -> log.Head:
    with _file(path).open("rb") as file:
        is_database = file.read(16) == b"SQLite format 3\0"
    if not is_database:
        return log.verify_file(path.read_bytes(), expected)
    with _opened(path) as store:
        return store.verify(expected)


@dataclass(frozen=True, slots=True)
class Signing:
    """How an order is signed.

    Args:
        key: folder of the operator; None: it is not.
        wait: seconds until somebody carries it out.
        passphrase_file: of the key.
    """

    key: Path | None
    wait: float
    passphrase_file: Path | None


def _order(order: Order, state: Path, rollout: str, by: str, reason: str, signing: Signing, as_json: bool) -> None:
    with errors_to_exit(), _opened(state) as store:
        name, operators, handled = rollout or _newest(store), signing_operators(state), None
        if operators is None:
            _check_unsigned(signing)
            store.apply(name, Command(order, by or _user(), reason), SystemClock().now())
        else:
            key = _key_of(signing, by)
            asked = order_of(order, name, reason)
            handled = order_with_key(store, operators, key, asked, signing.wait, signing.passphrase_file)
        _show(store, name, as_json, handled)


def _check_unsigned(signing: Signing) -> None:
    if signing.key is not None:
        raise ConfigError("this server lists no operators, so nobody checks a signature", hint="fedinfer rollout admit")


def _key_of(signing: Signing, by: str) -> Path:
    if signing.key is None:
        raise ConfigError("this server takes signed orders only", hint="--key DIR, the folder of an operator")
    if by:
        raise ConfigError("--by is not for signed orders: the key says who it is")
    return signing.key


def _user() -> str:
    """Name of this user for the log; in a container the number may be all there is."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file", hint="the first run of a server makes it, or `fedinfer rollout start` with a plan"
        )
    return path


@contextmanager
def _opened(path: Path, *, new: bool = False) -> Iterator[RolloutStore]:
    store = RolloutStore(path if new else _file(path))
    try:
        yield store
    finally:
        store.close()


def _newest(store: RolloutStore) -> str:
    names = store.names()
    if not names:
        raise ConfigError("the database holds no rollout")
    return names[-1]


def _show(store: RolloutStore, rollout: str, as_json: bool, handled: Handled | None = None) -> None:
    facts = {**status(store.load(rollout)), "log_head": str(store.head())}
    facts |= {} if handled is None else {"request": handled.to_json()}
    if as_json:
        print_json(facts)
    else:
        if handled is not None:
            stdout.print(told(handled), highlight=False, soft_wrap=True, markup=False)
        stdout.print(_sentences(facts), highlight=False, soft_wrap=True, markup=False)


def _sentences(facts: Json) -> str:
    lines = [
        f"rollout {facts['rollout']}: version {facts['version']} (before: {facts['previous'] or 'none'})",
        f"phase   {facts['phase']}, wave {facts['wave']} of {len(facts['waves'])}",
        f"devices {facts['installed']} installed, {facts['failed']} failed in this wave; "
        f"{facts['looks']} canary evaluations",
    ]
    lines += [f"gate    {finding['verdict']}: {finding['reason']}" for finding in facts["findings"]]
    lines += [f"why     {facts['reason']}"] if facts["reason"] else []
    lines += [f"next    {action['task']} wave {action['wave']}" for action in facts["todo"]]
    return "\n".join(map(printable, [*lines, f"log     {facts['log_head']}"]))
