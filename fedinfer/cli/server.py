"""`fedinfer server`: a site and its enrolment authority, whose folder stays away from the server that coordinates."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedinfer.cli import site_server
from fedinfer.cli.authority_place import authority_place
from fedinfer.cli.console import console
from fedinfer.cli.files import read_bytes, write_bytes
from fedinfer.cli.output import JsonOption, a_number, errors_to_exit, print_document, stderr, stdout
from fedinfer.cli.secrets import PassphraseFile, secrets
from fedinfer.errors import ConfigError
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Json

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from fedinfer.artifact import Secret
    from fedinfer.deployment import Request

app = typer.Typer(no_args_is_help=True, help="A site: make it, approve devices, start it, watch it.")
app.command()(console)

Folder = Annotated[Path | None, typer.Option("--authority", help="folder of the authority; not on a server")]
SiteFolder = Annotated[
    Path | None, typer.Option("--site", help="folder of a site, with offline/ and server/: in place of --authority")
]
CERTIFICATE_DAYS, LIST_DAYS = 365, 30
WATCH_SECONDS = 5.0


@app.command()
def authority(
    folder: Annotated[Path, typer.Argument(help="folder to make; keep it offline")],
    token: Annotated[str, typer.Option(help="make the key on this PKCS #11 token")] = "",
    bare_key: Annotated[
        Path | None, typer.Option(help="take over this key: 32 bytes without a passphrase, as older versions kept it")
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Make the key of an enrolment authority, encrypted or on a token, and its first revocation list."""
    with errors_to_exit():
        from fedinfer.artifact import Protection
        from fedinfer.deployment import make_authority, public_bytes
        from fedinfer.secagg import fingerprint

        entropy, secret = SystemEntropy(), secrets(passphrase_file, new=True)
        signer = _signer(token, bare_key, secret)
        make_authority(folder, signer, Protection(secret, entropy), SystemClock().now())
        shown = fingerprint(public_bytes(signer))
    print_document({"folder": str(folder), "fingerprint": shown}, as_json)


@app.command()
def approve(
    request: Annotated[Path, typer.Argument(help="what `fedinfer device request` or `renew` wrote")],
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write, for the device; it holds no secret")],
    folder: Folder = None,
    site: SiteFolder = None,
    fingerprint: Annotated[
        str, typer.Option(help="that the device's owner gave you over another channel; else it is shown and asked for")
    ] = "",
    days: Annotated[int, typer.Option(min=1, help="days until the certificate expires")] = CERTIFICATE_DAYS,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Certify the key of a device, and let it connect. A new key for a device that has one revokes the old one."""
    with errors_to_exit():
        from fedinfer.deployment import approve as sign
        from fedinfer.deployment import open_authority, read_request

        asked = read_bytes(request)
        said = read_request(asked)
        place = authority_place(folder, site, passphrase_file)
        place.check_listed(said.device)
        _compare(fingerprint, said)
        key = open_authority(place.authority, place.secret)
        write_bytes(out, sign(place.authority, key, asked, SystemClock().now(), days))
        place.publish()
    print_document({"device": said.device, "approval": str(out)}, as_json)


@app.command()
def revoke(
    devices: Annotated[list[str] | None, typer.Argument(help="names; none: the same list with a later end")] = None,
    folder: Folder = None,
    site: SiteFolder = None,
    days: Annotated[int, typer.Option(min=1, help="days until the list ends; sign a new one before")] = LIST_DAYS,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a new revocation list: with these devices, or only fresh again. --site gives it to the server as well."""
    with errors_to_exit():
        from fedinfer.deployment import REVOCATIONS, open_authority
        from fedinfer.deployment import revoke as sign

        place = authority_place(folder, site, passphrase_file)
        key = open_authority(place.authority, place.secret)
        listed = sign(place.authority, key, devices or [], SystemClock().now(), days)
        place.publish()
        document: Json = {
            "list": str(place.authority / REVOCATIONS),
            "version": listed.version,
            "revoked_keys": len(listed.keys),
            "expires": datetime.fromtimestamp(listed.expires, UTC).isoformat(),
        }
    print_document(document, as_json)


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="run folder of the server")],
    keys: Annotated[Path, typer.Option("--keys", help="folder with the online keys")],
    once: Annotated[bool, typer.Option("--once", help="carry out what is waiting, and end")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, callback=a_number, help="seconds between two looks")
    ] = WATCH_SECONDS,
    site: Annotated[
        Path | None,
        typer.Option("--site", help="folder of the site: a coordinator is begun there for a started rollout"),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Carry out signed orders to rollouts while no run goes on: a version is taken back in the signed metadata.

    With --site a rollout that was started reaches the devices: a run begins that trains nothing.
    """
    with errors_to_exit():
        from fedinfer.artifact import load_keys
        from fedinfer.cli.keys import open_repository
        from fedinfer.cli.standing import Standby
        from fedinfer.site import open_server

        secret, clock = secrets(passphrase_file), SystemClock()
        if not run.is_dir():
            raise ConfigError(f"{run}: no such folder", hint="give the run folder of a server")
        load_keys(keys, secret)  # a wrong key is told now, not when it is needed
        server = None if site is None else open_server(site)
        standby = Standby(run, lambda: open_repository(run / "artifacts", keys, secret), server, clock)
        while True:
            for line in standby.look():
                stdout.print(line, markup=False, highlight=False, soft_wrap=True)
            if once:
                return
            time.sleep(every)


for command in (
    site_server.init, site_server.kit, site_server.up, site_server.down, site_server.status, site_server.run,
    site_server.certificate,
):  # fmt: skip
    app.command()(command)


def _signer(token: str, bare_key: Path | None, secret: Secret) -> Signer:
    from fedinfer.artifact import bare_signer, new_signer, new_token_key

    if token and bare_key:
        raise ConfigError("a key cannot be put on a token, it is made there: --token or --bare-key, not both")
    if bare_key:
        return bare_signer(bare_key)
    return new_token_key(token, secret, SystemEntropy()) if token else new_signer(SystemEntropy())


def _compare(reported: str, said: Request) -> None:
    """A request travels openly: whoever replaced it on its way has another key, and so another fingerprint."""
    from fedinfer.secagg import fingerprint

    shown = fingerprint(said.public_key)
    if not reported:
        stderr.print(f"device {said.device}: {shown}", markup=False, highlight=False)
        reported = shown if typer.confirm("Is this the fingerprint that its owner has?", err=True) else "refused"
        if reported == "refused":
            raise ConfigError(
                f"not approved: the owner of {said.device} has another fingerprint",
                hint="have the request sent again; it may have been replaced on its way",
            )
    if reported.replace(" ", "").lower() != shown.replace(" ", ""):
        raise ConfigError(
            f"the key in the request has the fingerprint {shown}, not {reported[:80]}",
            hint="ask the device's owner again; the request may have been replaced on its way",
        )
