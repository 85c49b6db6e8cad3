"""TLS of a site: a certificate authority of its own, and the server's certificate with every name that is used.

The server's own app and the operator reach it as 127.0.0.1, so that is always among the names: Flower fails without a
word of why where it is not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedinfer.errors import ConfigError

OWN_NAMES = ("localhost", "127.0.0.1")
CA_DAYS, SERVER_DAYS = 3650, 365
CLOCK_ERROR = timedelta(days=1)
"""A certificate counts from so long before it was made, because clocks differ."""


@dataclass(frozen=True, slots=True)
class TlsPair:
    """A certificate and its private key.

    Args:
        certificate: of the pair.
        key: EC over P-256.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_bytes(self, encoding: serialization.Encoding) -> bytes:
        """The key as PKCS #8, not encrypted.

        Args:
            encoding: PEM or DER.
        """
        return self.key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def make_tls_authority(site: str, now: datetime) -> TlsPair:
    """A certificate authority for one site.

    Args:
        site: its name.
        now: aware time; it counts for CA_DAYS.
    """
    key, name = ec.generate_private_key(ec.SECP256R1()), _named(f"{site} TLS authority")
    builder = _builder(key, name, name, key, now, now + timedelta(days=CA_DAYS))
    signed = (
        builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(_usage(is_ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return TlsPair(signed, key)


def sign_server(authority: TlsPair, addresses: Sequence[str], now: datetime, days: int = SERVER_DAYS) -> TlsPair:
    """A certificate for a server.

    Args:
        authority: of the site.
        addresses: DNS names and IP addresses; OWN_NAMES are added.
        now: aware time.
        days: until it expires, but not after the authority's certificate.

    Raises:
        ConfigError: a name that no certificate can have.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + timedelta(days=days), authority.certificate.not_valid_after_utc)
    builder = (
        _builder(key, _named(addresses[0]), authority.certificate.subject, authority.key, now, end)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternatives(addresses)), critical=False)
    )
    return TlsPair(builder.sign(authority.key, hashes.SHA256()), key)


def missing_names(certificate: x509.Certificate, addresses: Sequence[str]) -> list[str]:
    """Addresses that a certificate is not for.

    Args:
        certificate: of a server.
        addresses: under which it is reached.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return list(addresses)
    there = {str(name.value) for name in names}
    return [address for address in addresses if address not in there]


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether a certificate is an authority's.

    Args:
        certificate: of a server.
        authority: its certificate.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _alternatives(addresses: Sequence[str]) -> list[x509.GeneralName]:
    return [_alternative(address) for address in dict.fromkeys([*addresses, *OWN_NAMES])]


def _alternative(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        pass
    try:
        return x509.DNSName(address)
    except ValueError as error:
        raise ConfigError(f"{address!r} is neither a DNS name nor an IP address") from error


def _builder(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_ERROR)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
