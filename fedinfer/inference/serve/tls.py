"""The certificate of a serving device."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from fedinfer.errors import ConfigError


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or later, with this certificate chain.

    Args:
        certificate: PEM file, the server's own certificate first.
        key: PEM file with its private key, not encrypted and not readable for everybody.

    Raises:
        ConfigError: a file cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
        if mode & 0o007:
            raise ConfigError(f"{key} has mode {mode:04o}: everybody may read it", hint=f"chmod 600 {key}")
        # A password, so that an encrypted key is an error and not a question on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"none")
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{certificate}, {key}: {reason}", hint="PEM files that belong together") from error
    return context
