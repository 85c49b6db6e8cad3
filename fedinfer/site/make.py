"""`server init`: everything of a site from `site.toml`, in two folders. One stays offline, one goes to the server.

offline/   tls.key, authority/, root/: each opened by one passphrase that no server knows
server/    see `server`
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fedinfer.artifact import (
    ROOT_METADATA,
    Protection,
    encrypted_pem,
    first_root,
    generate_keys,
    new_signer,
    save_keys,
    signed_root,
)
from fedinfer.config import load_scenario, to_flat
from fedinfer.deployment import (
    CARD,
    PUBLIC,
    REVOCATIONS,
    SiteCard,
    card_of,
    make_authority,
    open_authority,
    public_bytes,
    read_card,
    sign_card,
)
from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Entropy
from fedinfer.private_files import only_owner, private_folder
from fedinfer.secagg import fingerprint
from fedinfer.site.plan import PLAN, SitePlan, read_plan
from fedinfer.site.server import OFFLINE, SCENARIO, SERVER, VIEWER_TOKEN, ServerFolder
from fedinfer.site.templates import compose, unit
from fedinfer.site.tls import TlsPair, make_tls_authority, sign_server

ROOT_DAYS = 365
ROOT_THRESHOLD = 2
PASSPHRASE_BYTES = 24
TOKEN_BYTES = 32
TLS_KEY, AUTHORITY, ROOT = "tls.key", "authority", "root"


@dataclass(frozen=True, slots=True)
class MadeSite:
    """What was made.

    Args:
        server: its folder.
        offline: folder that is to be carried away.
        fingerprint: of the enrolment authority; owners of devices compare it.
    """

    server: Path
    offline: Path
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Maker:
    """What making a site takes from outside.

    Args:
        passphrase: of everything offline, 12 characters or more.
        entropy: of the operating system.
        now: aware time.
    """

    passphrase: str
    entropy: Entropy
    now: datetime


def make_site(folder: Path, maker: Maker) -> MadeSite:
    """Make the two folders from `site.toml`; all of it or nothing.

    Args:
        folder: holds `site.toml`, and the files that it names.
        maker: see there.

    Raises:
        ConfigError: a site is there already, `site.toml` or what it names is wrong, or the passphrase is too short.
        StoreError: the folder cannot be written.
    """
    plan = read_plan(folder / PLAN)
    for name in (OFFLINE, SERVER):
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} exists already", hint="keys are never overwritten; choose another DIR")
    part = folder / ".part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        private_folder(part)
        shown = _fill(part, folder.resolve(), plan, maker)
        for name in (OFFLINE, SERVER):
            (part / name).rename(folder / name)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}", hint="choose a folder you may write to") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return MadeSite(folder / SERVER, folder / OFFLINE, shown)


def renew_certificate(folder: Path, offline: Path, passphrase: str, now: datetime, days: int) -> datetime:
    """Sign the server's certificate anew, with a new key, and the card, as its `site.toml` is now.

    Devices get the card with their next approval; those that joined before keep the address that they have.

    Args:
        folder: of the server.
        offline: of the site.
        passphrase: of everything offline.
        now: aware time.
        days: until it expires.

    Returns:
        When it expires.

    Raises:
        ConfigError: no such authority, a wrong passphrase, or a `site.toml` that is wrong.
    """
    plan = read_plan(folder / PLAN)
    tls = open_tls_authority(folder, offline, passphrase)
    pair = sign_server(tls, plan.addresses, now, days)
    authority = open_authority(offline / AUTHORITY, lambda _what: passphrase)
    signed = sign_card(_card(folder, plan, tls, read_card(card_of(folder)).card.root), authority)
    _write_pair(folder, pair)
    for place in (offline / AUTHORITY, folder):
        (place / CARD).write_bytes(signed)
    return pair.certificate.not_valid_after_utc


def open_tls_authority(folder: Path, offline: Path, passphrase: str) -> TlsPair:
    """The authority of the server's certificate.

    Args:
        folder: of the server.
        offline: of the site.
        passphrase: of everything offline.

    Raises:
        ConfigError: it is not there, or the passphrase is wrong.
    """
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = load_pem_private_key((offline / TLS_KEY).read_bytes(), passphrase.encode())
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}", hint="is the offline folder at hand?") from error
    except ValueError as error:
        raise ConfigError(f"{offline / TLS_KEY} does not open with this passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{offline / TLS_KEY} is no EC key")
    return TlsPair(certificate, key)


def _fill(part: Path, final: Path, plan: SitePlan, maker: Maker) -> str:
    offline, server = part / OFFLINE, part / SERVER
    for path in (offline, server, server / "flower", server / "nodes", server / "run"):
        private_folder(path)
    _private(server / VIEWER_TOKEN, f"{maker.entropy.take(TOKEN_BYTES).hex()}\n".encode())
    (server / PLAN).write_bytes((final / PLAN).read_bytes())
    _copy_named(final, server, plan)
    authority = _write_tls(offline, server, plan, maker)
    root = _write_keys(offline, server, maker)
    shown = _write_authority(offline, server, _card(server, plan, authority, root), maker)
    _write_configuration(server, final / SERVER, plan)
    return shown


def _copy_named(folder: Path, server: Path, plan: SitePlan) -> None:
    """The files that `site.toml` names go with the server."""
    names = {plan.run.public_data: f"public{Path(plan.run.public_data).suffix}"}
    if plan.run.scenario.endswith(".toml"):
        names[plan.run.scenario] = SCENARIO
    for name, target in names.items():
        if not name:
            continue
        try:
            (server / target).write_bytes((folder / name).read_bytes())
        except OSError as error:
            raise ConfigError(f"{folder / name}: {error.strerror}", hint=f"{PLAN} names it") from error


def _write_tls(offline: Path, server: Path, plan: SitePlan, maker: Maker) -> TlsPair:
    authority = make_tls_authority(plan.name, maker.now)
    der = authority.key_bytes(Encoding.DER)
    _private(offline / TLS_KEY, encrypted_pem(der, maker.passphrase.encode(), maker.entropy))
    (server / "ca.crt").write_bytes(authority.certificate_pem)
    _write_pair(server, sign_server(authority, plan.addresses, maker.now))
    return authority


def _write_pair(server: Path, pair: TlsPair) -> None:
    _private(server / "server.key", pair.key_bytes(Encoding.PEM))
    (server / "server.pem").write_bytes(pair.certificate_pem)


def _write_keys(offline: Path, server: Path, maker: Maker) -> bytes:
    """Root keys offline, the others on the server under a passphrase that only its file knows; the root metadata."""
    made, online = generate_keys(maker.entropy), maker.entropy.take(PASSPHRASE_BYTES).hex()
    expires = (maker.now + timedelta(days=ROOT_DAYS)).replace(microsecond=0)
    root = signed_root(first_root(made, expires, ROOT_THRESHOLD), made)
    save_keys(made.root(), offline / ROOT, Protection(lambda _what: maker.passphrase, maker.entropy))
    save_keys(made.online(), server / "keys", Protection(lambda _what: online, maker.entropy))
    _private(server / "keys.pass", f"{online}\n".encode())
    (server / "keys" / ROOT_METADATA).write_bytes(root)
    return root


def _write_authority(offline: Path, server: Path, card: SiteCard, maker: Maker) -> str:
    folder, signer = offline / AUTHORITY, new_signer(maker.entropy)
    make_authority(folder, signer, Protection(lambda _what: maker.passphrase, maker.entropy), maker.now)
    signed = sign_card(card, open_authority(folder, lambda _what: maker.passphrase))
    (folder / CARD).write_bytes(signed)
    for name in (PUBLIC, REVOCATIONS, CARD):
        (server / name).write_bytes((folder / name).read_bytes())
    return fingerprint(public_bytes(signer))


def _card(server: Path, plan: SitePlan, authority: TlsPair, root: bytes) -> SiteCard:
    scenario = load_scenario(ServerFolder(server, plan).scenario, list(plan.run.overrides))
    return SiteCard(
        site=plan.name,
        superlink=plan.superlink,
        tls_authority=authority.certificate_pem,
        root=root,
        task=scenario.scenario.name,
        scenario=json.dumps(to_flat(scenario)).encode(),
        epsilon=plan.budget.epsilon,
        delta=plan.budget.delta,
        min_survivors=plan.budget.min_survivors,
    )


def _write_configuration(server: Path, final: Path, plan: SitePlan) -> None:
    connection = f'[superlink.{plan.name}]\naddress = "{plan.control}"\nroot-certificates = "{final / "ca.crt"}"\n'
    (server / "flower" / "config.toml").write_text(connection)
    program = Path(sys.executable).with_name("fedinfer")
    user = pwd.getpwuid(os.getuid()).pw_name
    started = unit(f"server of {plan.name}", user, f"{program} server up {final}", final)
    (server / "fedinfer-server.service").write_text(started)
    run = final / "run"
    keys = f"--keys {final / 'keys'} --passphrase-file {final / 'keys.pass'}"
    watch = f"{program} server watch {run} {keys} --site {final}"
    (server / "fedinfer-watch.service").write_text(unit(f"orders of {plan.name}", user, watch, final))
    console = f"{program} server console {run} --viewer-token-file {final / VIEWER_TOKEN}"
    (server / "fedinfer-console.service").write_text(unit(f"console of {plan.name}", user, console, final))
    (server / "compose.yaml").write_text(compose(f"{os.getuid()}:{os.getgid()}"))


def _private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with open(path, "xb", opener=only_owner) as file:
        file.write(data)
