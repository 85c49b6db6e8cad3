"""The certificates of a site, judged by OpenSSL: every name works, any other one and any other authority do not."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fedinfer.errors import ConfigError
from fedinfer.site.tls import TlsPair, make_tls_authority, missing_names, sign_server

NOW = datetime.now(UTC)


def shake_hands(folder: Path, authority: TlsPair, server: TlsPair, name: str) -> None:
    """A whole TLS handshake in memory."""
    (folder / "ca.crt").write_bytes(authority.certificate_pem)
    (folder / "server.pem").write_bytes(server.certificate_pem)
    (folder / "server.key").write_bytes(server.key_bytes(Encoding.PEM))
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(folder / "server.pem", folder / "server.key")
    strict = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = strict.wrap_bio(back, there, server_hostname=name)
    answering = own.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (client, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() is not None


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "fl.example.org", "2001:db8::1"])
def test_every_address_and_the_servers_own_names_work(tmp_path: Path, name: str) -> None:
    authority = make_tls_authority("pilot", NOW)
    server = sign_server(authority, ["fl.example.org", "2001:db8::1"], NOW)
    shake_hands(tmp_path, authority, server, name)


def test_another_name_or_another_authority_is_refused(tmp_path: Path) -> None:
    authority = make_tls_authority("pilot", NOW)
    server = sign_server(authority, ["fl.example.org"], NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(tmp_path, authority, server, "other.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, make_tls_authority("pilot", NOW), server, "fl.example.org")


def test_missing_names_are_told_and_no_certificate_outlives_its_authority() -> None:
    authority = make_tls_authority("pilot", NOW)
    server = sign_server(authority, ["fl.example.org"], NOW, days=100_000)
    assert missing_names(server.certificate, ["fl.example.org", "10.0.0.1", "localhost"]) == ["10.0.0.1"]
    assert server.certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc
    assert sign_server(authority, ["a"], NOW).certificate.not_valid_after_utc < NOW + timedelta(days=366)


def test_what_no_certificate_can_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a DNS name nor an IP address"):
        sign_server(make_tls_authority("pilot", NOW), ["b\u00fccher.example"], NOW)
