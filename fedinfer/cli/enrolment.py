"""`fedinfer device request|join|renew`: the device makes its key, the authority signs it, one file goes each way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedinfer.cli.files import read_bytes, write_bytes
from fedinfer.cli.output import JsonOption, a_number, errors_to_exit, print_document
from fedinfer.errors import ConfigError
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Json

DELTA = 1e-5
Store = Annotated[Path, typer.Option("--store", help="folder of this device")]
Out = Annotated[Path, typer.Option("--out", "-o", help="file to write, for the authority; it holds no secret")]
AuthorityFile = Annotated[
    Path | None, typer.Option("--authority", help="authority.pub, got from the authority itself, to pin it")
]


def request(
    store: Store,
    out: Out,
    device: Annotated[str, typer.Option(help="name of this device")],
    data: Annotated[Path, typer.Option(help="its own table (CSV or Parquet)")],
    site: Annotated[
        Path | None, typer.Option("--site", help="signed card of the site: pins its authority, and proposes the rest")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(min=0, callback=a_number, help="budget over all runs; default: as the site proposes")
    ] = None,
    min_survivors: Annotated[
        int | None,
        typer.Option(min=2, help="minimum aggregation size: fewest devices in a sum; default: as the site proposes"),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(min=0, max=1, callback=a_number, help="default: as the site proposes, else 1e-5")
    ] = None,
    authority: AuthorityFile = None,
    corruption_rate: Annotated[
        float, typer.Option(callback=a_number, help="part of all devices that may work for the attacker")
    ] = 0.1,
    dropout_rate: Annotated[float, typer.Option(callback=a_number, help="part of all devices that may drop out")] = 0.1,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="scenario that it takes part in; repeat; default: the site's")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the store and the key of this device, and a request for the authority."""
    with errors_to_exit():
        from fedinfer.deployment import read_card, request_enrolment
        from fedinfer.privacy import Budget, exactly
        from fedinfer.secagg import fingerprint

        _check_new(store, data)
        pinned = read_bytes(authority) if authority else b""
        proposed = read_card(read_bytes(site), pinned) if site else None
        if proposed is not None:
            card, pinned, task = proposed.card, proposed.authority, task or [proposed.card.task]
            epsilon, delta = _first(epsilon, card.epsilon), _first(delta, card.delta)
            min_survivors = min_survivors or card.min_survivors
        if epsilon is None or min_survivors is None:
            raise ConfigError(
                "the owner of a device says its budget: --epsilon and --min-survivors",
                hint="or --site CARD, to agree to what the site proposes",
            )
        budget = Budget(epsilon, DELTA if delta is None else delta)
        floors = {"corruption_rate": corruption_rate, "dropout_rate": dropout_rate}
        asked = request_enrolment(
            store, device, data, budget, min_survivors, SystemEntropy(), pinned, **floors, tasks=tuple(task or ())
        )
        write_bytes(out, asked)
    agreed = {
        "agreed": f"epsilon {exactly(budget.epsilon)}, sums of {min_survivors} or more, tasks: {', '.join(task or ())}"
    }
    pins = {"authority": fingerprint(pinned)} if pinned else {}
    print_document(_asked(asked, out) | agreed | pins, as_json)


def _check_new(store: Path, data: Path) -> None:
    if not data.is_file():
        raise ConfigError(f"{data}: no such file", hint="--data is the table of this device, CSV or Parquet")
    if (store / "device.json").exists():
        raise ConfigError(
            f"{store} is the store of a device already",
            hint="`fedinfer device renew` asks for its certificate again; another device has another --store",
        )


def _first(own: float | None, proposed: float) -> float:
    """What the owner says, 0 too: it must not become what the site would like."""
    return proposed if own is None else own


def renew(
    store: Store,
    out: Out,
    new_key: Annotated[bool, typer.Option("--new-key", help="ask for a new key; the old one is revoked then")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask for a new certificate; the store, its ledger and its budget stay."""
    with errors_to_exit():
        from fedinfer.deployment import request_again, request_new_key

        asked = request_new_key(store, SystemEntropy()) if new_key else request_again(store)
        write_bytes(out, asked)
    print_document(_asked(asked, out), as_json)


def join(
    approval: Annotated[Path, typer.Argument(help="what the authority answered")],
    store: Store,
    authority: AuthorityFile = None,
    as_json: JsonOption = False,
) -> None:
    """Take the certificate of the authority; the device can take part from then on."""
    with errors_to_exit():
        from fedinfer.deployment import import_approval, open_device
        from fedinfer.secagg import fingerprint

        expected = read_bytes(authority) if authority else b""
        enrolment = import_approval(store, read_bytes(approval), SystemClock().now(), expected)
        document: Json = {
            "device": enrolment.device,
            "valid_until": datetime.fromtimestamp(enrolment.not_after, UTC).isoformat(),
            "authority": fingerprint(open_device(store).authority),
        }
    print_document(document, as_json)


def _asked(request: bytes, out: Path) -> Json:
    from fedinfer.deployment import read_request
    from fedinfer.secagg import fingerprint

    said = read_request(request)
    return {"device": said.device, "request": str(out), "fingerprint": fingerprint(said.public_key)}
