"""Certificates end and keys are revoked: neither the server, nor a carrier, nor a clock brings one back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedinfer.config import to_flat
from fedinfer.coordinator.enrolment import Claim, admit
from fedinfer.deployment.node import open_host
from fedinfer.deployment.store import read_authority
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.device.host import Host
from fedinfer.errors import Misbehaviour
from fedinfer.inference.install.freshness import note_refresh
from fedinfer.messages import EnrollReply, JoinRequest, Kind
from fedinfer.ports import Answer, Ask
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.secagg.enrolment import (
    Enrolment,
    Possession,
    Step,
    Validation,
    prove_possession,
    sign_enrolment,
    validation,
)
from fedinfer.secagg.keys import IdentityKey
from fedinfer.secagg.revocation import RevocationList, seconds_of, sign_revocations
from fedinfer.system import FrozenClock, SimulatedEntropy, SystemClock
from fedinfer.wire import encode
from tests.protocol.fleet import (
    CHALLENGE,
    NONCE,
    SCHEMA,
    Fleet,
    enrolled,
    introduce,
    real,
    reopened,
    revocations_of,
    settings,
    work,
)

LARGE = Budget(100.0, 1e-5)
DAY = 86_400
FAR = 1 << 40
DEVICES = 4


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Real devices whose certificates count for a year from now."""
    return real(enrolled(tmp_path / "stores", DEVICES, LARGE), settings())


def authority(fleet: Fleet) -> IdentityKey:
    host = next(iter(fleet.hosts.values()))
    return read_authority(host.folder(min(fleet.hosts)).parent / "authority.key")


def now_of(days: float = 0) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def listed(fleet: Fleet, version: int, *keys: bytes, issued: int = 0, expires: int = FAR) -> bytes:
    return sign_revocations(authority(fleet), RevocationList(version, issued, expires, tuple(sorted(keys))))


def invite(fleet: Fleet, device: str, run_id: str, revocations: bytes, **changes: tuple[bytes, ...]) -> Answer:
    """Ask one device to join a run with this list."""
    members = introduce(fleet.post)
    request = JoinRequest(
        run_id=run_id,
        nonce=NONCE,
        scenario=json.dumps(to_flat(fleet.scenario)),
        schema=json.dumps(SCHEMA.to_json()),
        devices=tuple(member.device for member in members),
        public_keys=tuple(member.public_key for member in members),
        certificates=tuple(member.certificate for member in members),
        revocations=revocations,
        trusted_root=b"root",
    )
    common = encode(replace(request, **changes))
    return fleet.post.responders[device].answer([Ask(device, Kind.JOIN, common)])[0]


def fresh(host: Host) -> Host:
    """The next process of a device, under the clock of this one."""
    again = open_host(host.folder(min(host.members)))
    again.clock = host.clock
    return again


# --- the server ---


def left_out(fleet: Fleet, against: Validation, *extra: EnrollReply) -> tuple[list[str], dict[str, str]]:
    claims = [Claim(node, reply) for node, reply in enumerate([*introduce(fleet.post), *extra])]
    believed, others = admit(claims, against, CHALLENGE)
    return [claim.reply.device for claim in believed], dict(others)


def against_of(fleet: Fleet, revocations: bytes, days: float = 0) -> Validation:
    return validation(authority(fleet).public_bytes, revocations, seconds_of(now_of(days)))


def test_the_server_leaves_out_a_revoked_device_and_nobody_else(fleet: Fleet) -> None:
    revoked = fleet.roster["r01"]
    believed, others = left_out(fleet, against_of(fleet, listed(fleet, 2, revoked)))
    assert believed == ["r00", "r02", "r03"]
    assert "the key of device 'r01' was revoked (revocation list 2)" in others["r01 on node 1"]


def test_a_new_certificate_for_a_revoked_key_is_worth_nothing(fleet: Fleet) -> None:
    """What is revoked is the key: who stole it may have had it certified again."""
    member = fleet.hosts["r01"].members["r01"]
    later = Enrolment("r01", member.identity.public_bytes, 0, FAR)
    fleet.hosts["r01"].members = {"r01": replace(member, certificate=sign_enrolment(authority(fleet), later))}
    believed, _ = left_out(fleet, against_of(fleet, listed(fleet, 2, fleet.roster["r01"])))
    assert "r01" not in believed


def test_the_server_leaves_out_what_has_expired(fleet: Fleet) -> None:
    believed, _ = left_out(fleet, against_of(fleet, listed(fleet, 1), days=364))
    assert len(believed) == DEVICES
    believed, others = left_out(fleet, against_of(fleet, listed(fleet, 1), days=366))
    assert believed == []
    assert all("expired" in reason for reason in others.values())


def test_a_certificate_does_not_count_before_its_time(fleet: Fleet) -> None:
    believed, others = left_out(fleet, against_of(fleet, listed(fleet, 1), days=-1))
    assert believed == []
    assert all("counts in" in reason for reason in others.values())


def test_the_end_of_a_certificate_is_part_of_what_is_signed(fleet: Fleet) -> None:
    """Whoever moves the end by a bit has no signature, although he has the key and proves it for what he shows."""
    reply = introduce(fleet.post)[0]
    identity = fleet.hosts["r00"].members["r00"].identity
    for place in range(len(reply.certificate)):
        changed = bytearray(reply.certificate)
        changed[place] ^= 1
        moved = bytes(changed)
        proof = prove_possession(identity, Possession(Step.ENROLL, CHALLENGE, "r00", moved))
        shown = replace(reply, certificate=moved, proof=proof)
        believed, others = left_out(fleet, against_of(fleet, listed(fleet, 1)), shown)
        assert believed == ["r00", "r01", "r02", "r03"], f"byte {place} is not signed"
        assert "the enrolment authority did not sign" in others["r00 on node 4"]


def test_a_server_without_a_list_or_with_an_old_one_starts_nothing(fleet: Fleet) -> None:
    public, now = authority(fleet).public_bytes, seconds_of(now_of())
    with pytest.raises(Misbehaviour, match="there is no revocation list"):
        validation(public, b"", now)
    with pytest.raises(Misbehaviour, match="revocation list 3 ended 10 s ago"):
        validation(public, listed(fleet, 3, expires=now - 10), now)
    stranger = IdentityKey.generate(SimulatedEntropy("stranger"))
    with pytest.raises(Misbehaviour, match="did not sign the revocation list"):
        validation(public, revocations_of(stranger), now)


# --- the device ---


def test_a_device_refuses_a_roster_with_a_revoked_device(fleet: Fleet) -> None:
    answer = invite(fleet, "r00", "second", listed(fleet, 2, fleet.roster["r02"]))
    assert answer.error == "Misbehaviour"
    assert "the key of device 'r02' was revoked" in answer.detail


def test_a_device_refuses_a_roster_with_an_expired_certificate(fleet: Fleet) -> None:
    key = IdentityKey.generate(SimulatedEntropy("old"))
    yesterday = Enrolment("r09", key.public_bytes, 0, seconds_of(now_of(-1)))
    members = introduce(fleet.post)
    answer = invite(
        fleet,
        "r00",
        "second",
        listed(fleet, 2),
        devices=(*(member.device for member in members), "r09"),
        public_keys=(*(member.public_key for member in members), key.public_bytes),
        certificates=(*(member.certificate for member in members), sign_enrolment(authority(fleet), yesterday)),
    )
    assert answer.error == "Misbehaviour"
    assert "the certificate of device 'r09' expired" in answer.detail


def test_a_server_cannot_leave_the_list_away_forge_it_or_let_it_end(fleet: Fleet) -> None:
    stranger = IdentityKey.generate(SimulatedEntropy("stranger"))
    past = seconds_of(now_of(-1))
    for number, (bad, reason) in enumerate(
        [
            (b"", "there is no revocation list"),
            (b"garbage", "cannot be read"),
            (revocations_of(stranger, version=9), "did not sign the revocation list"),
            (listed(fleet, 9, expires=past), "revocation list 9 ended"),
        ]
    ):
        answer = invite(fleet, "r00", f"run-{number}", bad)
        assert (answer.error, reason in answer.detail) == ("Misbehaviour", True), answer
    assert fleet.hosts["r00"].joined().run_id == "run"


def test_a_server_cannot_show_an_older_list_than_a_device_has_seen(fleet: Fleet) -> None:
    """It would like to have a revoked device back; the device remembers, also in its next process."""
    old, new = listed(fleet, 1), listed(fleet, 2)
    assert not invite(fleet, "r00", "second", new).error
    for run_id in ("third", "fourth"):
        answer = invite(fleet, "r00", run_id, old)
        assert answer.error == "Misbehaviour"
        assert "revocation list 1 is older than 2" in answer.detail
        fleet.post.responders["r00"] = DeviceResponder(reopened(fleet, "r00"))
    twin = listed(fleet, 2, fleet.roster["r03"])
    answer = invite(fleet, "r00", "fifth", twin)
    assert "two revocation lists have the number 2" in answer.detail
    assert not invite(fleet, "r00", "sixth", new).error, "the same list is shown again until there is a newer one"


def test_a_clock_that_is_set_back_does_not_bring_an_expired_certificate_back(fleet: Fleet) -> None:
    """The device was in a run two years from now; its battery is changed and it wakes up today."""
    host = fleet.hosts["r00"]
    host.clock = FrozenClock(now_of(2 * 365))
    renewed = [
        sign_enrolment(authority(fleet), Enrolment(device, key, 0, FAR)) for device, key in sorted(fleet.roster.items())
    ]
    assert not invite(fleet, "r00", "later", listed(fleet, 2), certificates=tuple(renewed)).error
    host.clock = FrozenClock(now_of())
    fleet.post.responders["r00"] = DeviceResponder(fresh(host))
    answer = invite(fleet, "r00", "back", listed(fleet, 2))
    assert answer.error == "Misbehaviour"
    assert "the certificate of device 'r00' expired" in answer.detail


def test_a_clock_that_is_set_back_does_not_let_a_run_go_on(fleet: Fleet) -> None:
    """The device stays in its run, and has believed a list after the end of the certificates."""
    host = fleet.hosts["r00"]
    host.clock = FrozenClock(now_of(366))
    assert "expired" in invite(fleet, "r00", "later", listed(fleet, 2)).detail
    host.clock = FrozenClock(now_of())
    plan = fleet.promise("round-1", work())
    answer = fleet.post.responders["r00"].answer([Ask("r00", Kind.KEYS, encode(plan))])[0]
    assert answer.error == "Misbehaviour"
    assert "a certificate of the roster, or the revocation list, expired" in answer.detail


def test_the_last_refresh_of_the_model_repository_counts_more_than_a_clock_in_the_past(fleet: Fleet) -> None:
    metadata = fleet.hosts["r00"].folder("r00") / "metadata"
    metadata.mkdir(exist_ok=True)
    note_refresh(metadata, now_of(366))
    plan = fleet.promise("round-1", work())
    answer = fleet.post.responders["r00"].answer([Ask("r00", Kind.KEYS, encode(plan))])[0]
    assert answer.error == "Misbehaviour"
    assert "a certificate of the roster, or the revocation list, expired" in answer.detail


def test_the_time_at_which_a_list_was_issued_is_believed_rather_than_a_clock_in_the_past(fleet: Fleet) -> None:
    """A device that has seen nothing yet and has no clock still learns from the signed list how late it is."""
    host = fleet.hosts["r00"]
    host.clock = FrozenClock(now_of(-3650))
    late = seconds_of(now_of(2 * 365))
    answer = invite(fleet, "r00", "second", listed(fleet, 2, issued=late))
    assert "the certificate of device 'r00' expired" in answer.detail
    plan = fleet.promise("round-1", work())
    going_on = fleet.post.responders["r00"].answer([Ask("r00", Kind.KEYS, encode(plan))])[0]
    assert "a certificate of the roster, or the revocation list, expired" in going_on.detail, "nor in its old run"


def test_a_clock_that_runs_ahead_takes_a_device_no_further_than_a_list(fleet: Fleet) -> None:
    """Otherwise one wrong hour would shut it out for good: an ended list is refused and its time is not kept."""
    host, end = fleet.hosts["r00"], seconds_of(now_of(30))
    host.clock = FrozenClock(now_of(20 * 365))
    assert "ended" in invite(fleet, "r00", "ahead", listed(fleet, 2, expires=end)).detail
    host.clock = SystemClock()
    assert not invite(fleet, "r00", "right", listed(fleet, 2, expires=end)).error


def test_a_run_ends_on_a_device_when_a_certificate_of_its_roster_expires(fleet: Fleet) -> None:
    """A device that was let in for a year does not take part for two because a run is never started anew."""
    plan = fleet.promise("round-1", work())
    host = fleet.hosts["r00"]
    host.clock = FrozenClock(now_of(366))
    answer = fleet.post.responders["r00"].answer([Ask("r00", Kind.KEYS, encode(plan))])[0]
    assert answer.error == "Misbehaviour"
    assert "expired" in answer.detail
    assert fleet.ledger("r00") == [], "nothing was spent"


def test_a_run_ends_on_a_device_when_the_revocation_list_ends(fleet: Fleet) -> None:
    """A server that holds newer lists back cannot go on with a run for longer than the one that it showed."""
    end = seconds_of(now_of(30))
    assert not invite(fleet, "r00", "second", listed(fleet, 2, expires=end)).error
    host = fleet.hosts["r00"]
    for days, number in ((29, 1), (31, 2)):
        host.clock = FrozenClock(now_of(days))
        plan = fleet.promise(f"round-{number}", work(), run_id="second")
        answer = fleet.post.responders["r00"].answer([Ask("r00", Kind.KEYS, encode(plan))])[0]
        assert ("the revocation list, expired" in answer.detail) is (days > 30), answer.detail
        assert bool(answer.body) is (days < 30)


def test_the_next_process_does_not_take_up_a_run_with_a_device_that_was_revoked_since(fleet: Fleet) -> None:
    """It learned of the revocation from an invitation to another run, which it refused."""
    assert invite(fleet, "r00", "second", listed(fleet, 2, fleet.roster["r02"])).error
    assert fleet.hosts["r00"].joined().run_id == "run"
    with pytest.raises(Misbehaviour, match="not joined"):
        reopened(fleet, "r00").joined()
