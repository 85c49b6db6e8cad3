"""Root keys are never where the server is: it takes signed bytes of them, and refuses all that do not fit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from fedinfer.artifact.release.files import list_files, read_file
from fedinfer.artifact.release.metadata import load_state, sign
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.root import RootChange, first_root, next_root, signed_root
from fedinfer.artifact.release.secret import secret_from
from fedinfer.artifact.release.signing import (
    ROOT_METADATA,
    Keys,
    Protection,
    generate_keys,
    holds_root_keys,
    load_keys,
    new_signer,
    save_keys,
)
from fedinfer.errors import BadSignature, ConfigError
from fedinfer.inference.install.tuf_channel import open_channel
from fedinfer.manifest import current_path
from fedinfer.system import FrozenClock, SimulatedEntropy, SystemEntropy
from tests.unit.artifact.key_folders import PASSPHRASE, protection, save_new_keys
from tests.unit.artifact.workshop import START, release

LATER = START + timedelta(days=365)


class Offline:
    """A server with online keys alone, and the root keys somewhere else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.entropy = folder / "site", FrozenClock(START), SimulatedEntropy("offline")
        self.all = generate_keys(self.entropy)
        self.root = signed_root(first_root(self.all, LATER), self.all)
        self.kept: Keys = self.all.online()
        self.repository = Repository(self.folder, self.all.online(), self.clock, self.keep, root=self.root)

    def keep(self, keys: Keys) -> None:
        self.kept = keys

    def next(self, role: str = "", threshold: int = 0) -> tuple[bytes, Keys]:
        """What is signed away from the server, and the key that it names."""
        current, new = self.repository.newest_root(), new_signer(self.entropy)
        change = RootChange(LATER, role, new.public_key if role else None, threshold)
        added = Keys({role: (new,)}) if role else Keys({})
        return signed_root(next_root(current, change), self.all.joined(added), current), added

    def files(self) -> dict[str, bytes | None]:
        return {name: read_file(self.folder, name) for name in list_files(self.folder)}


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    return Offline(tmp_path)


def test_a_server_without_root_keys_begins_publishes_and_renews(offline: Offline) -> None:
    offline.repository.publish(*release(1))
    offline.repository.renew()
    assert offline.repository.trusted_root() == offline.root
    assert "root" not in offline.kept.signers
    state = load_state(lambda name: offline.repository.fetch(f"metadata/{name}"), offline.root)
    assert state.root.roles["root"].threshold == 2
    assert len(state.root.roles["root"].keyids) == 3
    online = [state.root.roles[role].keyids for role in ("targets", "snapshot", "timestamp")]
    assert len({keyid for keyids in [*online, state.root.roles["root"].keyids] for keyid in keyids}) == 6


def test_a_repository_without_root_keys_and_without_root_metadata_is_not_made(tmp_path: Path) -> None:
    online = generate_keys(SimulatedEntropy(1)).online()
    with pytest.raises(ConfigError, match="no key for role 'root'"):
        Repository(tmp_path / "site", online, FrozenClock(START), lambda _: None)


def test_root_metadata_that_names_other_keys_is_refused(tmp_path: Path, offline: Offline) -> None:
    strangers = generate_keys(SimulatedEntropy("strangers")).online()
    with pytest.raises(ConfigError, match="root 1 names a key of targets that is not here"):
        Repository(tmp_path / "other", strangers, FrozenClock(START), lambda _: None, root=offline.root)


def test_a_first_root_under_its_threshold_is_neither_signed_nor_taken(tmp_path: Path, offline: Offline) -> None:
    alone = offline.all.with_role("root", offline.all.of("root")[:1])
    unsigned = first_root(offline.all, LATER)
    with pytest.raises(BadSignature, match="root"):
        signed_root(unsigned, alone)
    bare = sign(unsigned, alone.of("root"))
    with pytest.raises(BadSignature, match="root"):
        Repository(tmp_path / "other", offline.all.online(), FrozenClock(START), lambda _: None, root=bare)


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", "root", ""])
def test_the_next_root_is_signed_elsewhere_and_adopted(offline: Offline, tmp_path: Path, role: str) -> None:
    """A device that trusts the first root follows, whichever key was replaced."""
    offline.repository.publish(*release(1))
    data, added = offline.next(role)
    offline.repository.adopt(data, added.online())
    offline.repository.publish(*release(2))
    assert offline.repository.root_version == 2
    channel = open_channel(offline.root, tmp_path / "device", offline.repository.fetch, START)
    assert channel.offers(current_path(""))
    if role in offline.kept.signers:
        (kept,) = offline.kept.of(role)
        assert kept.public_key.keyid == added.of(role)[0].public_key.keyid, "the old key is gone"
    again = Repository(offline.folder, offline.kept, offline.clock, offline.keep)
    assert again.newest_version == 2


def test_a_root_that_is_not_signed_by_the_current_threshold_changes_nothing(offline: Offline) -> None:
    current, new = offline.repository.newest_root(), new_signer(offline.entropy)
    following = next_root(current, RootChange(LATER, "targets", new.public_key))
    one = offline.all.of("root")[:1]
    before = offline.files()
    with pytest.raises(BadSignature):
        offline.repository.adopt(sign(following, one), Keys({"targets": (new,)}))
    stranger = generate_keys(SimulatedEntropy("stranger"))
    with pytest.raises(BadSignature):
        offline.repository.adopt(sign(following, stranger.of("root")), Keys({"targets": (new,)}))
    assert offline.files() == before


def test_a_root_whose_new_key_is_not_here_changes_nothing(offline: Offline) -> None:
    before = offline.files()
    data, _ = offline.next("timestamp")
    with pytest.raises(ConfigError, match="root 2 names a key of timestamp that is not here"):
        offline.repository.adopt(data, Keys({}))
    assert offline.files() == before


def test_a_root_is_not_adopted_twice_or_out_of_turn(offline: Offline) -> None:
    data, added = offline.next("timestamp")
    offline.repository.adopt(data, added)
    with pytest.raises(BadSignature):
        offline.repository.adopt(data, added)
    with pytest.raises(BadSignature):
        offline.repository.adopt(offline.root, Keys({}))


def test_a_raised_threshold_holds_for_the_root_after_it(offline: Offline) -> None:
    data, _ = offline.next(threshold=3)
    offline.repository.adopt(data, Keys({}))
    two = Keys({"root": offline.all.of("root")[:2]})
    current = offline.repository.newest_root()
    with pytest.raises(BadSignature):
        signed_root(next_root(current, RootChange(LATER)), two, current)
    with pytest.raises(ConfigError, match="4 of 3 root keys cannot sign"):
        next_root(current, RootChange(LATER, threshold=4))


def test_an_expired_root_is_not_followed_until_a_later_one_is_adopted(offline: Offline, tmp_path: Path) -> None:
    offline.repository.publish(*release(1))
    offline.clock.advance(366 * 86_400)
    offline.repository.renew()
    with pytest.raises(BadSignature, match="expired"):
        open_channel(offline.root, tmp_path / "device", offline.repository.fetch, offline.clock.now())
    current = offline.repository.newest_root()
    later = next_root(current, RootChange(LATER + timedelta(days=365)))
    offline.repository.adopt(signed_root(later, offline.all, current), Keys({}))
    assert open_channel(offline.root, tmp_path / "device", offline.repository.fetch, offline.clock.now())


# --- files ---


def test_keys_on_disk_open_with_their_passphrase_alone(tmp_path: Path) -> None:
    keys = save_new_keys(tmp_path)
    files = sorted((tmp_path / "online").glob("*.key")) + sorted((tmp_path / "root").glob("*.key"))
    assert len(files) == 6
    for path in files:
        data = path.read_bytes()
        assert data.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        for signers in keys.signers.values():
            assert all(isinstance(s, CryptoSigner) and s.private_bytes not in data for s in signers)
    with pytest.raises(ConfigError, match="cannot be opened with this passphrase"):
        load_keys(tmp_path / "online", lambda _what: "the wrong passphrase")
    with pytest.raises(ConfigError, match="needs a passphrase or PIN and none was given"):
        load_keys(tmp_path / "online")
    opened = load_keys(tmp_path / "online", lambda _what: PASSPHRASE)
    assert {role: signers[0].public_key.keyid for role, signers in opened.signers.items()} == {
        role: signers[0].public_key.keyid for role, signers in keys.online().signers.items()
    }


def test_an_encrypted_key_is_what_openssl_reads(tmp_path: Path) -> None:
    """PKCS #8 with PBES2: the number of iterations is in the file, and it is not the library's 2,048."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    signer = new_signer(SimulatedEntropy(1))
    save_keys(Keys({"targets": (signer,)}), tmp_path, protection())
    data = (tmp_path / "targets.0.key").read_bytes()
    assert (
        load_pem_private_key(data, PASSPHRASE.encode()).public_key()
        == load_pem_private_key(signer.private_bytes, None).public_key()
    )
    import base64

    der = base64.b64decode("".join(data.decode().splitlines()[1:-1]))
    assert bytes.fromhex("0203") + (600_000).to_bytes(3, "big") in der


def test_a_short_passphrase_protects_nothing_and_is_refused(tmp_path: Path) -> None:
    short = Protection(lambda _what: "short", SystemEntropy())
    with pytest.raises(ConfigError, match="has 5 characters, at least 12"):
        save_keys(generate_keys(SystemEntropy()), tmp_path / "keys", short)
    assert not list((tmp_path / "keys").glob("*.key"))


def test_root_keys_among_the_online_ones_are_noticed_without_opening_them(tmp_path: Path) -> None:
    save_new_keys(tmp_path)
    assert holds_root_keys(tmp_path / "root")
    assert not holds_root_keys(tmp_path / "online")
    assert (tmp_path / "online" / ROOT_METADATA).is_file()
    (tmp_path / "online" / "root.0.token").write_text("{}")
    assert holds_root_keys(tmp_path / "online"), "one on a token counts too"


def test_passphrases_come_from_a_file_the_environment_or_a_question(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("of the file\n")
    file.chmod(0o600)
    environment = {"FEDINFER_ROOT_PASSPHRASE": "of the environment"}
    asked: list[str] = []
    secret = secret_from(
        {"FEDINFER_PASSPHRASE": file}, environment, lambda what: asked.append(what) or f"asked for {what}"
    )
    assert secret("targets.0.key") == "of the file"
    assert secret("root.0.key") == "of the environment", "root keys have one of their own"
    assert secret("PIN of token a") == "asked for PIN of token a"
    assert secret("PIN of token b") == "asked for PIN of token b"
    assert secret("PIN of token a") == "asked for PIN of token a"
    assert asked == ["PIN of token a", "PIN of token b"], "once for each"
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        secret_from({"FEDINFER_PASSPHRASE": file}, {})("targets.0.key")
