"""Root metadata: which keys may sign what, made and signed where the root keys are, away from every server.

`first_root` begins a chain and `next_root` goes on with it; a server only takes what comes of them (`Repository`).

Source: The Update Framework Specification 1.0, section 6.1 (key management) and 5.3 (how devices follow the chain).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Root, Targets

from fedinfer.artifact.release.metadata import load_root, read_root, sign
from fedinfer.artifact.release.signing import ONLINE, ROOT_THRESHOLD, Keys, Role
from fedinfer.errors import BadSignature, ConfigError


@dataclass(frozen=True, slots=True)
class RootChange:
    """What the next root states differently.

    Args:
        expires: when it expires, whole seconds UTC.
        role: whose oldest key is replaced; empty: none, the root is only signed again.
        key: public key that takes its place; needed when there is a role.
        threshold: how many root keys must sign from now on; 0: as before.
    """

    expires: datetime
    role: str = ""
    key: Key | None = None
    threshold: int = 0


def first_root(keys: Keys, expires: datetime, threshold: int = ROOT_THRESHOLD) -> Root:
    """Root metadata that names these keys.

    Args:
        keys: of all four roles; only their public halves are read.
        expires: when it expires, whole seconds UTC.
        threshold: how many of the root keys must sign, >= 1.

    Raises:
        ConfigError: a role has no key, or there are fewer root keys than must sign.
    """
    root = Root(version=1, expires=expires, consistent_snapshot=True)
    for role in Role:
        for signer in keys.of(role):
            root.add_key(signer.public_key, role)
    _set_threshold(root, threshold)
    return root


def starting_root(given: bytes, keys: Keys, expires: datetime) -> tuple[Root, bytes]:
    """Root metadata that a repository begins with.

    Args:
        given: of a root.json that was signed elsewhere; empty: one is made and signed here.
        keys: of the repository; root keys only where none is given.
        expires: when a new one expires, whole seconds UTC.

    Returns:
        The root and its bytes.

    Raises:
        BadSignature: its own threshold did not sign it, it is not version 1, or it is without consistent snapshots, so
            that a device could see files of two states.
        ConfigError: a key that it names is not at hand, or there is no root key to sign a new one with.
    """
    data = given or signed_root(first_root(keys, expires), keys)
    root = read_root(data)
    if root.version != 1 or not root.consistent_snapshot:
        raise BadSignature(f"root {root.version} does not begin a repository with consistent snapshots")
    named_by(root, keys)
    return root, data


def signed_root(root: Root, keys: Keys, current: bytes = b"") -> bytes:
    """The root signed by all root keys that are at hand.

    Args:
        root: to sign.
        keys: hold root keys, those of the current root too when one of them is replaced.
        current: the root that it follows; empty for a first one.

    Raises:
        BadSignature: they are fewer than the threshold of this root, or of the current one.
        ConfigError: there is no root key.
    """
    data = sign(root, keys.of(Role.ROOT))
    load_root({f"{root.version}.root.json": data}.get, current or data)
    return data


def next_root(current: bytes, change: RootChange) -> Root:
    """The root that follows a current one, not signed yet.

    Args:
        current: root metadata with its signatures.
        change: what is different in the next one.

    Raises:
        BadSignature: the current one is not signed by its own threshold.
        ConfigError: a role without a key to take its place, or a threshold that cannot be reached.
    """
    root = copy.deepcopy(read_root(current))
    root.version += 1
    root.expires = change.expires
    if change.role:
        if change.role not in list(Role) or change.key is None:
            raise ConfigError(f"{change.role!r} is no role of a root", hint=", ".join(Role))
        root.revoke_key(root.roles[change.role].keyids[0], change.role)  # TUF keeps them in the order they were added
        root.add_key(change.key, change.role)
    if change.threshold:
        _set_threshold(root, change.threshold)
    return root


def named_by(root: Root, keys: Keys) -> Keys:
    """Those of the keys that a root names, and those of roles that it does not know.

    Args:
        root: verified root metadata.
        keys: at hand, of top-level and cohort roles.

    Raises:
        ConfigError: a role that the server signs for has fewer keys here than must sign.
    """
    left = dict(keys.signers)
    for role in (r for r in Role if r in left or r in ONLINE):
        left[role] = tuple(s for s in left.get(role, ()) if s.public_key.keyid in root.roles[role].keyids)
        missing = root.roles[role].threshold - len(left[role])
        if role in ONLINE and missing > 0:
            raise ConfigError(f"root {root.version} names a key of {role} that is not here ({missing} missing)")
    return Keys(left)


def delegate(targets: Targets, role: str, paths: str, key: Key) -> None:
    """Give a new role with one key the right to sign some paths, and no others (TUF Specification 1.0, section 4.5).

    Args:
        targets: metadata that delegates; changed in place, not signed.
        role: name of the new role, "cohort-<name>".
        paths: pattern of target paths, for instance "cohort/<name>/*".
        key: public key of the role; its threshold is 1.
    """
    delegations = targets.delegations or Delegations(keys={}, roles={})
    delegated = DelegatedRole(role, [], 1, True, paths=[paths])
    targets.delegations = Delegations(delegations.keys, {**(delegations.roles or {}), role: delegated})
    targets.add_key(key, role)


def _set_threshold(root: Root, threshold: int) -> None:
    count = len(root.roles[Role.ROOT].keyids)
    if not 1 <= threshold <= count:
        raise ConfigError(f"{threshold} of {count} root keys cannot sign")
    root.roles[Role.ROOT].threshold = threshold
