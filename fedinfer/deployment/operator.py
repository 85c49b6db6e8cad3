"""The folder of an operator: who may order rollouts about. It stays with that person.

operator.0.key   Ed25519 key under a passphrase
operator.json    name and public key, for the server's list
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedinfer.artifact import Keys, Protection, Secret, load_keys, new_signer, save_keys
from fedinfer.deployment.authority import KeyAuthority
from fedinfer.deployment.key_files import replace_file
from fedinfer.deployment.request import check_name
from fedinfer.errors import ConfigError
from fedinfer.types import Json

ROLE, OPERATOR_CARD = "operator", "operator.json"


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator whose key was opened.

    Args:
        name: as on the server's list.
        sign: Ed25519 signature of a message, 64 bytes.
    """

    name: str
    sign: Callable[[bytes], bytes]


def make_operator(folder: Path, name: str, protection: Protection) -> bytes:
    """Make the key of an operator.

    Args:
        folder: to make; stays with the operator.
        name: 1 to 64 printable ASCII characters.
        protection: passphrase under which the key is written, and entropy.

    Returns:
        The public key, 32 bytes.

    Raises:
        ConfigError: the folder is an operator's already, or the name or the passphrase is not allowed.
        StoreError: it cannot be written.
    """
    check_name(name, "operator")
    if (folder / OPERATOR_CARD).exists():
        raise ConfigError(f"{folder} is an operator's already", hint="a key is never overwritten")
    signer = new_signer(protection.entropy)
    save_keys(Keys({ROLE: (signer,)}), folder, protection)
    public = KeyAuthority(signer).public_bytes
    replace_file(folder / OPERATOR_CARD, (json.dumps({"name": name, "public_key": public.hex()}) + "\n").encode())
    return public


def read_operator_card(path: Path) -> tuple[str, bytes]:
    """Name and public key of an operator.

    Args:
        path: of `operator.json`.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        said: Json = json.loads(path.read_bytes())
        return str(said["name"]), bytes.fromhex(said["public_key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no card of an operator: {error}", hint="fedinfer rollout operator DIR") from error


def open_operator(folder: Path, secret: Secret) -> Operator:
    """Open the key of an operator.

    Args:
        folder: from `make_operator`.
        secret: gives the passphrase.

    Raises:
        ConfigError: no operator, or a wrong passphrase.
    """
    name, public = read_operator_card(folder / OPERATOR_CARD)
    key = KeyAuthority(load_keys(folder, secret).of(ROLE)[0])
    if key.public_bytes != public:
        raise ConfigError(f"{folder / OPERATOR_CARD} is not the public half of the operator's key")
    return Operator(name, key.sign)
