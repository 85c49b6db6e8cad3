"""Reading and signing TUF metadata of one repository: bytes in, verified objects out, or a typed error.

Rules of `load_state`, each with a test of that name:
* the root chain starts at a trusted root; root N+1 is signed by the thresholds of N and of N+1;
* timestamp, snapshot, targets and every cohort role are signed by the threshold of their delegator;
* every file has the version its parent states, and no file is larger than its bound.
Expiry is not judged here: a server must be able to renew what has expired (`expired_roles` tells).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from fedinfer.artifact.release.signing import Role
from fedinfer.errors import BadSignature, ConfigError, FedInferError
from fedinfer.manifest import MAX_METADATA_BYTES

Read = Callable[[str], bytes | None]
"""File name below the metadata folder to its bytes; None when there is no such file."""
_MAX_ROOTS = 1024
_S = TypeVar("_S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Validity:
    """Days until each kind of metadata expires: short for what is signed often, long for what needs offline keys."""

    root: int = 365
    targets: int = 90
    snapshot: int = 7
    timestamp: int = 1

    def until(self, role: Role, now: datetime) -> datetime:
        """When metadata of a role that is signed now expires, in whole seconds UTC."""
        days: int = getattr(self, role)
        return (now + timedelta(days=days)).astimezone(UTC).replace(microsecond=0)


@dataclass(slots=True)
class State:
    """The newest verified metadata of a repository; what the server changes and signs again."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    cohorts: dict[str, Targets] = field(default_factory=dict)


def first_state(root: Root, expiry: Mapping[Role, datetime]) -> State:
    """What a repository without any target begins with."""
    targets = Targets(version=1, expires=expiry[Role.TARGETS])
    snapshot = Snapshot(version=1, expires=expiry[Role.SNAPSHOT], meta={"targets.json": MetaFile(version=1)})
    return State(root, Timestamp(version=1, expires=expiry[Role.TIMESTAMP]), snapshot, targets)


def sign(signed: Root | Timestamp | Snapshot | Targets, signers: Iterable[Signer]) -> bytes:
    """Metadata with the signatures of these keys, as bytes.

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


def load_state(read: Read, trusted_root: bytes) -> State:
    """Verify everything from a trusted root down.

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
    """The newest root that follows from a trusted one."""
    root = read_root(trusted_root)
    for _ in range(_MAX_ROOTS):
        data = read(f"{root.version + 1}.root.json")
        if data is None:
            return root
        document = _parse(data, f"{root.version + 1}.root.json", Root)
        _verify(root, "root", document)
        _verify(document.signed, "root", document)
        root = _of_version(document.signed, root.version + 1)
    raise BadSignature(f"more than {_MAX_ROOTS} root files")


def read_root(data: bytes) -> Root:
    """Root metadata that its own threshold of keys signed.

    Raises:
        BadSignature: it is malformed, too large or not signed so.
    """
    document: Metadata[Root] = _parse(data, "root.json", Root)
    _verify(document.signed, "root", document)
    return document.signed


def expired_roles(state: State, now: datetime) -> tuple[str, ...]:
    """Names of roles whose metadata is expired at a time, in the order a device meets them."""
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
