"""Where passphrases and PINs come from: a file, the environment, or a question; never an argument of a command.

Everybody on a machine can read its command lines, and a shell keeps them in its history.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from fedinfer.errors import ConfigError

Secret = Callable[[str], str]
"""Asked for a passphrase or PIN by what it opens, for instance "targets.0.key" or "PIN of token root-1"."""

PASSPHRASE, ROOT_PASSPHRASE, PIN = "FEDINFER_PASSPHRASE", "FEDINFER_ROOT_PASSPHRASE", "FEDINFER_PIN"
"""Environment variables, one per kind: root keys have a passphrase of their own, which no server knows."""


def no_secret(what: str) -> str:
    """The answer of a caller that has none.

    Args:
        what: the secret opens, for instance "targets.0.key" or "PIN of token root-1".

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"{what} needs a passphrase or PIN and none was given", hint=f"set {variable_of(what)} or name a file with it"
    )


def variable_of(what: str) -> str:
    """The environment variable for the secret that opens this.

    Args:
        what: the secret opens: a key file's name, or "PIN of token <label>".
    """
    if what.startswith("PIN"):
        return PIN
    return ROOT_PASSPHRASE if what.startswith("root.") else PASSPHRASE


def secret_from(files: Mapping[str, Path | None], environment: Mapping[str, str], ask: Secret = no_secret) -> Secret:
    """A source that reads files first, then the environment, then asks; each kind once.

    Args:
        files: environment variable's name to a file with the secret on its first line, readable by its owner alone;
            None or absent: no file for that kind.
        environment: of this process.
        ask: for what neither of them has.

    Returns:
        The source; it raises ConfigError when a file cannot be used, and whatever `ask` raises.
    """
    known: dict[str, str] = {}

    def secret(what: str) -> str:
        kind = variable_of(what)
        place = what if kind == PIN else kind  # each token may have a PIN of its own
        if place not in known:
            file = files.get(kind)
            known[place] = _first_line(file) if file else environment.get(kind) or ask(what)
        return known[place]

    return secret


def read_private(path: Path) -> bytes:
    """The bytes of a file that its owner alone may read.

    Args:
        path: with mode 0600 or stricter.

    Raises:
        ConfigError: others may read it, or it cannot be read.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(f"{path} has mode {mode:04o}: others can read it", hint=f"chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _first_line(path: Path) -> str:
    lines = read_private(path).decode(errors="replace").splitlines()
    if not lines or not lines[0]:
        raise ConfigError(f"{path} has no passphrase on its first line")
    return lines[0]
