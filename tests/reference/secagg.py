"""Secure aggregation written a second time, slowly and plainly, without a line of the product.

Everything a device or the server computes in a session of a complete graph: derivations, Shamir sharing over GF(65537),
boxes, masks, packing, statements. Python integers, `hmac`, `hashlib`; X25519, Ed25519 and AES come from `cryptography`.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PRIME = 65537


def bind(label, *values):
    """4 bytes of length before each part: protocol, label, values."""
    out = b""
    for part in [b"fedinfer/secagg/v2", label.encode(), *values]:
        out += len(part).to_bytes(4, "little") + part
    return out


def sha(label, *values):
    return hashlib.sha256(bind(label, *values)).digest()


def hkdf(secret, label, *values):
    """RFC 5869: extract with 32 zero bytes of salt, one block of expansion."""
    key = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(key, bind(label, *values) + b"\x01", hashlib.sha256).digest()


def party(position, name):
    return position.to_bytes(4, "little") + name.encode()


def exchange(private, public):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def x25519_public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def verify(public, stage, device, context, body, signature):
    """Raises when an answer was not signed by this key for this stage, device and context."""
    message = bind("statement", stage.encode(), device.encode(), context, hashlib.sha256(body).digest())
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)


def ed25519_public(private):
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def keystream(seed, count):
    return Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(count))


def coefficients(seed, count):
    """Uniform field elements from 32-bit words below 2^32 - 1, reduced."""
    stream, found = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor(), []
    while len(found) < count:
        word = int.from_bytes(stream.update(bytes(4)), "little")
        if word != 0xFFFFFFFF:
            found.append(word % PRIME)
    return found


def share(secret, points, threshold, seed):
    """Shares of a secret: one row of 16-bit limbs, each the value of a polynomial, for each point."""
    limbs = [int.from_bytes(secret[at : at + 2], "little") for at in range(0, len(secret), 2)]
    random = coefficients(seed, (threshold - 1) * len(limbs))
    rows = []
    for x in points:
        row = []
        for at, limb in enumerate(limbs):
            value = limb
            for power in range(1, threshold):
                value += random[(power - 1) * len(limbs) + at] * x**power
            row.append(value % PRIME)
        rows.append(row)
    return rows


def pack_share(row):
    """16 limbs: their low 16 bits, then one flag bit for each that is 65536."""
    flags = sum((value >> 16) << at for at, value in enumerate(row))
    return b"".join((value & 0xFFFF).to_bytes(2, "little") for value in row) + flags.to_bytes(2, "little")


def unpack_share(data):
    flags = int.from_bytes(data[32:], "little")
    return [int.from_bytes(data[2 * at : 2 * at + 2], "little") + ((flags >> at & 1) << 16) for at in range(16)]


def combine(rows, points):
    """Lagrange interpolation at zero."""
    secret = b""
    for at in range(len(rows[0])):
        value = 0
        for i, x in enumerate(points):
            weight = 1
            for j, other in enumerate(points):
                if i != j:
                    weight = weight * other * pow(other - x, -1, PRIME) % PRIME
            value += weight * rows[i][at]
        secret += (value % PRIME).to_bytes(2, "little")
    return secret


def open_box(key, data, context):
    return AESGCM(key).decrypt(bytes(12), data, context)


def stream_of(seed, bits, dimension):
    """Mask: words of 16 or 32 bits."""
    width = 2 if bits <= 16 else 4
    data = keystream(seed, width * dimension)
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def unpack_vector(data, bits, dimension):
    """Value c * m + r is in column c of row r; a row of 8 values is 8b bits in b bytes; byte k of all rows together."""
    rows = len(data) // bits
    values = [0] * (8 * rows)
    for r in range(rows):
        word = sum(data[k * rows + r] << (8 * k) for k in range(bits))
        for c in range(8):
            values[c * rows + r] = word >> (c * bits) & ((1 << bits) - 1)
    return values[:dimension]
