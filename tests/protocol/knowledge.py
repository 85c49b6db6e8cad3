"""What an adversary knows, computed from the bytes that honest devices really used, whatever their messages look like.

`Recorder` watches the primitives while honest devices work: random bytes, key agreements, derivations, sealed boxes,
polynomials, and which keystreams were added to which vector. `Knowledge` closes what the adversary holds under all
that it could compute: agreements with known private keys, derivations of known secrets, boxes under known keys,
secrets of which `threshold` shares are known. A value that comes from no honest device's random bytes counts as known.

`released` then does linear algebra: a masked vector is x + sum of +- keystreams, named by their actual seeds. Every
combination in which all unknown keystreams cancel modulo 2 releases (at least the lowest bits of) the sum of the x in
it. So keys that were copied, seeds that repeat in two sessions or two positions, and masks from constants are found
without being thought of.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedinfer.secagg import boxes, derivations, keys, shamir
from fedinfer.secagg import device as answers

WEAK_SECRET = bytes(32)
"""What a key agreement with a point of small order gives."""
_MOST_COMBINATIONS = 12
_SECRET_BYTES = 2 * shamir.LIMBS


@dataclass(frozen=True)
class Polynomial:
    """One dealing of one secret: packed share by field point."""

    secret: bytes
    threshold: int
    rows: dict[int, bytes]


@dataclass(frozen=True)
class MaskedRow:
    """A vector that left an honest device, and how often each seed's keystream is in it."""

    device: str
    sid: bytes
    seeds: Counter[bytes]


@dataclass
class Recorder:
    """Everything that honest devices computed; `on` while one of them works."""

    on: bool = False
    device: str = ""
    sid: bytes = b""
    random: bytearray = field(default_factory=bytearray)
    origins: dict[bytes, bytes] = field(default_factory=dict)
    publics: set[bytes] = field(default_factory=set)
    secrets: set[bytes] = field(default_factory=set)
    sealed: list[tuple[bytes, bytes]] = field(default_factory=list)
    polynomials: list[Polynomial] = field(default_factory=list)
    masked: list[MaskedRow] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    @contextmanager
    def honest(self, device: str, sid: bytes) -> Iterator[None]:
        """What happens inside is done by an honest device."""
        self.on, self.device, self.sid = True, device, sid
        try:
            yield
        finally:
            self.on = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Watch the primitives; every one of them still does its work."""
        patch.setattr(derivations, "HKDF", _watched_hkdf(self))
        patch.setattr(keys, "X25519PrivateKey", _watched_x25519(self))
        patch.setattr(boxes, "AESGCM", _watched_aead(self))
        patch.setattr(shamir, "share", _watched(shamir.share, self._groups_of))
        patch.setattr(answers, "add_masks", _watched(answers.add_masks, self._masked))

    def _groups_of(self, dealt: Any, secret: bytes, points: Any, threshold: int, *_: Any) -> None:
        if self.on:
            for at in range(len(secret) // _SECRET_BYTES):
                rows = shamir.pack(dealt[:, at * shamir.LIMBS : (at + 1) * shamir.LIMBS])
                by_point = {int(point): row.tobytes() for point, row in zip(points, rows, strict=True)}
                part = secret[at * _SECRET_BYTES : (at + 1) * _SECRET_BYTES]
                self.polynomials.append(Polynomial(part, threshold, by_point))

    def _masked(self, _: None, vector: Any, plus: Iterable[bytes], minus: Iterable[bytes]) -> None:
        if self.on:
            seeds: Counter[bytes] = Counter(plus)
            seeds.subtract(Counter(minus))
            self.masked.append(MaskedRow(self.device, self.sid, seeds))


def _watched(function: Any, note: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        note(result, *arguments, *named.values())
        return result

    return call


def _watched_hkdf(recorder: Recorder) -> Any:
    class Watched:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self._inner = HKDF(*arguments, **named)

        def derive(self, secret: bytes) -> bytes:
            out = self._inner.derive(secret)
            if recorder.on:
                recorder.origins[out] = bytes(secret)
            return out

    return Watched


def _watched_x25519(recorder: Recorder) -> Any:
    class Watched:
        def __init__(self, private: bytes) -> None:
            self._inner = X25519PrivateKey.from_private_bytes(private)

        @classmethod
        def from_private_bytes(cls, private: bytes) -> Any:
            return cls(private)

        def public_key(self) -> X25519PublicKey:
            public = self._inner.public_key()
            if recorder.on:
                recorder.publics.add(public.public_bytes_raw())
            return public

        def exchange(self, public: X25519PublicKey) -> bytes:
            secret = self._inner.exchange(public)
            if recorder.on:
                recorder.publics |= {public.public_bytes_raw(), self._inner.public_key().public_bytes_raw()}
                recorder.secrets.add(secret)
            return secret

    return Watched


def _watched_aead(recorder: Recorder) -> Any:
    class Watched:
        def __init__(self, key: bytes) -> None:
            self._key, self._inner = bytes(key), AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
            if recorder.on:
                recorder.sealed.append((self._key, bytes(data)))
            return self._inner.encrypt(nonce, data, associated)

        def decrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
            return self._inner.decrypt(nonce, data, associated)

    return Watched


class Knowledge:
    """What follows from the answers of honest devices and from the adversary's own private keys.

    Args:
        recorder: what honest devices did.
        privates: X25519 private keys and other 32-byte secrets that the adversary made or was given.
    """

    def __init__(self, recorder: Recorder, privates: Iterable[bytes] = ()) -> None:
        self._recorder = recorder
        self._sent = b"".join(recorder.sent)
        self._random = bytes(recorder.random)
        self._known = {WEAK_SECRET, *privates}
        self._agreed_with: set[bytes] = set()
        while self._grow():
            pass

    def knows(self, value: bytes) -> bool:
        """Tell whether the adversary can compute a 32-byte value."""
        while value not in self._known and value in self._recorder.origins:
            value = self._recorder.origins[value]
        if value in self._known or value in self._sent:
            return True
        return value not in self._recorder.secrets and value not in self._random

    def _grow(self) -> bool:
        before = len(self._known)
        self._agree()
        opened = self._sent + b"".join(data for key, data in self._recorder.sealed if self.knows(key))
        for polynomial in self._recorder.polynomials:
            if polynomial.secret not in self._known:
                points = sum(row in opened for row in polynomial.rows.values())
                if points >= polynomial.threshold:
                    self._known.add(polynomial.secret)
        return len(self._known) > before

    def _agree(self) -> None:
        for private in self._known - self._agreed_with - self._recorder.secrets:
            self._agreed_with.add(private)
            agreed = {_agreed(private, public) for public in self._recorder.publics}
            self._known |= agreed & self._recorder.secrets


@lru_cache(maxsize=1 << 16)
def _agreed(private: bytes, public: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return WEAK_SECRET


def released(rows: list[MaskedRow], knowledge: Knowledge) -> list[list[MaskedRow]]:
    """Basis of all sums that follow (modulo 2): the left null space of the unknown keystreams over GF(2)."""
    unknown: dict[bytes, int] = {}
    reduced: list[tuple[int, int]] = []  # (unknown seeds, rows in the combination), both as bit sets
    free: list[int] = []
    for at, row in enumerate(rows):
        columns = 0
        for seed, times in row.seeds.items():
            if times % 2 and not knowledge.knows(seed):
                columns ^= 1 << unknown.setdefault(seed, len(unknown))
        combination = 1 << at
        for pivot, used in reduced:
            if columns ^ pivot < columns:
                columns, combination = columns ^ pivot, combination ^ used
        if columns:
            reduced.append((columns, combination))
            reduced.sort(reverse=True)
        else:
            free.append(combination)
    return [[row for at, row in enumerate(rows) if combination >> at & 1] for combination in _sums(free)]


def _sums(free: list[int]) -> list[int]:
    """All combinations of few basis vectors; the basis alone when there are many."""
    if len(free) > _MOST_COMBINATIONS:
        return free
    chosen = itertools.product([False, True], repeat=len(free))
    sums = {_xor(v for v, take in zip(free, which, strict=True) if take) for which in chosen}
    return sorted(sums - {0})


def _xor(values: Iterable[int]) -> int:
    total = 0
    for value in values:
        total ^= value
    return total


@dataclass(frozen=True)
class Violation:
    """A sum over fewer honest devices of one session than was promised."""

    sid: bytes
    devices: tuple[str, ...]
    promised: int

    def __str__(self) -> str:
        return f"the sum of {len(self.devices)} devices follows, {self.promised} were promised: {self.devices}"


def violations(recorder: Recorder, privates: Iterable[bytes], promised: dict[bytes, int]) -> list[Violation]:
    """Every released sum that holds too few honest devices.

    Args:
        recorder: what honest devices did.
        privates: what the adversary holds.
        promised: fewest honest devices in a sum, by session id; sessions that promise nothing are left out.
    """
    knowledge, found = Knowledge(recorder, privates), []
    for rows in released(recorder.masked, knowledge):
        for sid in {row.sid for row in rows} & set(promised):
            devices = tuple(sorted({row.device for row in rows if row.sid == sid}))
            if len(devices) < promised[sid]:
                found.append(Violation(sid, devices, promised[sid]))
    return found
