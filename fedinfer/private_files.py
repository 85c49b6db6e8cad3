"""Files and folders that only their owner reads, whatever the umask of the process is.

A run folder holds keys, ledgers and, in a simulation, figures that no noise covers; what is published from it (signed
models and their metadata) is copied out of it.
"""

from __future__ import annotations

import os
from pathlib import Path


def private_folder(path: Path) -> None:
    """Make a folder with mode 0700, or give it that mode; folders above it are made as the umask says.

    Args:
        path: of the folder.

    Raises:
        OSError: it cannot be made or changed.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def only_owner(path: str, flags: int) -> int:
    """Open a file and give it mode 0600 when it is new: for `open(..., opener=only_owner)`.

    Args:
        path: of the file.
        flags: of `os.open`, as `open` passes them.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, flags, 0o600)
