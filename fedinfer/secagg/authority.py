"""The enrolment authority: who signs certificates and revocation lists, and how everybody else checks its signature.

The pinned public key alone says which algorithm counts, never the message: 32 bytes are an Ed25519 key (RFC 8032), 65
bytes an uncompressed point of P-256 for ECDSA with SHA-256 (FIPS 186-5), which is what PKCS #11 tokens can do.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from fedinfer.secagg.keys import verify_signature

POINT_BYTES = 65


class Authority(Protocol):
    """Something that signs as the authority: a key in memory, an encrypted file that was opened, or a token."""

    @property
    def public_bytes(self) -> bytes:
        """The public key that devices pin: 32 or 65 bytes."""

    def sign(self, message: bytes) -> bytes:
        """Sign a message as the authority.

        Args:
            message: any bytes, a label of its purpose first, so that no signature can serve for another purpose.

        Returns:
            64 bytes (Ed25519), or an ECDSA signature in DER, at most 72 bytes.

        Raises:
            ConfigError: the key cannot sign, for instance because its token is not plugged in.
        """


def verify_by_authority(authority: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether the authority signed this message.

    Args:
        authority: its public key, pinned; 32 bytes (Ed25519) or 65 bytes (P-256).
        message: what is said to be signed.
        signature: 64 bytes, or an ECDSA signature in DER.
    """
    if len(authority) != POINT_BYTES:
        return verify_signature(authority, message, signature)
    try:
        key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), authority)
        key.verify(signature, message, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public_key: bytes) -> str:
    """The first 128 bits of the SHA-256 of a public key, for two people who compare it over the telephone.

    Args:
        public_key: 32 bytes (Ed25519) or 65 bytes (P-256).

    Returns:
        Eight groups of four hex digits.
    """
    digest = hashlib.sha256(public_key).hexdigest()
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))
