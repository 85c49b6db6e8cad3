"""Where the enrolment authority lies: a folder of its own, or the offline half of a site beside the server's half."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedinfer.cli.secrets import secrets
from fedinfer.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from fedinfer.artifact import Secret

OFFLINE_SECRET = "root.offline"  # noqa: S105  # a name: one passphrase, of the kind of root keys, opens all that is offline


@dataclass(frozen=True, slots=True)
class AuthorityPlace:
    """An authority, and the server that is told what it signs.

    Args:
        authority: its folder.
        server: folder of the server; None: somebody carries the files.
        secret: opens the key.
    """

    authority: Path
    server: Path | None
    secret: Secret

    def check_listed(self, device: str) -> None:
        """Refuse a device that the site does not list.

        Args:
            device: its name.

        Raises:
            ConfigError: the site lists devices, and this one is not among them.
        """
        if self.server is None:
            return
        from fedinfer.site import PLAN, open_server

        listed = open_server(self.server).plan.devices
        if listed and device not in listed:
            raise ConfigError(
                f"{device!r} is no device of the site: {', '.join(listed)}", hint=f"add it to {self.server / PLAN}"
            )

    def publish(self) -> None:
        """Give the server the newest revocation list and the node keys of who may connect.

        Raises:
            StoreError: they cannot be written.
        """
        if self.server is None:
            return
        from fedinfer.deployment import REVOCATIONS, forget_node, keep_node, nodes_of

        try:
            part = self.server / f"{REVOCATIONS}.part"
            shutil.copyfile(self.authority / REVOCATIONS, part)
            part.replace(self.server / REVOCATIONS)
        except OSError as error:
            raise StoreError(f"{self.server / REVOCATIONS}: {error.strerror}") from error
        approved = nodes_of(self.authority)
        for device in nodes_of(self.server).keys() - approved.keys():
            forget_node(self.server, device)
        for device, line in approved.items():
            keep_node(self.server, device, line)


def authority_place(authority: Path | None, site: Path | None, passphrase: Path | None) -> AuthorityPlace:
    """The place that a command line names.

    Args:
        authority: --authority.
        site: --site.
        passphrase: --passphrase-file.

    Raises:
        ConfigError: both or neither are given, or the folder is no site.
    """
    if (authority is None) == (site is None):
        raise ConfigError("say where the authority is: --site DIR, or --authority DIR, not both")
    if authority is not None:
        return AuthorityPlace(authority, None, secrets(passphrase))
    from fedinfer.site import AUTHORITY, OFFLINE, open_server

    folder = (site or Path()) / OFFLINE / AUTHORITY
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder", hint="is the offline folder at hand?")
    secret = secrets(None, passphrase)
    return AuthorityPlace(folder, open_server(site or Path()).folder, lambda _what: secret(OFFLINE_SECRET))
