"""The files with which one device agent, its node and its worker find each other; they are made by `make_loopback`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Loopback:
    """Files for one node.

    Args:
        folder: private; goes with the agent.
    """

    folder: Path

    @property
    def certificate(self) -> Path:
        """TLS certificate that signed itself, PEM."""
        return self.folder / "runtime.crt"

    @property
    def key(self) -> Path:
        """Its key, PEM."""
        return self.folder / "runtime.key"

    @property
    def secret_file(self) -> Path:
        """The secret, as Flower reads it."""
        return self.folder / "runtime.secret"

    @property
    def secret(self) -> bytes:
        """The secret: random bytes."""
        return self.secret_file.read_bytes()
