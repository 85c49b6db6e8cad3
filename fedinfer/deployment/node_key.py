"""The key with which the SuperLink lets a device connect: made on the device, its public half goes with the request.

It says nothing about who the device is; that is the identity key's part. Flower wants an EC key in OpenSSH's formats.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)

from fedinfer.deployment.key_files import create_private, read_file, replace_file
from fedinfer.errors import ConfigError

NODE_KEY, NODE_PUBLIC = "node.key", "node.key.pub"
MOST_LINE_BYTES = 400
"""A P-384 key has 221 bytes without a comment."""


def make_node_key(store: Path) -> bytes:
    """Make the key of a store, if it has none.

    Args:
        store: folder of the device.

    Returns:
        The public line.

    Raises:
        StoreError: a file cannot be written or read.
    """
    if not (store / NODE_PUBLIC).exists():
        key = generate_private_key(SECP384R1())
        (store / NODE_KEY).unlink(missing_ok=True)  # a process ended between the two writes: nobody knows this key
        create_private(store / NODE_KEY, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        replace_file(store / NODE_PUBLIC, public + b"\n")
    return read_file(store / NODE_PUBLIC).strip()


def node_pem(line: bytes) -> bytes:
    """The public key as Flower's control API takes it.

    Args:
        line: "ecdsa-sha2-nistp384 ..." and perhaps a comment, at most MOST_LINE_BYTES.

    Returns:
        PEM.

    Raises:
        ConfigError: it is no such key.
    """
    try:
        key = load_ssh_public_key(line) if len(line) <= MOST_LINE_BYTES else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise ConfigError("the node key is no public EC key over P-384 in OpenSSH's format")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
