"""`fedinfer rollout operator|admit|dismiss|requests`, and orders under an operator's key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from fedinfer.cli.output import JsonOption, errors_to_exit, print_document, print_json, printable, stdout
from fedinfer.cli.secrets import PassphraseFile, secrets
from fedinfer.errors import ConfigError
from fedinfer.rollout import (
    NONCE_BYTES,
    Asked,
    Handled,
    Operators,
    Order,
    OrderInbox,
    OrderRequest,
    RolloutStore,
    Standing,
    StartRequest,
    admit_operator,
    dismiss_operator,
    read_operators,
    sign_order,
)
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Json

POLL_SECONDS = 0.5
Run = Annotated[Path, typer.Argument(help="run folder of the server")]


def operator(
    folder: Annotated[Path, typer.Argument(help="folder to make; it stays with the operator")],
    name: Annotated[str, typer.Option(help="of the operator, for the log")],
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Make the key of an operator, who may then sign orders to rollouts."""
    with errors_to_exit():
        from fedinfer.artifact import Protection
        from fedinfer.deployment import OPERATOR_CARD, make_operator
        from fedinfer.secagg import fingerprint

        protection = Protection(secrets(passphrase_file, new=True), SystemEntropy())
        public = make_operator(folder, name, protection)
    print_document({"operator": name, "card": str(folder / OPERATOR_CARD), "fingerprint": fingerprint(public)}, as_json)


def admit(
    run: Run,
    card: Annotated[Path, typer.Argument(help="the operator's operator.json; it holds no secret")],
    approvers: Annotated[
        int,
        typer.Option(min=0, help="operators that approve, resume and start need, each with an own key; 0: as before"),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Let an operator order the rollouts of a server about. From the first one on, only signed orders count."""
    with errors_to_exit():
        from fedinfer.deployment import read_operator_card

        name, key = read_operator_card(card)
        _print_list(admit_operator(run, name, key, approvers or None, SystemEntropy()), as_json)


def dismiss(
    run: Run, name: Annotated[str, typer.Argument(help="of the operator")], as_json: JsonOption = False
) -> None:
    """Take an operator off the list of a server."""
    with errors_to_exit():
        _print_list(dismiss_operator(run, name), as_json)


def requests(
    state: Annotated[Path, typer.Argument(help="state database (SQLite)")], as_json: JsonOption = False
) -> None:
    """List signed orders and what became of them."""
    with errors_to_exit():
        if not state.is_file():
            raise ConfigError(f"{state}: no such file")
        store = RolloutStore(state)
        try:
            found = [each.to_json() for each in OrderInbox(store).requests()]
        finally:
            store.close()
    if as_json:
        print_json({"requests": found})
        return
    for each in found:
        stdout.print(_line(each), highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What every signed request holds.

    Args:
        server: id of the server.
        by: name of the operator.
        at: seconds since 1970.
        nonce: 16 random bytes.
    """

    server: str
    by: str
    at: int
    nonce: bytes


Ask: TypeAlias = Callable[[RolloutStore, Stamp], Asked]
"""Makes a request about the rollouts as they are now."""


def order_of(order: Order, rollout: str, reason: str) -> Ask:
    """An order to a rollout, for the wave that it is in.

    Args:
        order: what shall happen.
        rollout: name.
        reason: for the log.
    """

    def ask(store: RolloutStore, stamp: Stamp) -> Asked:
        wave = store.load(rollout).wave + 1
        return OrderRequest(stamp.server, rollout, order, wave, stamp.by, reason, stamp.at, stamp.nonce)

    return ask


def start_of(version: int, waves: str, reason: str) -> Ask:
    """A start after the newest rollout.

    Args:
        version: that the server's repository holds.
        waves: fractions, separated by commas; empty: the scenario's.
        reason: for the log.

    Raises:
        ConfigError: the waves are no numbers.
    """
    try:
        fractions = tuple(float(part) for part in waves.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"--waves {waves!r}: {error}", hint="for instance --waves 0.1,0.5,1") from error

    def ask(store: RolloutStore, stamp: Stamp) -> Asked:
        newest = store.names()[-1:]
        if not newest:
            raise ConfigError("nothing was rolled out here yet", hint="the first version comes with a run")
        return StartRequest(stamp.server, newest[0], version, fractions, stamp.by, reason, stamp.at, stamp.nonce)

    return ask


def order_with_key(
    store: RolloutStore, operators: Operators, key: Path, ask: Ask, wait: float, passphrase_file: Path | None
) -> Handled:
    """Sign an order, hand it in, and wait until somebody carries it out.

    Args:
        store: rollouts of the server.
        operators: of the server.
        key: folder of the operator.
        ask: makes the request.
        wait: seconds.
        passphrase_file: of the operator's key.

    Returns:
        What became of it so far.

    Raises:
        ConfigError: it was refused, or the key does not open.
    """
    from fedinfer.deployment import open_operator

    who, clock = open_operator(key, secrets(passphrase_file)), SystemClock()
    stamp = Stamp(operators.server, who.name, int(clock.now().timestamp()), SystemEntropy().take(NONCE_BYTES))
    asked = ask(store, stamp)
    inbox = OrderInbox(store)
    digest = inbox.submit(sign_order(asked, who.sign), clock.now())
    end = clock.seconds() + wait
    while (found := _found(inbox, digest)).standing is Standing.SUBMITTED and clock.seconds() < end:
        time.sleep(POLL_SECONDS)
    if found.standing is Standing.REFUSED:
        raise ConfigError(f"{asked.order} was refused: {found.why}")
    return found


def told(handled: Handled) -> str:
    """What became of an order, for people.

    Args:
        handled: the order.
    """
    if handled.standing is Standing.SUBMITTED:
        return "order   handed in; a coordinator that is at work, or `fedinfer server watch`, carries it out"
    return f"order   {handled.standing}{': ' if handled.why else ''}{handled.why}"


def signing_operators(state: Path) -> Operators | None:
    """The operators of the server that a state database belongs to; None: orders need no signature.

    Args:
        state: path of the database, in the run folder.

    Raises:
        ConfigError: the list cannot be read.
    """
    return read_operators(state.parent)


def _found(inbox: OrderInbox, digest: str) -> Handled:
    return next(each for each in inbox.requests() if each.digest == digest)


def _print_list(operators: Operators, as_json: bool) -> None:
    document: Json = {"operators": sorted(operators.keys), "approvers": operators.approvers, "server": operators.server}
    print_document(document, as_json)


def _line(each: Json) -> str:
    why = f" ({each['why']})" if each["why"] else ""
    about = f"version {each['version']} after" if "version" in each else ""
    what = f"{each['order']} {about} {each['rollout']}" if about else f"{each['order']} {each['rollout']}"
    wave = "" if about else f" wave {each['wave']}"
    return printable(f"{each['request'][:12]} {what}{wave} by {each['by']}: {each['standing']}{why}")
