"""Boxes: the encrypted pairs of shares that a dealer sends to its holders, and the digests it signs.

Rules:
* The one box from a dealer to a holder has its own AES-256-GCM key, from X25519 of two keys made for this session.
* Key and associated data bind session, key list, dealer and holder. A box of another session, list or pair does not
  open.
* The dealer signs a digest of every share, so that a wrong share can be traced to its holder or to its dealer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedinfer.secagg.derivations import Scope, Secret, box_context, share_digest
from fedinfer.secagg.shamir import SHARE_BYTES

_NONCE = b"\0" * 12
"""Each box has its own key, used once, so the nonce may be constant."""


def share_digests(scope: Scope, dealer: int, rows: Mapping[int, bytes]) -> bytes:
    """Digests of both shares of each holder, which the dealer signs.

    Args:
        scope: session and key list.
        dealer: cohort position of the device that deals.
        rows: 68 bytes by holder's cohort position: share of the self-mask secret, then of the mask key.

    Returns:
        32 bytes per holder, two digests of 16 bytes, in the order of `rows`.
    """
    return b"".join(
        share_digest(scope, dealer, holder, secret, pair[at : at + SHARE_BYTES])
        for holder, pair in rows.items()
        for secret, at in ((Secret.SELF_MASK, 0), (Secret.MASK_KEY, SHARE_BYTES))
    )


def seal_box(key: bytes, scope: Scope, dealer: int, holder: int, pair: bytes) -> bytes:
    """Encrypt one pair of shares with a key that is for this box only (AES-256-GCM, NIST SP 800-38D).

    Args:
        key: 32 bytes from `derivations.box_key`; never used for a second box, because the nonce is constant.
        scope: session and key list.
        dealer: cohort position of the sender.
        holder: cohort position of the receiver.
        pair: 68 bytes, as in `share_digests`.

    Returns:
        84 bytes: the encrypted pair and its tag.
    """
    return AESGCM(key).encrypt(_NONCE, pair, box_context(scope, dealer, holder))


def open_boxes(scope: Scope, holder: int, boxes: Iterable[tuple[int, bytes, bytes]]) -> dict[int, bytes]:
    """Decrypt the boxes that arrived at one holder.

    A box that does not open is left out: that is the dealer's fault and must not end the round for everybody.

    Args:
        scope: session and key list.
        holder: cohort position of the device that opens.
        boxes: (dealer's cohort position, key of the box, box) each; 32 and 84 bytes.

    Returns:
        Pairs of shares, 68 bytes, by dealer.
    """
    opened: dict[int, bytes] = {}
    for dealer, key, box in boxes:
        try:
            opened[dealer] = AESGCM(key).decrypt(_NONCE, box, box_context(scope, dealer, holder))
        except InvalidTag:
            continue
    return opened
