"""Certificate and secret with which one device agent and its node find each other; made new at every start.

Other users of the machine reach the loopback interface too: without the secret they get no task, and without the key
of the certificate nobody can stand in for the node.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedinfer.deployment.loopback_files import ADDRESS, Loopback
from fedinfer.ports import Entropy

SECRET_BYTES = 32
LIFETIME = timedelta(days=3650)
CLOCK_ERROR = timedelta(days=1)


def make_loopback(folder: Path, entropy: Entropy, now: datetime) -> Loopback:
    """Make key, certificate and secret.

    Args:
        folder: private and empty.
        entropy: for the secret; the TLS key takes the operating system's generator.
        now: the certificate is valid from a day before.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    loopback, secret = Loopback(folder), entropy.take(SECRET_BYTES)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for path, content in ((loopback.key, pem), (loopback.secret_file, secret)):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    loopback.certificate.write_bytes(_certificate(key, now).public_bytes(serialization.Encoding.PEM))
    return loopback


def _certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedinfer node")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_ERROR)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(usage, critical=True)
    )
    return builder.sign(key, hashes.SHA256())
