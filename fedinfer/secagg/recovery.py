"""Opening the masks of a sum: shares -> secrets -> streams -> the exact total; and who is to blame when it fails.

Rules:
* A share that does not fit the digest its dealer signed is the holder's lie: it is left out, the holder is blamed.
* Shares that fit their digests but give a secret that does not fit its commitment (or published key) are the dealer's
  lie: the dealer is blamed, and up to half of the surplus shares are corrected (Berlekamp-Welch).
* A share that a holder withheld because the dealer did not acknowledge the sharers lacks; the dealer is named.
* The sum is given out only when every secret needed fits; otherwise the abort names the dealers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from fedinfer.errors import BadMessage
from fedinfer.secagg import shamir
from fedinfer.secagg.derivations import (
    TAG_BYTES,
    Secret,
    commitment,
    pair_mask_seed,
    self_mask_seed,
    share_digest,
)
from fedinfer.secagg.graph import from_bitmap
from fedinfer.secagg.keys import Stage, agree, public_of
from fedinfer.secagg.masks import add_masks, ring_dtype
from fedinfer.secagg.messages import DIGEST_PAIR_BYTES, UnmaskBody, split
from fedinfer.secagg.rounds import Aborted, AwaitUnmask, Blamed, Done, Ground, Summed, read_answers
from fedinfer.types import DeviceId


@dataclass(slots=True)
class _Pile:
    """Good shares of one dealer's secret, by holder."""

    holders: list[int] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)


def finish(state: AwaitUnmask, replies: Mapping[DeviceId, bytes]) -> Done | Aborted:
    """Rebuild the secrets, remove the masks.

    Args:
        state: the masked sum and who was asked.
        replies: encoded answers of the unmask stage.
    """
    ground, summed = state.ground, state.summed
    digest, parse = summed.sharers.digest, partial(_opened, ground)
    answers, refused = read_answers(ground, Stage.UNMASK, digest, UnmaskBody, replies, state.asked, parse)
    complaints = tuple(
        (ground.name(j), f"its acknowledgement does not fit, says {ground.name(i)}")
        for i, (_, withheld) in answers.items()
        for j in withheld
        if j in summed.tags
    )
    piles, liars = _sort_shares(ground, summed, {i: shares for i, (shares, _) in answers.items()})
    blamed = state.blamed + refused + complaints + liars
    seeds, keys, failures, dealers = _rebuild(ground, summed, piles)
    blamed += dealers
    if failures:
        names = tuple(name for name, _ in dealers if name in failures)
        first, more = next(iter(failures.values())), len(failures) - 1
        opened = f"{len(answers)} of {len(state.asked)} devices that were asked opened their shares"
        reason = f"{opened}: {first}{f', and so for {more} more' if more else ''}"
        return Aborted(reason, Stage.UNMASK, ground.names(answers), blamed, names)
    return Done(_unmask(ground, summed, seeds, keys), ground.names(summed.survivors), blamed)


def _opened(ground: Ground, i: int, body: UnmaskBody) -> tuple[dict[int, bytes], list[int]]:
    """One device's shares by dealer, and the dealers whose shares it withheld."""
    n = len(ground.session.cohort)
    dealers, withheld = (from_bitmap(part, n).tolist() for part in (body.dealers, body.withheld))
    if not {*dealers, *withheld} <= {*ground.dealers(i), *([i] if ground.session.is_complete else [])}:
        raise BadMessage("shares of devices that never sent it any")
    rows = split(body.shares, shamir.SHARE_BYTES, len(dealers), "shares")
    return dict(zip(dealers, rows, strict=True)), withheld


def _sort_shares(
    ground: Ground, summed: Summed, answers: Mapping[int, Mapping[int, bytes]]
) -> tuple[dict[int, _Pile], Blamed]:
    """Shares by dealer, without those that do not fit the dealer's digest; and the holders who sent such."""
    alive, shared = set(summed.survivors), summed.digests
    places = {j: {i: at for at, i in enumerate(ground.holders(j))} for j in shared}
    piles: dict[int, _Pile] = {j: _Pile() for j in shared}
    liars: list[tuple[DeviceId, str]] = []
    for i, shares in answers.items():
        for j, row in shares.items():
            if j not in shared:
                continue
            at = places[j][i] * DIGEST_PAIR_BYTES + (0 if j in alive else TAG_BYTES)
            secret = Secret.SELF_MASK if j in alive else Secret.MASK_KEY
            if share_digest(ground.scope, j, i, secret, row) != shared[j][at : at + TAG_BYTES]:
                liars.append((ground.name(i), f"its share of {ground.name(j)} is not the one that was sent to it"))
                continue
            piles[j].holders.append(i)
            piles[j].rows.append(row)
    return piles, tuple(liars)


def _rebuild(
    ground: Ground, summed: Summed, piles: Mapping[int, _Pile]
) -> tuple[dict[int, bytes], dict[int, bytes], dict[DeviceId, str], Blamed]:
    """Self-mask seeds of survivors, mask keys of dropped devices, what failed and why, and dishonest dealers."""
    seeds: dict[int, bytes] = {}
    keys: dict[int, bytes] = {}
    failures: dict[DeviceId, str] = {}
    blamed: list[tuple[DeviceId, str]] = []
    alive = set(summed.survivors)
    for j in (*summed.survivors, *summed.dropped):
        if j not in alive and not alive.intersection(ground.partners(j)):
            continue  # it shares no mask with anybody in the sum
        name, found = ground.name(j), seeds if j in alive else keys
        if len(piles[j].rows) < ground.session.threshold:
            left = len(piles[j].rows)
            failures[name] = f"{left} good shares of {name} came, {ground.session.threshold} are needed"
            continue
        secret, honest = _secret(ground, j, piles[j], j in alive)
        if not honest:
            blamed.append((name, "it sent shares that do not fit what it published"))
        if secret is None:
            failures[name] = f"the shares that {name} sent do not fit what it published"
        else:
            found[j] = secret
    return seeds, keys, failures, tuple(blamed)


def _secret(ground: Ground, dealer: int, pile: _Pile, survivor: bool) -> tuple[bytes | None, bool]:
    """The secret, and whether all its shares fit at first sight."""
    threshold = ground.session.threshold
    points = np.asarray(pile.holders, np.int64) + 1
    rows = shamir.unpack(np.frombuffer(b"".join(pile.rows), np.uint8).reshape(-1, shamir.SHARE_BYTES))
    secret = shamir.combine(rows[:threshold], points[:threshold])
    if secret is not None and _fits(ground, dealer, secret, survivor):
        return secret, True
    # Slow, so only now: the shares fit the digests that the dealer signed, hence the dealer itself made them wrong.
    good = shamir.correct(rows, points, threshold)
    if good is None:
        return None, False
    secret = shamir.combine(rows[good][:threshold], points[good][:threshold])
    return (secret if secret is not None and _fits(ground, dealer, secret, survivor) else None), False


def _fits(ground: Ground, dealer: int, secret: bytes, survivor: bool) -> bool:
    if survivor:
        return commitment(ground.sid, dealer, ground.name(dealer), secret) == ground.publics[dealer].commitment
    return public_of(secret) == ground.publics[dealer].mask_key


def _unmask(
    ground: Ground, summed: Summed, seeds: Mapping[int, bytes], keys: Mapping[int, bytes]
) -> npt.NDArray[np.uint32]:
    """Subtract the survivors' own masks and the masks between survivors and dropped devices."""
    plus: list[bytes] = []
    scope, digest = ground.scope, summed.sharers.digest
    minus = [self_mask_seed(seed, scope, digest, j) for j, seed in seeds.items()]
    alive = set(summed.survivors)
    # A dropped device's vector is not in the sum, but its pair masks are in the vectors of its partners.
    for j, private in keys.items():
        near = [i for i in ground.partners(j) if i in alive]
        secrets = agree(private, [ground.publics[i].mask_key for i in near])
        for i, secret in zip(near, secrets, strict=True):
            (minus if i < j else plus).append(pair_mask_seed(secret, scope, digest, i, j))
    bits = ground.session.bits
    total = summed.total.astype(ring_dtype(bits))
    add_masks(total, plus, minus)
    return total.astype(np.uint32) & np.uint32((1 << bits) - 1)
