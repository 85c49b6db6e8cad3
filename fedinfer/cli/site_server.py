"""`fedinfer server init|kit|up|down|status|run|certificate`: a site, from its file to a run that is watched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedinfer.cli.authority_place import OFFLINE_SECRET
from fedinfer.cli.files import write_bytes
from fedinfer.cli.output import JsonOption, errors_to_exit, print_document, print_json, stdout
from fedinfer.cli.secrets import secrets
from fedinfer.errors import ConfigError
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Json

SiteArgument = Annotated[Path, typer.Argument(help="folder of the site, or of its server alone")]
OfflinePassphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="file with the passphrase of everything offline; default: FEDINFER_ROOT_PASSPHRASE, else it is asked for",
    ),
]
CERTIFICATE_DAYS = 365


def init(
    folder: Annotated[Path, typer.Argument(help="folder of the site; site.toml is in it, or is written there first")],
    passphrase_file: OfflinePassphrase = None,
    as_json: JsonOption = False,
) -> None:
    """Make everything of a site from DIR/site.toml: TLS, authority, signing keys, configuration, units.

    Without DIR/site.toml, write one to be edited, and make nothing yet.
    """
    with errors_to_exit():
        from fedinfer.site import PLAN, TEMPLATE, Maker, make_site

        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file", hint="give the folder of the site")
        if not (folder / PLAN).exists():
            write_bytes(folder / PLAN, TEMPLATE.encode())
            print_document({"written": str(folder / PLAN), "next": "edit it, then run this command again"}, as_json)
            return
        clock = SystemClock()
        passphrase = secrets(None, passphrase_file, new=True)(OFFLINE_SECRET)
        made = make_site(folder, Maker(passphrase, SystemEntropy(), clock.now()))
    document: Json = {
        "server": str(made.server),
        "offline": f"{made.offline}: carry it away, with its passphrase",
        "fingerprint": made.fingerprint,
    }
    print_document(document, as_json)


def kit(
    device: Annotated[str, typer.Argument(help="name of the device")],
    site: Annotated[Path, typer.Option("--site", help="folder of the site, or of its server alone")],
    out: Annotated[Path, typer.Option("--out", "-o", help=".tar file to write; it holds no secret")],
    package: Annotated[list[Path] | None, typer.Option("--package", help="wheel to put in; repeat")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one file for a device that no network reaches: signed card of the site, unit, instructions, wheels."""
    with errors_to_exit():
        from fedinfer.site import open_server, write_kit

        names = write_kit(open_server(site), device, out, package or ())
    print_document({"kit": str(out), "files": names}, as_json)


def up(
    site: SiteArgument,
    detach: Annotated[
        bool, typer.Option("--detach", help="return when it answers; it goes on in the background")
    ] = False,
) -> None:
    """Start Flower's SuperLink and keep it running: approved devices may connect, a run that is killed goes on."""
    with errors_to_exit():
        from fedinfer.site import open_server, serve_site, start_detached, wait_until_up

        server, clock = open_server(site), SystemClock()
        if not detach:
            serve_site(server, clock)
            return
        process = start_detached(["server", "up", str(server.folder)], server.folder, server.log)
        wait_until_up(server, process, clock)
    print_document({"server": server.plan.name, "process": str(process.pid), "log": str(server.log)}, as_json=False)


def down(
    site: Annotated[Path, typer.Argument(help="folder of the site, or of its server alone")],
) -> None:
    """Stop the server of a site and everything that it started. A run that is under way goes on when it is up again."""
    with errors_to_exit():
        from fedinfer.flower import end
        from fedinfer.site import open_server

        server = open_server(site)
        process = end(server.lock, SystemClock())
    stdout.print(f"the server of {server.plan.name} {'was stopped' if process else 'was not up'}", highlight=False)


def status(site: SiteArgument, as_json: JsonOption = False) -> None:
    """Whether the server is up, its devices by name, and the newest event of its newest run."""
    with errors_to_exit():
        from fedinfer.site import open_server, status_of

        server = open_server(site)
        found = status_of(server)
    devices = [
        {
            "device": seen.device,
            "state": seen.state,
            "last_seen": seen.last_seen.isoformat(timespec="seconds") if seen.last_seen else None,
        }
        for seen in found.devices
    ]
    if as_json:
        document = {"site": server.plan.name, "process": found.process, "devices": devices, "run": found.run}
        print_json({**document, "problem": found.problem})
        return
    process = f"up, process {found.process}" if found.process else "down"
    print_document({"site": server.plan.name, "server": process, "address": server.plan.superlink}, as_json=False)
    for line in devices:
        print_document(
            {str(line["device"]): f"{line['state']}, last seen {line['last_seen'] or 'never'}"}, as_json=False
        )
    if found.run:
        event = f"{found.run['time']} run {found.run['run_id']}: {found.run['event']}"
        print_document({"run": event}, as_json=False)
    if found.problem:
        print_document({"problem": found.problem}, as_json=False)


def run(
    site: SiteArgument,
    follow: Annotated[bool, typer.Option("--follow", help="show its events until it ends")] = False,
    fresh: Annotated[bool, typer.Option("--give-up", help="give up the run that did not end; else it goes on")] = False,
    orders: Annotated[
        bool, typer.Option("--orders", help="train nothing: carry out rollouts that operators started, and end")
    ] = False,
) -> None:
    """Start a run on the devices of a site, or go on with the one that did not end."""
    with errors_to_exit():
        from fedinfer.site import begin_run, follow_run, open_server, read_events

        if orders and fresh:
            raise ConfigError("--orders begins no run that could replace the one that did not end", hint="one of both")
        server, clock = open_server(site), SystemClock()
        seen = len(read_events(server))
        number = begin_run(server, resume=not fresh, orders=orders)
        stdout.print(f"run {number} started", highlight=False)
        last = ""
        for event in follow_run(server, seen, clock) if follow else ():
            last = str(event["event"])
            what = {key: value for key, value in event.items() if key not in ("time", "event", "run_id")}
            stdout.print(f"{event['time']} run={event['run_id']} {last} {_short(what)}", markup=False, highlight=False)
    if last == "failed":
        raise typer.Exit(1)


def certificate(
    site: SiteArgument,
    days: Annotated[int, typer.Option(min=1, help="days until it expires")] = CERTIFICATE_DAYS,
    passphrase_file: OfflinePassphrase = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the server's TLS certificate, with a new key, and the card of the site anew, as its site.toml is now."""
    with errors_to_exit():
        from fedinfer.site import OFFLINE, open_server, renew_certificate

        server = open_server(site)
        passphrase = secrets(None, passphrase_file)(OFFLINE_SECRET)
        expires = renew_certificate(server.folder, site / OFFLINE, passphrase, SystemClock().now(), days)
    print_document({"certificate": str(server.folder / "server.pem"), "expires": expires.isoformat()}, as_json)


def _short(fields: Json) -> str:
    """Plain fields of an event; lists and tables are in events.jsonl."""
    return " ".join(f"{key}={value}" for key, value in fields.items() if isinstance(value, str | int | float))
