"""The card of a site: what a device must know of a site to connect, signed by the enrolment authority. Nothing secret.

It travels inside every approval, so an address or a certificate authority is typed once, at the server; and it may be
handed out before, so that a request starts from what the site proposes. A device believes it only when the authority
that it pins has signed it: whoever replaces a file on its way cannot lead a device to another server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedinfer.deployment.key_files import replace_file
from fedinfer.deployment.pinned import SHIPPED, knows_root
from fedinfer.errors import BadMessage, ConfigError, Misbehaviour
from fedinfer.printable import is_device_name
from fedinfer.secagg import Authority, verify_by_authority
from fedinfer.wire import decode, encode

CARD, TLS_AUTHORITY = "card", "ca.crt"
"""Names of its file in the folder of an authority, a server and a device, and of the certificate in it."""
MOST_CARD_BYTES = 1 << 20
"""A scenario may name many columns and categories."""
_LABEL = b"fedinfer/site card/v1\0"


@dataclass(frozen=True, slots=True)
class SiteCard:
    """What a site says of itself.

    Args:
        site: its name, 1 to 64 printable ASCII characters.
        superlink: HOST:PORT of the fleet API, as devices reach it.
        tls_authority: PEM certificate that signed the server's.
        root: TUF root metadata that names the keys which sign models.
        task: name of the scenario.
        scenario: its flat form as JSON, to check a table against before anything runs.
        epsilon, delta: budget over all runs that the site proposes; the owner of a device decides.
        min_survivors: minimum aggregation size that the site proposes, in devices.
    """

    site: str
    superlink: str
    tls_authority: bytes
    root: bytes
    task: str
    scenario: bytes
    epsilon: float
    delta: float
    min_survivors: int


@dataclass(frozen=True, slots=True)
class SignedCard:
    """A card and who vouches for it.

    Args:
        card: the card.
        authority: public key, 32 or 65 bytes; a device compares it with the one that it pins.
        signature: of that key.
    """

    card: SiteCard
    authority: bytes
    signature: bytes


def sign_card(card: SiteCard, authority: Authority) -> bytes:
    """The bytes of a signed card.

    Args:
        card: the card.
        authority: of the site.

    Raises:
        ConfigError: the name of the site cannot be shown, or the key cannot sign.
    """
    if not is_device_name(card.site):
        raise ConfigError(f"a site has a name of 1 to 64 printable ASCII characters, not {card.site[:80]!r}")
    return encode(SignedCard(card, authority.public_bytes, authority.sign(_LABEL + encode(card))))


def read_card(data: bytes, authority: bytes = b"") -> SignedCard:
    """Read a card.

    Args:
        data: what `sign_card` wrote, at most MOST_CARD_BYTES.
        authority: public key that must have signed it; empty: the one that it names, which its reader compares.

    Raises:
        ConfigError: malformed.
        Misbehaviour: signed by somebody else.
    """
    try:
        signed = decode(SignedCard, data, limit_bytes=MOST_CARD_BYTES)
    except BadMessage as error:
        raise ConfigError(f"this is no card of a site: {error}") from error
    if authority not in (b"", signed.authority):
        raise Misbehaviour("the card of the site is of another authority than this device's")
    if not verify_by_authority(signed.authority, _LABEL + encode(signed.card), signed.signature):
        raise Misbehaviour("the card of the site is not signed by the authority that it names")
    return signed


def card_of(folder: Path) -> bytes:
    """The card that lies in a folder; empty where none does.

    Args:
        folder: of an authority, a site's server, or a device.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return (folder / CARD).read_bytes() if (folder / CARD).exists() else b""
    except OSError as error:
        raise ConfigError(f"{folder / CARD}: {error.strerror}") from error


def take_card(store: Path, authority: bytes, data: bytes) -> None:
    """Keep the card of the site in the store of a device; its root counts if the device knew none.

    Args:
        store: folder of the device.
        authority: public key that the device pins.
        data: the card.

    Raises:
        ConfigError: malformed.
        Misbehaviour: signed by somebody else.
        StoreError: it cannot be written.
    """
    card = read_card(data, authority).card
    if not knows_root(store):
        replace_file(store / SHIPPED, card.root)
    replace_file(store / TLS_AUTHORITY, card.tls_authority)
    replace_file(store / CARD, data)
