"""`fedinfer artifact keys|root|rotate|adopt`: root keys stay away from the server, which takes what they signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedinfer.cli.files import read_bytes, write_bytes
from fedinfer.cli.output import JsonOption, errors_to_exit, print_document
from fedinfer.cli.secrets import PassphraseFile, RootPassphraseFile, secrets
from fedinfer.errors import ConfigError
from fedinfer.ports import Clock
from fedinfer.system import SystemClock, SystemEntropy

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from fedinfer.artifact import Keys, Repository, Secret

RepositoryFolder = Annotated[Path, typer.Argument(help="folder with metadata/ and targets/")]
KeysFolder = Annotated[Path, typer.Option("--keys", help="folder with the online keys")]
RootKeys = Annotated[Path, typer.Option("--root-keys", help="folder with the root keys; not on a server")]
RoleOption = Annotated[str, typer.Option(help="root, targets, snapshot or timestamp")]
ExpiresDays = Annotated[int, typer.Option(min=1, help="days until the root metadata expires")]


def keys(
    folder: Annotated[Path, typer.Argument(help="folder to make: root/ stays offline, online/ is for the server")],
    root_keys: Annotated[int, typer.Option(min=1, help="number of root keys")] = 3,
    threshold: Annotated[int, typer.Option(min=1, help="how many of them must sign")] = 2,
    expires_days: ExpiresDays = 365,
    root_token: Annotated[
        list[str] | None, typer.Option(help="make a root key on this PKCS #11 token; repeat for each root key")
    ] = None,
    online_token: Annotated[str, typer.Option(help="make the other keys on this PKCS #11 token")] = "",
    passphrase_file: PassphraseFile = None,
    root_passphrase_file: RootPassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Make signing keys, encrypted or on a token, apart for root and server, and sign the first root metadata."""
    with errors_to_exit():
        _check_new(folder)
        if root_token and len(root_token) != root_keys:
            raise ConfigError(f"{len(root_token)} tokens for {root_keys} root keys")
        secret = secrets(passphrase_file, root_passphrase_file, new=True)
        made = _new_keys(root_token or [""] * root_keys, online_token, secret)
        expires = _expiry(SystemClock(), expires_days)
        names = _write_keys(folder, made, threshold, expires, secret)
    print_document(
        {"root": names[0], "online": names[1], "threshold": threshold, "expires": expires.isoformat()}, as_json
    )


def root(
    current: Annotated[Path, typer.Argument(help="newest root metadata, for instance root.json or 3.root.json")],
    root_keys: RootKeys,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the next root metadata and a new key")],
    role: RoleOption = "",
    threshold: Annotated[int, typer.Option(min=0, help="root keys that must sign from now on; 0: as before")] = 0,
    expires_days: ExpiresDays = 365,
    token: Annotated[str, typer.Option(help="make the new key on this PKCS #11 token")] = "",
    passphrase_file: PassphraseFile = None,
    root_passphrase_file: RootPassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the next root metadata offline: a later end, another threshold, or a new key for a role."""
    with errors_to_exit():
        from fedinfer.artifact import Keys, RootChange, load_keys, next_root, signed_root

        secret = secrets(passphrase_file, root_passphrase_file)
        held, before = load_keys(root_keys, secret), read_bytes(current)
        made = _new_key(token, f"{role}.0.key", secret) if role else None
        change = RootChange(_expiry(SystemClock(), expires_days), role, made.public_key if made else None, threshold)
        following = next_root(before, change)
        added = Keys({role: (made,)}) if made else Keys({})
        data = signed_root(following, held.joined(added), before)
        names = _write_root(out, f"{following.version}.root.json", data, added, secret)
    print_document({"folder": str(out), "files": names, "expires": change.expires.isoformat()}, as_json)


def adopt(
    repository: RepositoryFolder,
    signed: Annotated[Path, typer.Argument(help="the next root metadata, as `root` wrote it")],
    keys: KeysFolder,
    new_keys: Annotated[Path | None, typer.Option(help="folder with the key that it names")] = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Take root metadata that was signed offline, and sign with the keys that it names from then on."""
    with errors_to_exit():
        from fedinfer.artifact import Keys, load_keys

        secret = secrets(passphrase_file)
        opened = open_repository(repository, keys, secret)
        added = load_keys(new_keys, secret).online() if new_keys else Keys({})
        opened.adopt(read_bytes(signed), added)
    print_document({"root_version": opened.root_version, "version": opened.newest_version}, as_json)


def rotate(
    repository: RepositoryFolder,
    keys: KeysFolder,
    root_keys: RootKeys,
    role: Annotated[str, typer.Option(help="root, targets, snapshot or timestamp")],
    passphrase_file: PassphraseFile = None,
    root_passphrase_file: RootPassphraseFile = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the oldest key of a role where both folders are at hand; else use `root` and `adopt`."""
    with errors_to_exit():
        opened = open_repository(repository, keys, secrets(passphrase_file, root_passphrase_file), root_keys)
        opened.rotate(role, SystemEntropy())
    print_document({"rotated": role, "root_version": opened.root_version}, as_json)


def open_repository(folder: Path, keys: Path, secret: Secret, root_keys: Path | None = None) -> Repository:
    """The repository with its keys; changed keys go back to the folder each came from.

    Args:
        folder: of the repository.
        keys: folder of the online keys.
        secret: passphrase or token PIN that opens the keys.
        root_keys: folder of the root keys, for metadata that only they may sign; None: they stay offline.

    Raises:
        ConfigError: no keys, or root keys lie among the online keys.
    """
    from fedinfer.artifact import ROOT_METADATA, Protection, Repository, load_keys, save_keys

    refuse_root_keys(keys)
    protection, held = Protection(secret, SystemEntropy()), load_keys(keys, secret)
    if root_keys is not None:
        held = held.joined(load_keys(root_keys, secret))

    def keep(kept: Keys) -> None:
        save_keys(kept.online(), keys, protection)
        if root_keys is not None:
            save_keys(kept.root(), root_keys, protection)

    file = keys / ROOT_METADATA
    return Repository(folder, held, SystemClock(), keep, root=file.read_bytes() if file.is_file() else b"")


def refuse_root_keys(keys: Path) -> None:
    """Refuse a folder of server keys in which root keys lie.

    Args:
        keys: folder that a server reads.

    Raises:
        ConfigError: root keys lie among the keys that a server reads.
    """
    from fedinfer.artifact import holds_root_keys

    if holds_root_keys(keys):
        raise ConfigError(
            f"{keys} holds root keys: whoever reads this folder could name keys of his own",
            hint="move root.*.key to a folder that is kept offline; publishing needs none of them",
        )


def _new_keys(root_tokens: list[str], online_token: str, secret: Secret) -> Keys:
    from fedinfer.artifact import ONLINE, Keys, Role

    roots = tuple(_new_key(label, f"root.{number}.key", secret) for number, label in enumerate(root_tokens))
    online = {str(role): (_new_key(online_token, f"{role}.0.key", secret),) for role in ONLINE}
    return Keys({str(Role.ROOT): roots, **online})


def _new_key(token: str, name: str, secret: Secret) -> Signer:
    from fedinfer.artifact import new_signer, new_token_key

    return new_token_key(token, secret, SystemEntropy()) if token else new_signer(SystemEntropy())


def _write_keys(
    folder: Path, made: Keys, threshold: int, expires: datetime, secret: Secret
) -> tuple[list[str], list[str]]:
    from fedinfer.artifact import ROOT_METADATA, Protection, first_root, save_keys, signed_root

    document = signed_root(first_root(made, expires, threshold), made)
    protection = Protection(secret, SystemEntropy())
    save_keys(made.root(), folder / "root", protection)
    save_keys(made.online(), folder / "online", protection)
    write_bytes(folder / "online" / ROOT_METADATA, document)
    return _names(folder / "root"), _names(folder / "online")


def _write_root(out: Path, name: str, data: bytes, added: Keys, secret: Secret) -> list[str]:
    from fedinfer.artifact import Protection, save_keys

    _check_new(out)
    save_keys(added, out, Protection(secret, SystemEntropy()))
    write_bytes(out / name, data)
    return _names(out)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _check_new(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", hint="keys are never overwritten; choose another folder")


def _expiry(clock: Clock, days: int) -> datetime:
    return (clock.now() + timedelta(days=days)).astimezone(UTC).replace(microsecond=0)
