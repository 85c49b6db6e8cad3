"""Private keys encrypted with a passphrase: PKCS #8 `ENCRYPTED PRIVATE KEY`, as `openssl pkcs8` reads it.

The library that reads these files writes them with 2,048 iterations of PBKDF2, which a graphics card tries some million
times a second. The same format with 600,000 is put together here; the reader takes the number from the file.

Source: RFC 5958 (EncryptedPrivateKeyInfo), RFC 8018 (PBES2, PBKDF2), OWASP Password Storage Cheat Sheet (iterations).
"""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.padding import PKCS7

from fedinfer.ports import Entropy

ITERATIONS = 600_000
_KEY_BYTES, _BLOCK_BYTES = 32, 16
_SEQUENCE, _INTEGER, _OCTETS = 0x30, 0x02, 0x04
_NULL = bytes.fromhex("0500")
# Object identifiers in DER, tag and length included.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d0209")
_AES256_CBC = bytes.fromhex("060960864801650304012a")


def encrypted_pem(private_key: bytes, passphrase: bytes, entropy: Entropy) -> bytes:
    """A private key under a passphrase.

    Args:
        private_key: PKCS #8 PrivateKeyInfo in DER.
        passphrase: what `load_pem_private_key` will be given.
        entropy: for salt and initialization vector, 16 bytes each.

    Returns:
        PEM with the label ENCRYPTED PRIVATE KEY: PBES2 of PBKDF2-HMAC-SHA256 (600,000 iterations) and AES-256-CBC.
    """
    salt, vector = entropy.take(_BLOCK_BYTES), entropy.take(_BLOCK_BYTES)
    secret = PBKDF2HMAC(SHA256(), _KEY_BYTES, salt, ITERATIONS).derive(passphrase)
    padding = PKCS7(8 * _BLOCK_BYTES).padder()
    cipher = Cipher(algorithms.AES(secret), modes.CBC(vector)).encryptor()
    body = cipher.update(padding.update(private_key) + padding.finalize()) + cipher.finalize()
    algorithm = _der(_SEQUENCE, _PBES2, _der(_SEQUENCE, _derivation(salt), _encryption(vector)))
    text = base64.b64encode(_der(_SEQUENCE, algorithm, _der(_OCTETS, body))).decode()
    lines = "\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{lines}\n-----END ENCRYPTED PRIVATE KEY-----\n".encode()


def _derivation(salt: bytes) -> bytes:
    count = _der(_INTEGER, ITERATIONS.to_bytes(3, "big"))
    parameters = _der(_SEQUENCE, _der(_OCTETS, salt), count, _der(_SEQUENCE, _HMAC_SHA256, _NULL))
    return _der(_SEQUENCE, _PBKDF2, parameters)


def _encryption(vector: bytes) -> bytes:
    return _der(_SEQUENCE, _AES256_CBC, _der(_OCTETS, vector))


def _der(tag: int, *parts: bytes) -> bytes:
    """Tag, length in the shortest form (X.690, 8.1.3), content."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
