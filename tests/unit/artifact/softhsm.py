"""A PKCS #11 token in software: Debian's softhsm2. Not a test itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "271828"


def make_tokens(folder: Path, *labels: str) -> dict[str, str]:
    """Initialize tokens below a folder.

    Returns:
        Environment variables with which they are found.
    """
    (folder / "tokens").mkdir(parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    variables = {"SOFTHSM2_CONF": str(configuration), "PYKCS11LIB": LIBRARY}
    for label in labels:
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "314159"]
        subprocess.run(command, env=os.environ | variables, check=True, capture_output=True)
    return variables
