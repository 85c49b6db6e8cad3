"""Reading and signing TUF metadata of one repository: bytes in, verified objects out, or a typed error.

Rules of `load_state`, each with a test of that name:
* the root chain starts at a trusted root; root N+1 is signed by the thresholds of N and of N+1;
* timestamp, snapshot, targets and every cohort role are signed by the threshold of their delegator;
* every file has the version its parent states, and no file is larger than its bound.
Expiry is not judged here: a server must be able to renew what has expired (`expired_roles` names it).

Source: The Update Framework Specification 1.0, section 5 (client workflow).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from fedinfer.artifact.release.signing import Keys, Role
from fedinfer.errors import ArtifactRejected, BadSignature, ConfigError, FedInferError
from fedinfer.manifest import MAX_METADATA_BYTES

Read = Callable[[str], bytes | None]
"""File name below the metadata folder to its bytes; None when there is no such file."""
_MAX_ROOTS = 1024  # rotations of a repository's whole life; bounds what a folder full of files can cost
_S = TypeVar("_S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Validity:
    """Days until each kind of metadata expires: short for what is signed often, long for what needs offline keys.

    Args:
        root, targets, snapshot, timestamp: days, > 0, for metadata of that role; cohort roles count as targets.
    """

    root: int = 365
    targets: int = 90
    snapshot: int = 7
    timestamp: int = 1

    def until(self, role: Role, now: datetime) -> datetime:
        """When metadata that is signed now expires.

        Args:
            role: whose metadata.
            now: timezone-aware.

        Returns:
            Whole seconds, UTC, as TUF writes them.
        """
        days: int = getattr(self, role)
        return (now + timedelta(days=days)).astimezone(UTC).replace(microsecond=0)


@dataclass(slots=True)
class State:
    """The newest verified metadata of a repository; what the server changes and signs again.

    Args:
        root, timestamp, snapshot, targets: of the top-level roles.
        cohorts: role name ("cohort-<name>") to the targets of that delegated role.
    """

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    cohorts: dict[str, Targets] = field(default_factory=dict)


def first_state(root: Root, expiry: Mapping[Role, datetime]) -> State:
    """What a repository without any target begins with.

    Args:
        root: that names the keys.
        expiry: when the metadata of each role expires, whole seconds UTC.
    """
    targets = Targets(version=1, expires=expiry[Role.TARGETS])
    snapshot = Snapshot(version=1, expires=expiry[Role.SNAPSHOT], meta={"targets.json": MetaFile(version=1)})
    return State(root, Timestamp(version=1, expires=expiry[Role.TIMESTAMP]), snapshot, targets)


def sign(signed: Root | Timestamp | Snapshot | Targets, signers: Iterable[Signer]) -> bytes:
    """Metadata with the signatures of these keys, as bytes.

    Args:
        signed: what to sign.
        signers: keys in files or on tokens; each adds a signature.

    Raises:
        ConfigError: a key does not sign, for instance because its token is not there or the PIN is wrong.
    """
    document: Metadata[Any] = Metadata(signed)
    for signer in signers:
        try:
            document.sign(signer, append=True)
        except UnsignedMetadataError as error:
            cause = error.__cause__
            if isinstance(cause, FedInferError):
                raise cause from error
            said = f"{type(cause).__name__} {cause}".strip()
            raise ConfigError(f"a key of {signed.type} does not sign: {said}") from error
    return document.to_bytes()


def advance(state: State, roles: Iterable[str], validity: Validity, now: datetime) -> None:
    """Give roles their next versions and a fresh expiry, then the snapshot that names them, then the timestamp.

    Args:
        state: changed in place, not signed.
        roles: "targets" and cohort roles to sign again; snapshot and timestamp always are.
        validity: how long signatures last.
        now: time of signing, timezone-aware.
    """
    for role, signed in _delegates(state, roles):
        if f"{role}.json" in state.snapshot.meta:  # else it is new and begins with version 1
            signed.version += 1
        signed.expires = validity.until(Role.TARGETS, now)
        state.snapshot.meta[f"{role}.json"] = MetaFile(version=signed.version)
    state.snapshot.version += 1
    state.snapshot.expires = validity.until(Role.SNAPSHOT, now)
    state.timestamp.version += 1
    state.timestamp.snapshot_meta = MetaFile(version=state.snapshot.version)
    state.timestamp.expires = validity.until(Role.TIMESTAMP, now)


def sign_files(state: State, roles: Iterable[str], keys: Keys) -> Iterator[tuple[str, bytes]]:
    """Sign the metadata of roles, then the snapshot, then the timestamp, one when it is asked for.

    The order is that of writing: a device starts at the timestamp, so what it names must be there before.

    Args:
        state: of `advance`.
        roles: the roles given to `advance`.
        keys: that sign.

    Yields:
        File name below the metadata folder, and its bytes.

    Raises:
        ArtifactRejected: when one is larger than MAX_METADATA_BYTES, which no device would read.
        ConfigError: when a role has no key, or its key does not sign.
    """
    files: list[tuple[str, str, Targets | Snapshot | Timestamp]] = [
        (role, f"{signed.version}.{role}.json", signed) for role, signed in _delegates(state, roles)
    ]
    files.append((Role.SNAPSHOT, f"{state.snapshot.version}.snapshot.json", state.snapshot))
    files.append((Role.TIMESTAMP, "timestamp.json", state.timestamp))
    for role, name, signed in files:
        data = sign(signed, keys.of(role))
        if len(data) > MAX_METADATA_BYTES:
            raise ArtifactRejected(f"{name} has {len(data)} bytes, at most {MAX_METADATA_BYTES}", hint="prune")
        yield name, data


def _delegates(state: State, roles: Iterable[str]) -> list[tuple[str, Targets]]:
    """The roles with targets; snapshot and timestamp may be among `roles` and are left out."""
    named = (role for role in roles if role not in (Role.SNAPSHOT, Role.TIMESTAMP))
    return [(role, state.targets if role == Role.TARGETS else state.cohorts[role]) for role in named]


def load_state(read: Read, trusted_root: bytes) -> State:
    """Verify everything from a trusted root down.

    Args:
        read: gives the files of the metadata folder; their content is untrusted.
        trusted_root: root metadata that the chain starts from.

    Raises:
        BadSignature: tampered, truncated, oversized, wrongly signed, under the threshold, or of another version.
    """
    root = load_root(read, trusted_root)
    timestamp = _signed_by(root, "timestamp", read("timestamp.json"), Timestamp)
    version = timestamp.snapshot_meta.version
    snapshot = _of_version(_signed_by(root, "snapshot", read(f"{version}.snapshot.json"), Snapshot), version)
    targets = _targets(root, "targets", snapshot, read)
    state = State(root, timestamp, snapshot, targets)
    for role in sorted(targets.delegations.roles or {}) if targets.delegations else ():
        state.cohorts[role] = _targets(targets, role, snapshot, read)
    return state


def load_root(read: Read, trusted_root: bytes) -> Root:
    """The newest root that follows from a trusted one.

    Args:
        read: gives "2.root.json" and so on; None ends the chain.
        trusted_root: root metadata that the chain starts from.

    Raises:
        BadSignature: when a root is malformed, of another version or not signed by the thresholds of both, or there are
            more than 1024.
    """
    root = read_root(trusted_root)
    for _ in range(_MAX_ROOTS):
        data = read(f"{root.version + 1}.root.json")
        if data is None:
            return root
        document = _parse(data, f"{root.version + 1}.root.json", Root)
        _verify(root, "root", document)  # by the old keys: nobody else may name new ones
        _verify(document.signed, "root", document)  # by the new keys: else it could name keys that nobody holds
        root = _of_version(document.signed, root.version + 1)
    raise BadSignature(f"more than {_MAX_ROOTS} root files")


def read_root(data: bytes) -> Root:
    """Root metadata that its own threshold of keys signed.

    Args:
        data: of a root.json.

    Raises:
        BadSignature: it is malformed, too large or not signed so.
    """
    document: Metadata[Root] = _parse(data, "root.json", Root)
    _verify(document.signed, "root", document)
    return document.signed


def expired_roles(state: State, now: datetime) -> tuple[str, ...]:
    """Names of roles whose metadata is expired at a time, in the order a device meets them.

    Args:
        state: verified metadata.
        now: timezone-aware.
    """
    roles = {"root": state.root, "timestamp": state.timestamp, "snapshot": state.snapshot, "targets": state.targets}
    return tuple(role for role, signed in (roles | state.cohorts).items() if signed.is_expired(now))


def _targets(delegator: Root | Targets, role: str, snapshot: Snapshot, read: Read) -> Targets:
    meta = snapshot.meta.get(f"{role}.json")
    if meta is None:
        raise BadSignature(f"the snapshot does not name {role}.json")
    return _of_version(_signed_by(delegator, role, read(f"{meta.version}.{role}.json"), Targets), meta.version)


def _signed_by(delegator: Root | Targets, role: str, data: bytes | None, kind: type[_S]) -> _S:
    document = _parse(data, f"{role}.json", kind)
    _verify(delegator, role, document)
    return document.signed


def _verify(delegator: Root | Targets, role: str, document: Metadata[_S]) -> None:
    try:
        delegator.verify_delegate(role, document.signed_bytes, document.signatures)
    except (RepositoryError, ValueError) as error:
        raise BadSignature(f"{role}: {error}") from error


def _parse(data: bytes | None, name: str, kind: type[_S]) -> Metadata[_S]:
    if data is None:
        raise BadSignature(f"{name} is missing")
    if len(data) > MAX_METADATA_BYTES:
        raise BadSignature(f"{name} has {len(data)} bytes, at most {MAX_METADATA_BYTES}")
    try:
        document: Metadata[_S] = Metadata.from_bytes(data)
    except (DeserializationError, RepositoryError, RecursionError) as error:
        raise BadSignature(f"{name} cannot be read: {error.__cause__ or error}") from error
    if type(document.signed) is not kind:
        raise BadSignature(f"{name} holds {document.signed.type} metadata")
    return document


def _of_version(signed: _S, version: int) -> _S:
    if signed.version != version:
        raise BadSignature(f"{signed.type}.json says version {signed.version}, its parent says {version}")
    return signed
