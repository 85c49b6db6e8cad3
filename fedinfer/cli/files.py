"""Files that a command names: read whole and written whole, with the error that a person can act on."""

from __future__ import annotations

from pathlib import Path

from fedinfer.errors import ConfigError, StoreError


def read_bytes(path: Path) -> bytes:
    """Read a file that somebody named on the command line.

    Args:
        path: the file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that somebody named, in a folder that is made when it is absent.

    Args:
        path: the file; an existing one is replaced.
        data: nothing secret, because the mode follows the umask.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
