"""Keys of one deployment on loopback, made in the steps of docs/how-to/keys.md. Not a test itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from fedinfer.artifact.release.signing import Protection, new_signer
from fedinfer.deployment.authority import PUBLIC, REVOCATIONS, approve, make_authority, open_authority
from fedinfer.deployment.store import import_approval, request_enrolment
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.system import SystemEntropy
from tests.unit.artifact.key_folders import PASSPHRASE, save_new_keys


class SiteKeys:
    """Authority and signing keys below one folder.

    Args:
        folder: of the deployment.
    """

    def __init__(self, folder: Path) -> None:
        self._authority, self._signing, self._passphrase = folder / "ca", folder / "signing", folder / "passphrase"
        protection = Protection(lambda _what: PASSPHRASE, SystemEntropy())
        make_authority(self._authority, new_signer(SystemEntropy()), protection, datetime.now(UTC))
        self._key = open_authority(self._authority, lambda _what: PASSPHRASE)
        save_new_keys(self._signing)
        self._passphrase.touch(0o600)
        self._passphrase.write_text(PASSPHRASE + "\n")

    def run_config(self) -> dict[str, str]:
        """What of it a run is told."""
        return {
            "authority": str(self._authority / PUBLIC),
            "revocations": str(self._authority / REVOCATIONS),
            "keys": str(self._signing / "online"),
            "passphrase-file": str(self._passphrase),
        }

    def enrol(self, store: Path, device: str, table: Path, budget: Budget, min_survivors: int) -> None:
        """Request, approve, join."""
        asked = request_enrolment(store, device, table, budget, min_survivors, SystemEntropy(), self._key.public_bytes)
        answer = approve(self._authority, self._key, asked, datetime.now(UTC))
        import_approval(store, answer, datetime.now(UTC))
