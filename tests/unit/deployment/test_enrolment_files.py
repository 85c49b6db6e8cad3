"""The device makes its key, the authority signs it, one file goes each way; renewal keeps the store and its ledger."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from securesystemslib.signer import CryptoSigner

from fedinfer.artifact.release.signing import Protection, new_signer
from fedinfer.deployment.authority import (
    CERTIFICATE_DAYS,
    ISSUED,
    PUBLIC,
    REVOCATIONS,
    approve,
    make_authority,
    open_authority,
    public_bytes,
    revoke,
)
from fedinfer.deployment.node import open_host
from fedinfer.deployment.node_key import make_node_key
from fedinfer.deployment.request import EnrolmentApproval, Request, SignedRequest, read_approval, read_request
from fedinfer.deployment.store import (
    FOLLOWING,
    IDENTITY,
    import_approval,
    open_device,
    request_again,
    request_enrolment,
    request_new_key,
)
from fedinfer.errors import ConfigError, Misbehaviour, StoreError
from fedinfer.privacy.accounting.events import GaussianEvent
from fedinfer.privacy.accounting.ledger import ANY_TASK, Budget, Protected
from fedinfer.secagg.enrolment import read_certificate
from fedinfer.secagg.keys import IdentityKey
from fedinfer.secagg.revocation import read_revocations
from fedinfer.system import SimulatedEntropy, SystemEntropy
from fedinfer.types import Relation, Unit
from fedinfer.wire import decode, encode

NOW = datetime(2030, 5, 1, tzinfo=UTC)
BUDGET = Budget(2.0, 1e-5)
PASSPHRASE = "correct horse battery"


class Site:
    """An authority and the folder of one device."""

    def __init__(self, folder: Path, seed: str = "ca") -> None:
        self.folder, self.store = folder / "ca", folder / "store"
        protection = Protection(lambda _what: PASSPHRASE, SystemEntropy())
        make_authority(self.folder, new_signer(SimulatedEntropy(seed)), protection, NOW)
        self.key = open_authority(self.folder, lambda _what: PASSPHRASE)
        self.table = folder / "rows.csv"
        self.table.write_text("a\n1\n")

    def request(self, name: str = "d", store: Path | None = None) -> bytes:
        return request_enrolment(store or self.store, name, self.table, BUDGET, 3, SystemEntropy())

    def approve(self, request: bytes, now: datetime = NOW, days: int = CERTIFICATE_DAYS) -> bytes:
        return approve(self.folder, self.key, request, now, days)

    def enrol(self) -> None:
        import_approval(self.store, self.approve(self.request()), NOW)

    def revoked(self) -> tuple[bytes, ...]:
        return read_revocations(self.key.public_bytes, (self.folder / REVOCATIONS).read_bytes()).keys


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_no_secret_travels(site: Site) -> None:
    """Neither file holds the device's key or the authority's; both keys stay on their own side, with mode 0600."""
    asked = site.request()
    answer = site.approve(asked)
    import_approval(site.store, answer, NOW)
    private = (site.store / IDENTITY).read_bytes()
    assert private not in asked + answer
    assert stat.S_IMODE((site.store / IDENTITY).stat().st_mode) == 0o600
    key_file = site.folder / "authority.0.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key_file.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(ConfigError, match="cannot be opened with this passphrase"):
        open_authority(site.folder, lambda _what: "not the passphrase")
    device = open_device(site.store)
    assert (device.device, device.budget, device.floors.min_survivors) == ("d", BUDGET, 3)
    assert open_host(site.store).authority == site.key.public_bytes


def test_a_store_without_an_approval_is_no_device_yet(site: Site) -> None:
    site.request()
    with pytest.raises((ConfigError, StoreError), match="certificate"):
        open_device(site.store)


def test_a_request_whose_key_was_replaced_on_its_way_is_refused(site: Site) -> None:
    signed = decode(SignedRequest, site.request())
    thief = IdentityKey.generate(SimulatedEntropy("thief"))
    forged = SignedRequest(replace(signed.body, public_key=thief.public_bytes), signed.proof, b"")
    with pytest.raises(Misbehaviour, match="not signed with the key that it names"):
        site.approve(encode(forged))
    renamed = SignedRequest(replace(signed.body, device="e"), signed.proof, b"")
    with pytest.raises(Misbehaviour, match="not signed with the key that it names"):
        site.approve(encode(renamed))
    for garbage in (b"", b"garbage", encode(signed)[:-1]):
        with pytest.raises(ConfigError, match="no request"):
            site.approve(garbage)


@pytest.mark.parametrize("name", ["", "Hôpital", "x" * 65, "a\nb", "a\x1b[2J"])
def test_a_name_with_which_every_round_would_fail_is_refused_at_the_request(site: Site, name: str) -> None:
    with pytest.raises(ConfigError, match=r"of \d+ characters"):
        site.request(name)
    assert not (site.store / IDENTITY).exists()


def test_a_name_is_given_once(site: Site, tmp_path: Path) -> None:
    """A stranger asks for the name of a hospital."""
    site.enrol()
    stranger = site.request("d", tmp_path / "stranger")
    with pytest.raises(ConfigError, match="device 'd' has a key already"):
        site.approve(stranger)
    revoke(site.folder, site.key, ["d"], NOW, 30)
    import_approval(tmp_path / "stranger", site.approve(stranger), NOW)


def test_a_lost_request_or_answer_is_asked_for_again_with_the_same_key(site: Site) -> None:
    asked = site.request()
    assert read_request(request_again(site.store)) == read_request(asked)
    site.approve(asked)  # this answer is lost
    import_approval(site.store, site.approve(request_again(site.store)), NOW)
    site.approve(request_new_key(site.store, SystemEntropy()))  # and this one, while it has revoked the old key
    following = (site.store / FOLLOWING).read_bytes()
    import_approval(site.store, site.approve(request_new_key(site.store, SystemEntropy())), NOW)
    assert open_device(site.store).identity.private_bytes == following
    assert len(site.revoked()) == 1


def spend(store: Path) -> float:
    """Epsilon that the device's ledger says after a round."""
    ledger = open_host(store).ledger
    for task in (ANY_TASK, "run"):
        ledger.open_accounts(["d"], task, BUDGET, Protected(Unit.EXAMPLE, Relation.ZERO_OUT))
    assert ledger.reserve(["d"], "run", "round-1", [GaussianEvent(10.0)], "round", NOW) == {"d": None}
    return ledger.spent_at("d", ANY_TASK, 1e-5, Relation.ADD_REMOVE).epsilon


@pytest.mark.parametrize("new_key", [False, True])
def test_a_renewal_keeps_store_and_ledger(site: Site, new_key: bool) -> None:
    """Enrolling anew would make an empty ledger, and the same rows could be spent twice."""
    site.enrol()
    spent = spend(site.store)
    before, ledger = open_device(site.store), (site.store / "device.sqlite").stat().st_ino
    later = NOW + timedelta(days=300)
    asked = request_new_key(site.store, SystemEntropy()) if new_key else request_again(site.store)
    answer = site.approve(asked, later)
    enrolment = import_approval(site.store, answer, later)
    after = open_device(site.store)
    assert enrolment.not_after == int((later + timedelta(days=365)).timestamp())
    assert (after.device, after.budget, after.authority) == (before.device, before.budget, before.authority)
    assert (site.store / "device.sqlite").stat().st_ino == ledger
    assert open_host(site.store).ledger.spent_at("d", ANY_TASK, 1e-5, Relation.ADD_REMOVE).epsilon == spent > 0
    assert (after.identity.public_bytes != before.identity.public_bytes) is new_key
    assert not (site.store / FOLLOWING).exists()
    assert site.revoked() == ((before.identity.public_bytes,) if new_key else ())


def test_a_new_key_is_not_given_to_somebody_without_the_old_one(site: Site) -> None:
    """A certificate is public, so a thief may ask for a renewal of it; what he lacks is the key."""
    site.enrol()
    certificate = open_device(site.store).certificate
    thief = IdentityKey.generate(SimulatedEntropy("thief"))
    body = Request("d", thief.public_bytes, certificate, make_node_key(site.store))
    proof = thief.sign(b"fedinfer/request/v2\0" + encode(body))
    for former in (b"", proof):
        with pytest.raises(Misbehaviour, match="not signed with its former key"):
            site.approve(encode(SignedRequest(body, proof, former)))
    assert site.revoked() == ()


def test_a_revoked_key_renews_nothing(site: Site) -> None:
    """Whoever stole it would otherwise get a fresh one for it."""
    site.enrol()
    revoke(site.folder, site.key, ["d"], NOW, 30)
    for asked in (request_again(site.store), request_new_key(site.store, SystemEntropy())):
        with pytest.raises(ConfigError, match="was revoked"):
            site.approve(asked)


@pytest.mark.parametrize("finished", ["certificate", "key"])
def test_a_process_that_ends_between_certificate_and_key_leaves_a_whole_store(site: Site, finished: str) -> None:
    site.enrol()
    old, certificate = (site.store / IDENTITY).read_bytes(), (site.store / "certificate").read_bytes()
    answer = site.approve(request_new_key(site.store, SystemEntropy()))
    following = (site.store / FOLLOWING).read_bytes()
    if finished == "certificate":
        (site.store / "certificate").write_bytes(read_approval(answer).certificate)
        assert open_device(site.store).identity.private_bytes == following
    else:
        assert open_device(site.store).identity.private_bytes == old
        assert (site.store / "certificate").read_bytes() == certificate
        import_approval(site.store, answer, NOW)
        assert open_device(site.store).identity.private_bytes == following


def test_an_approval_of_another_authority_name_or_key_is_refused(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other", "other")
    asked = site.request()
    with pytest.raises(Misbehaviour, match="another authority"):
        import_approval(site.store, other.approve(asked), NOW, site.key.public_bytes)
    with pytest.raises(Misbehaviour, match="certifies another key"):
        import_approval(site.store, site.approve(site.request("e", tmp_path / "e")), NOW)
    import_approval(site.store, site.approve(asked), NOW)
    with pytest.raises(Misbehaviour, match="another authority"):
        import_approval(site.store, other.approve(asked), NOW)
    with pytest.raises(ConfigError, match="no approval"):
        import_approval(site.store, b"garbage", NOW)


def test_an_authority_that_is_pinned_at_the_request_is_not_replaced_by_what_comes(site: Site, tmp_path: Path) -> None:
    asked = request_enrolment(
        site.store, "d", site.table, BUDGET, 3, SystemEntropy(), (site.folder / PUBLIC).read_bytes()
    )
    other = Site(tmp_path / "other", "other")
    with pytest.raises(Misbehaviour, match="another authority"):
        import_approval(site.store, other.approve(asked), NOW)
    import_approval(site.store, site.approve(asked), NOW)


def test_an_approval_is_checked_against_time_and_list_when_it_is_taken(site: Site) -> None:
    asked = site.request()
    answer = site.approve(asked, days=10)
    with pytest.raises(Misbehaviour, match=r"certificate of device 'd' expired"):
        import_approval(site.store, answer, NOW + timedelta(days=11))
    fresh = revoke(site.folder, site.key, ["d"], NOW, 30)
    assert fresh.version == 2
    said = read_approval(answer)
    mixed = encode(EnrolmentApproval(said.certificate, said.authority, (site.folder / REVOCATIONS).read_bytes(), b""))
    with pytest.raises(Misbehaviour, match="was revoked"):
        import_approval(site.store, mixed, NOW)
    with pytest.raises(Misbehaviour, match="revocation list 1 is older than 2"):
        import_approval(site.store, answer, NOW)


def test_a_list_grows_by_number_and_ends(site: Site) -> None:
    site.enrol()
    first = revoke(site.folder, site.key, [], NOW, 30)
    second = revoke(site.folder, site.key, ["d"], NOW + timedelta(days=20), 30)
    third = revoke(site.folder, site.key, [], NOW + timedelta(days=40), 10)
    assert [listed.version for listed in (first, second, third)] == [2, 3, 4]
    assert (first.keys, second.keys) == ((), third.keys)
    assert third.keys == (open_device(site.store).identity.public_bytes,)
    assert third.expires - third.issued == 10 * 86_400
    with pytest.raises(ConfigError, match="no key of 'nobody' was ever certified"):
        revoke(site.folder, site.key, ["nobody"], NOW, 30)


def test_the_register_says_who_has_a_key_until_when(site: Site) -> None:
    site.enrol()
    said = json.loads((site.folder / ISSUED).read_text())
    enrolment = read_certificate(site.key.public_bytes, open_device(site.store).certificate)
    assert said == {"d": [{"public_key": enrolment.public_key.hex(), "not_after": enrolment.not_after}]}


def test_a_store_of_before_certificates_had_an_end_is_renewed_with_its_ledger(site: Site) -> None:
    """Its certificate is 64 bytes of the same authority; its key and its ledger are worth keeping."""
    site.enrol()
    spent = spend(site.store)
    (site.store / "certificate").write_bytes(bytes(64))
    (site.folder / ISSUED).write_text("{}")
    with pytest.raises(Misbehaviour, match="did not sign"):
        open_device(site.store)
    import_approval(site.store, site.approve(request_again(site.store)), NOW)
    ledger = open_host(site.store).ledger
    assert ledger.spent_at("d", ANY_TASK, 1e-5, Relation.ADD_REMOVE).epsilon == spent > 0


def test_an_authority_is_made_once_and_its_halves_belong_together(site: Site) -> None:
    protection = Protection(lambda _what: PASSPHRASE, SystemEntropy())
    with pytest.raises(ConfigError, match="is an authority already"):
        make_authority(site.folder, new_signer(SystemEntropy()), protection, NOW)
    (site.folder / PUBLIC).write_bytes(bytes(32))
    with pytest.raises(ConfigError, match="not the public half"):
        open_authority(site.folder, lambda _what: PASSPHRASE)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["P-384", "RSA"]
)
def test_an_authority_signs_with_nothing_else_than_its_devices_read(key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(ConfigError, match=r"with Ed25519 or P-256"):
        public_bytes(CryptoSigner(key))
