"""The list of operators in a server's run folder: who may give orders. Whoever may write there decides that."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fedinfer.errors import ConfigError, StoreError
from fedinfer.ports import Entropy
from fedinfer.printable import NAME_RULE, is_device_name
from fedinfer.private_files import only_owner
from fedinfer.rollout.requests import Operators
from fedinfer.types import Json

OPERATORS = "operators.json"
KEY_BYTES = 32
ID_BYTES = 16


def read_operators(folder: Path) -> Operators | None:
    """Who may give orders to the server of a run folder.

    Args:
        folder: with `operators.json`.

    Returns:
        None when there is no list: nobody signs here.

    Raises:
        ConfigError: the file is no such list.
    """
    path = folder / OPERATORS
    if not path.exists():
        return None
    try:
        said: Json = json.loads(path.read_bytes())
        keys = {str(name): bytes.fromhex(key) for name, key in dict(said["operators"]).items()}
        operators = Operators(str(said["server"]), keys, int(said["approvers"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no list of operators: {error}", hint="fedinfer rollout admit DIR FILE") from error
    _check(operators)
    return operators


def admit_operator(folder: Path, name: str, key: bytes, approvers: int | None, entropy: Entropy) -> Operators:
    """Put an operator on the list of a server, which is made with the first one. A key is one operator's alone.

    Args:
        folder: of the server's runs.
        name: of the operator.
        key: public, 32 bytes.
        approvers: different operators that `approve` and `resume` need from now on; None: as before, at first 1.
        entropy: for the id of a new list.

    Raises:
        ConfigError: the name belongs to another key or the key to another name, or more approvers are asked for than
            there are operators.
        StoreError: it cannot be written.
    """
    before = read_operators(folder) or Operators(entropy.take(ID_BYTES).hex(), {})
    if before.keys.get(name, key) != key:
        raise ConfigError(f"operator {name!r} has another key", hint=f"dismiss {name} first: fedinfer rollout dismiss")
    for known, theirs in before.keys.items():
        if theirs == key and known != name:
            raise ConfigError(f"this is the key of operator {known!r}", hint="every operator makes a key of their own")
    return _write(folder, Operators(before.server, {**before.keys, name: key}, approvers or before.approvers))


def dismiss_operator(folder: Path, name: str) -> Operators:
    """Take an operator off the list; what they asked for and was not carried out counts no more from now on.

    Args:
        folder: of the server's runs.
        name: of the operator.

    Raises:
        ConfigError: there is no such operator, or too few would be left to approve anything.
        StoreError: it cannot be written.
    """
    before = read_operators(folder)
    if before is None or name not in before.keys:
        raise ConfigError(f"{name!r} is no operator of {folder}")
    left = {known: key for known, key in before.keys.items() if known != name}
    return _write(folder, Operators(before.server, left, before.approvers))


def _check(operators: Operators) -> None:
    for name, key in operators.keys.items():
        if not is_device_name(name) or len(key) != KEY_BYTES:
            raise ConfigError(f"operator {name[:64]!r} with a key of {len(key)} bytes", hint=NAME_RULE)
    if not 1 <= operators.approvers <= max(len(operators.keys), 1):
        raise ConfigError(
            f"{operators.approvers} operators would have to approve, {len(operators.keys)} are listed",
            hint="admit the others first, or ask for fewer with --approvers",
        )


def _write(folder: Path, operators: Operators) -> Operators:
    _check(operators)
    document = {
        "server": operators.server,
        "approvers": operators.approvers,
        "operators": {name: key.hex() for name, key in sorted(operators.keys.items())},
    }
    path = folder / OPERATORS
    part = path.with_name(f"{OPERATORS}.part")
    try:
        with open(part, "w", encoding="ascii", opener=only_owner) as file:
            file.write(json.dumps(document, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="is it the run folder of a server?") from error
    return operators
