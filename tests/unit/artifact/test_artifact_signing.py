"""Keys are private on disk, reproducible in simulation, and never printed."""

from __future__ import annotations

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from securesystemslib.signer import CryptoSigner

from fedinfer.artifact.release.signing import Keys, generate_keys, load_keys, save_keys
from fedinfer.errors import ConfigError, StoreError
from fedinfer.system import SimulatedEntropy, SystemEntropy


def identities(keys: Keys) -> dict[str, list[str]]:
    return {role: [signer.public_key.keyid for signer in signers] for role, signers in keys.signers.items()}


def test_simulated_entropy_gives_the_same_keys_and_system_entropy_others():
    assert identities(generate_keys(SimulatedEntropy(1))) == identities(generate_keys(SimulatedEntropy(1)))
    assert identities(generate_keys(SystemEntropy())) != identities(generate_keys(SystemEntropy()))
    assert {role: len(ids) for role, ids in identities(generate_keys(SystemEntropy())).items()} == {
        "root": 3, "targets": 1, "snapshot": 1, "timestamp": 1,
    }  # fmt: skip


def test_saved_keys_are_readable_by_the_owner_alone(tmp_path):
    keys = generate_keys(SimulatedEntropy(1))
    save_keys(keys, tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    files = sorted((tmp_path / "keys").iterdir())
    assert [path.name for path in files] == [
        "root.0.key", "root.1.key", "root.2.key", "snapshot.0.key", "targets.0.key", "timestamp.0.key",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert identities(load_keys(tmp_path / "keys")) == identities(keys)


def test_replaced_keys_leave_the_folder(tmp_path):
    keys = generate_keys(SimulatedEntropy(1))
    save_keys(keys.with_role("targets", keys.of("targets") * 2), tmp_path)
    save_keys(keys, tmp_path)
    assert not (tmp_path / "targets.1.key").exists()


def test_keys_that_others_can_read_are_refused(tmp_path):
    save_keys(generate_keys(SimulatedEntropy(1)), tmp_path)
    (tmp_path / "targets.0.key").chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640"):
        load_keys(tmp_path)


def test_folder_without_keys_and_files_that_are_no_keys(tmp_path):
    with pytest.raises(ConfigError, match="holds no keys"):
        load_keys(tmp_path)
    path = tmp_path / "root.0.key"
    path.write_bytes(b"not a key")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no private key"):
        load_keys(tmp_path)
    path.write_bytes(CryptoSigner(generate_private_key(65537, 2048)).private_bytes)
    with pytest.raises(ConfigError, match="expected an Ed25519 key"):
        load_keys(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="keys cannot be written"):
        save_keys(generate_keys(SimulatedEntropy(1)), tmp_path / "file" / "keys")


def test_missing_root_keys_are_explained_when_needed():
    keys = generate_keys(SimulatedEntropy(1))
    offline = Keys({role: signers for role, signers in keys.signers.items() if role != "root"})
    with pytest.raises(ConfigError, match="no key for role 'root'"):
        offline.of("root")


def test_keys_are_not_printed(tmp_path):
    keys = generate_keys(SimulatedEntropy(1))
    assert "CryptoSigner" not in repr(keys)
    assert "PRIVATE" not in repr(keys)
