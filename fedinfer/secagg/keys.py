"""Keys and signatures of secure aggregation; the only module here that touches private keys.

Rules:
* What is derived from a secret, and what it binds, is in `derivations`.
* Every signature is over a stage, a device, a context (session, then key list, then sharers) and a digest of what was
  sent. A signature made for one stage, session, key list, set of sharers or device fits no other.
* The long-term identity key signs once per session: the key message, which holds a fresh signing key for the rest.
  Outside of sessions it signs proofs of possession, under another label (`enrolment`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedinfer import wire
from fedinfer.errors import BadMessage, Misbehaviour
from fedinfer.ports import Entropy
from fedinfer.secagg.derivations import Label, bind
from fedinfer.types import DeviceId

KEY_BYTES = 32
SIGNATURE_BYTES = 64
DIGEST_BYTES = 32
_FIELD = (1 << 255) - 19
_ANY_SCALAR = b"\x01" * 32

# Points of small order and their non-canonical encodings: each gives the zero secret (RFC 7748, section 6.1).
_WEAK_POINTS = frozenset(
    bytes.fromhex(text)
    for text in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


KeyAgreement: TypeAlias = Callable[[bytes, list[bytes]], list[bytes]]
"""`agree`, or the method of `PairSecrets`."""


class Stage(StrEnum):
    """The five questions of a session, in order."""

    KEYS = "keys"
    SHARES = "shares"
    MASKED = "masked"
    SURVIVORS = "survivors"
    UNMASK = "unmask"


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """A long-term Ed25519 signing key; its repr shows the public half only.

    Args:
        private_bytes: 32 secret bytes (RFC 8032 seed).
    """

    private_bytes: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.private_bytes) != KEY_BYTES:
            raise BadMessage(f"an identity key has {KEY_BYTES} bytes, got {len(self.private_bytes)}")

    @classmethod
    def generate(cls, entropy: Entropy) -> IdentityKey:
        """Make a key.

        Args:
            entropy: 32 bytes are taken.
        """
        return cls(entropy.take(KEY_BYTES))

    @property
    def public_bytes(self) -> bytes:
        """The 32 public bytes that others pin."""
        return Ed25519PrivateKey.from_private_bytes(self.private_bytes).public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Sign a message (Ed25519, RFC 8032).

        Args:
            message: any bytes, a label of its purpose first.

        Returns:
            64 bytes.
        """
        return Ed25519PrivateKey.from_private_bytes(self.private_bytes).sign(message)

    def __repr__(self) -> str:
        return f"IdentityKey(public={self.public_bytes.hex()[:16]}…)"


@dataclass(frozen=True, slots=True)
class Signed:
    """A body and its signature: the form of every reply.

    Args:
        body: encoded.
        signature: over `statement_bytes` of it, 64 bytes.
    """

    body: bytes
    signature: bytes


@lru_cache(maxsize=4096)
def verify_signature(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature is that of a key over a message (Ed25519, RFC 8032).

    The last answers are kept: in a simulation all devices of a process check the same signatures.

    Args:
        public: 32 bytes; anything else verifies nothing.
        message: what is said to be signed.
        signature: 64 bytes.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def statement_bytes(stage: Stage, device: DeviceId, context: bytes, body: bytes) -> bytes:
    """The bytes that a reply's signature covers.

    Args:
        stage: which question was answered.
        device: who answers.
        context: the session id (keys stage), the hash of the key list (shares) or of the sharers (later), each of which
            binds the one before.
        body: the encoded reply.
    """
    return bind(Label.STATEMENT, stage.encode(), device.encode(), context, hashlib.sha256(body).digest())


def seal(key: IdentityKey, stage: Stage, device: DeviceId, context: bytes, body: Any) -> bytes:
    """Encode `body` (a frozen dataclass) and sign it.

    Args:
        key: identity key (keys stage) or the session's signing key.
        stage: the stage that is answered.
        device: the sender.
        context: session id, key list hash or sharers hash.
        body: the reply.
    """
    data = wire.encode(body)
    return wire.encode(Signed(data, key.sign(statement_bytes(stage, device, context, data))))


def unseal(public: bytes, stage: Stage, device: DeviceId, context: bytes, data: bytes, limit_bytes: int) -> Signed:
    """Check the signature of a reply; its body is decoded by the caller.

    Args:
        public: Ed25519 key that should have signed, 32 bytes.
        stage: which question was answered.
        device: who answers.
        context: session id, key list hash or sharers hash, as in `statement_bytes`.
        data: the reply as it came.
        limit_bytes: longest reply that is read.

    Raises:
        BadMessage: undecodable or longer than `limit_bytes`.
        Misbehaviour: the signature is not that of `public` for this stage, device and context.
    """
    signed = wire.decode(Signed, data, limit_bytes=limit_bytes)
    if not verify_signature(public, statement_bytes(stage, device, context, signed.body), signed.signature):
        raise Misbehaviour(f"{stage}: the signature is not {device}'s for this session")
    return signed


def public_of(private: bytes) -> bytes:
    """X25519 public key of a private key (RFC 7748).

    Args:
        private: 32 uniform bytes.

    Returns:
        32 bytes.
    """
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, publics: list[bytes]) -> list[bytes]:
    """X25519 secrets of one private key with many public keys (RFC 7748, section 6.1).

    Args:
        private: 32 uniform bytes.
        publics: 32 bytes each.

    Returns:
        32 bytes each, in the same order; input of a derivation, never a key by themselves.

    Raises:
        Misbehaviour: a public key is a point of small order.
    """
    own = X25519PrivateKey.from_private_bytes(private)
    try:
        return [own.exchange(X25519PublicKey.from_public_bytes(public)) for public in publics]
    except ValueError as error:
        raise Misbehaviour(f"a key agreement gives no secret: {error}") from error


class PairSecrets:
    """`agree` for devices that live in one process, as in a simulation: one end computes the secret of a pair.

    A secret is found by the two public keys. The one of who asks is computed from its private key; so what the other
    end computed is found only when the key that it was shown is the one of that private key, to the byte, and then both
    ends have the same secret. A key that a dishonest server or device shows instead is computed with, as anywhere.
    """

    def __init__(self) -> None:
        self._waiting: dict[frozenset[bytes], bytes] = {}

    def agree(self, private: bytes, publics: list[bytes]) -> list[bytes]:
        """As the function `agree`; a secret is kept until the other end has asked for it.

        Args:
            private: 32 uniform bytes.
            publics: 32 bytes each.

        Raises:
            Misbehaviour: a public key is a point of small order.
        """
        own = public_of(private)
        pairs = {public: frozenset((own, public)) for public in publics}
        new = [public for public, pair in pairs.items() if pair not in self._waiting]
        made = dict(zip(new, agree(private, new), strict=True))
        found = {public: self._waiting.pop(pair) for public, pair in pairs.items() if public not in made}
        self._waiting |= {pairs[public]: secret for public, secret in made.items()}
        return [(made if public in made else found)[public] for public in publics]


def is_weak(public: bytes) -> bool:
    """Tell whether an X25519 public key has small order, so that everyone knows the secret it gives.

    Args:
        public: 32 bytes; the top bit is ignored, as X25519 ignores it.
    """
    return public[:-1] + bytes([public[-1] & 0x7F]) in _WEAK_POINTS


def decoded_point(public: bytes) -> int:
    """The u-coordinate that X25519 works with: the top bit is ignored, values of 2^255 - 19 and more are reduced.

    Source: RFC 7748, section 5.

    Args:
        public: 32 bytes.

    Returns:
        0..2^255 - 20.
    """
    return (int.from_bytes(public, "little") & ((1 << 255) - 1)) % _FIELD


def cleared_point(public: bytes) -> bytes:
    """A public key as all private keys see it: keys that differ by a point of small order give the same secrets.

    X25519 scalars are multiples of 8 (RFC 7748, section 5), so a point and its sum with a point of order 2, 4 or 8 are
    one key. The exchange with a fixed scalar gives equal bytes for exactly those.

    Args:
        public: 32 bytes.

    Returns:
        32 bytes, equal for keys that cannot be told apart.

    Raises:
        Misbehaviour: the key itself has small order.
    """
    return agree(_ANY_SCALAR, [public])[0]
