"""Boxes: the encrypted pairs of shares that a dealer sends to its holders, and the digests it signs.

Rules:
* Each direction of each pair of devices has its own AES-256-GCM key, from X25519 of two keys made for this session.
* Associated data: session id, key list hash, dealer, holder. A box of another session, list or pair does not open.
* The dealer signs a digest of every share, so that a wrong share can be traced to its holder or to its dealer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedinfer.secagg.graph import IntArray
from fedinfer.secagg.keys import KEY_BYTES, agree, derive
from fedinfer.secagg.messages import BOX_BYTES, SHARE_DIGEST_BYTES, split
from fedinfer.secagg.shamir import SHARE_BYTES
from fedinfer.secagg.states import Place, SentShares

_NONCE = b"\0" * 12
"""Each box has its own key, used once, so the nonce may be constant."""


def pair_context(key_list: bytes, dealer: int, holder: int) -> bytes:
    """Binds a box or a share digest to one dealer and one holder (cohort positions) of one key list."""
    return key_list + dealer.to_bytes(4, "little") + holder.to_bytes(4, "little")


def share_digests(context: bytes, pair: bytes) -> bytes:
    """Digests (16 bytes each) of the two shares of one pair; the shares are uniform, so this hides them."""
    return b"".join(
        share_digest(context, kind, pair[at : at + SHARE_BYTES]) for kind, at in ((b"s", 0), (b"k", SHARE_BYTES))
    )


def share_digest(context: bytes, kind: bytes, share: bytes) -> bytes:
    """Digest of one share; `kind` is b"s" (self-mask seed) or b"k" (mask key)."""
    return hashlib.sha256(b"fedinfer/secagg/v1/share\0" + kind + context + share).digest()[:SHARE_DIGEST_BYTES]


def seal_boxes(
    box_private: bytes, place: Place, publics: Mapping[int, bytes], rows: Mapping[int, bytes]
) -> tuple[bytes, bytes]:
    """Boxes for the neighbours, and the keys of the boxes that they will send.

    Args:
        box_private: X25519 private key of this session.
        place: where the dealer stands.
        publics: published keys by member.
        rows: pair of shares (68 bytes) by holder.

    Raises:
        Misbehaviour: a neighbour's key has small order.
    """
    me, boxes, open_keys = place.position, [], []
    secrets = agree(box_private, [publics[j][KEY_BYTES : 2 * KEY_BYTES] for j in place.near])
    for j, secret in zip(place.near, secrets, strict=True):
        context = pair_context(place.key_list, me, j)
        boxes.append(AESGCM(derive(secret, "box", context)).encrypt(_NONCE, rows[j], place.session.sid + context))
        open_keys.append(derive(secret, "box", pair_context(place.key_list, j, me)))
    return b"".join(boxes), b"".join(open_keys)


def all_digests(place: Place, rows: Mapping[int, bytes]) -> bytes:
    """Digest pairs for all holders, ascending."""
    me = place.position
    return b"".join(share_digests(pair_context(place.key_list, me, j), rows[j]) for j in place.holders)


def open_boxes(state: SentShares, dealers: IntArray, boxes: bytes) -> dict[int, bytes]:
    """Pairs of shares by dealer. A box that does not open is left out: the dealer's fault, not the round's."""
    place, me, opened = state.place, state.place.position, {}
    keys = dict(zip(place.near, split(state.open_keys, KEY_BYTES, len(place.near), "keys"), strict=True))
    for j, box in zip(dealers.tolist(), split(boxes, BOX_BYTES, dealers.size, "boxes"), strict=True):
        context = pair_context(place.key_list, j, me)
        try:
            opened[j] = AESGCM(keys[j]).decrypt(_NONCE, box, place.session.sid + context)
        except InvalidTag:
            continue
    return opened
