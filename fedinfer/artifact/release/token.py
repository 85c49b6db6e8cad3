"""Keys on a PKCS #11 token: made there, used there, never read out. A smart card, a security key or SoftHSM.

The environment variable PYKCS11LIB names the library that speaks to the token, as securesystemslib reads it; a file
of ours names no library, because whoever may write that file could then have code loaded. Tokens sign with ECDSA over
P-256, which PIV cards have and Ed25519 they often have not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib import parse

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, SSlibKey

from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.ports import Entropy

SUFFIX = "token"
LIBRARY = "PYKCS11LIB"
_CURVE = "secp256r1"


def new_token_key(label: str, secret: Callable[[str], str], entropy: Entropy) -> HSMSigner:
    """Have a token make a key pair that stays on it.

    Args:
        label: of the token.
        secret: asked for its PIN.
        entropy: for the number of the key, 31 bits, of which the last is 1.

    Raises:
        MissingExtra: python-pkcs11 is not installed.
        ConfigError: no library is named, no such token, a wrong PIN, or a token that cannot do this.
    """
    pkcs11 = _pkcs11()
    number = int.from_bytes(entropy.take(4), "big") >> 1 | 1  # odd: 0 would be no number of a key
    handler = _pin(label, secret)
    try:
        token = pkcs11.lib(_library()).get_token(token_label=label)
        with token.open(rw=True, user_pin=handler("pin")) as session:
            _make(pkcs11, session, number)
        uri, public = HSMSigner.import_(number, label, handler)
    except (pkcs11.PKCS11Error, ValueError) as error:
        raise ConfigError(f"token {label!r} makes no key: {_said(error)}") from error
    return HSMSigner.from_priv_key_uri(uri, public, handler)


def token_document(signer: HSMSigner) -> bytes:
    """What is kept of a key on a token: where it is and its public half.

    Args:
        signer: of `new_token_key` or `read_token_key`.

    Returns:
        JSON, without any secret.
    """
    key = signer.public_key
    document = {
        "token": signer.token_label,
        "number": signer.hsm_keyid,
        "keyid": key.keyid,
        "public": key.to_dict(),
    }
    return json.dumps(document, indent=1).encode()


def read_token_key(path: Path, secret: Callable[[str], str]) -> HSMSigner:
    """The signer that `token_document` describes; the token is touched when it signs.

    Args:
        path: of the document.
        secret: asked for the token's PIN whenever it signs.

    Raises:
        ConfigError: the file cannot be read or describes no such key.
        MissingExtra: python-pkcs11 is not installed.
    """
    _pkcs11()
    try:
        said = json.loads(path.read_bytes())
        public = SSlibKey.from_dict(said["keyid"], said["public"])
        label, number = str(said["token"]), int(said["number"])
        uri = f"{HSMSigner.SCHEME}:{number}?{parse.urlencode({'label': label})}"
        return HSMSigner.from_priv_key_uri(uri, public, _pin(label, secret))
    except (OSError, ValueError, KeyError, TypeError, UnsupportedLibraryError) as error:
        raise ConfigError(f"{path} describes no key on a token: {error}") from error


def _make(pkcs11: Any, session: Any, number: int) -> None:
    from pkcs11.util import biginteger
    from pkcs11.util.ec import encode_named_curve_parameters

    curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVE)}
    parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
    parameters.generate_keypair(
        mechanism=pkcs11.Mechanism.EC_KEY_PAIR_GEN, store=True, id=biginteger(number), label=f"fedinfer {number}"
    )


def _pin(label: str, secret: Callable[[str], str]) -> Callable[[str], str]:
    return lambda _what: secret(f"PIN of token {label}")


def _library() -> str:
    library = os.environ.get(LIBRARY, "")
    if not library:
        raise ConfigError(f"{LIBRARY} is not set", hint="the path of the token's PKCS #11 library")
    return library


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()


def _pkcs11() -> Any:
    try:
        import pkcs11
    except ImportError as error:
        raise MissingExtra("keys on a token need python-pkcs11", hint="pip install 'fedinfer[hsm]'") from error
    return pkcs11
