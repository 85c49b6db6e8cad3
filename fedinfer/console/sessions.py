"""Who looks at the console: a token buys a session with a role. Pure but for the entropy and the time that it is given.

Rules:
* Of a token only its digest is compared, in constant time. After MOST_FAILURES wrong ones within a minute nobody gets
  in until the minute is over.
* A session ends after SESSION_SECONDS, at a logout, or when the console stops. Its cookie says nothing but its id.
  Beyond MOST_SESSIONS of a role the oldest one of that role ends.
* Every form holds a secret of its session; an order without it is refused, whatever cookie came along.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from dataclasses import dataclass
from enum import StrEnum

from fedinfer.ports import Clock, Entropy

SESSION_SECONDS = 8 * 3600.0
FAILURE_SECONDS = 60.0
MOST_FAILURES = 10
MOST_SESSIONS = 256
ID_BYTES = 32


class ConsoleRole(StrEnum):
    """What a person may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens by role.

    Args:
        viewer: of those who look.
        operator: of those who also give orders; empty: nobody does here.
    """

    viewer: bytes
    operator: bytes = b""


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """One person who came in.

    Args:
        role: of the token.
        secret: in every form, hexadecimal.
        until: seconds of the clock.
    """

    role: ConsoleRole
    secret: str
    until: float


class ConsoleSessions:
    """All sessions of a console; many threads may use it.

    Args:
        tokens: by role.
        clock: its monotonic seconds count.
        entropy: for ids and secrets.
    """

    def __init__(self, tokens: Tokens, clock: Clock, entropy: Entropy) -> None:
        self._digests = [(role, _digest(token)) for role, token in _by_role(tokens) if token]
        self._clock, self._entropy, self._lock = clock, entropy, threading.Lock()
        self._sessions: dict[str, ConsoleSession] = {}
        self._failures: list[float] = []

    def role_of(self, token: bytes) -> ConsoleRole | None:
        """The role of a token, for a client without a session.

        Args:
            token: untrusted.

        Returns:
            None for a wrong one, and for any while there were too many wrong ones.
        """
        with self._lock:
            now = self._clock.seconds()
            self._failures = [at for at in self._failures if now - at < FAILURE_SECONDS]
            if len(self._failures) >= MOST_FAILURES:
                return None
            given = _digest(token)
            found = [role for role, digest in self._digests if hmac.compare_digest(digest, given)]
            if not found:
                self._failures.append(now)
            return found[-1] if found else None

    def open(self, token: bytes) -> str | None:
        """Begin a session.

        Args:
            token: untrusted.

        Returns:
            Its id; None: see `role_of`.
        """
        role = self.role_of(token)
        if role is None:
            return None
        with self._lock:
            own = [name for name, each in self._sessions.items() if each.role is role]
            if len(own) >= MOST_SESSIONS:
                del self._sessions[own[0]]
            name, secret = self._entropy.take(ID_BYTES).hex(), self._entropy.take(ID_BYTES).hex()
            self._sessions[name] = ConsoleSession(role, secret, self._clock.seconds() + SESSION_SECONDS)
            return name

    def find(self, name: str) -> ConsoleSession | None:
        """A session that is not over.

        Args:
            name: id, untrusted.
        """
        with self._lock:
            found = self._sessions.get(name)
            if found is not None and self._clock.seconds() >= found.until:
                del self._sessions[name]
                return None
            return found

    def close(self, name: str) -> None:
        """End a session.

        Args:
            name: id, untrusted.
        """
        with self._lock:
            self._sessions.pop(name, None)


def is_own_form(session: ConsoleSession, secret: str) -> bool:
    """Whether a form was made for a session.

    Args:
        session: that the cookie names.
        secret: that came with the form, untrusted.
    """
    return hmac.compare_digest(session.secret.encode(), secret.encode(errors="backslashreplace"))


def _by_role(tokens: Tokens) -> tuple[tuple[ConsoleRole, bytes], ...]:
    return (ConsoleRole.VIEWER, tokens.viewer), (ConsoleRole.OPERATOR, tokens.operator)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
