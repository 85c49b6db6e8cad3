"""Keys of older scenarios: what became of each. They are read for one release more, with a notice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedinfer.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Retired:
    """One key that scenarios no longer have.

    Args:
        section: name of its section.
        key: its old name.
        now: its name today, in the same section; empty: it was removed and has no effect.
        why: one sentence for whoever still uses it.
    """

    section: str
    key: str
    now: str
    why: str


RETIRED = (
    Retired(
        "secure_aggregation", "server_model", "", "every graph now withstands a server that lies about who dropped out"
    ),
    Retired("rollout", "gate_epsilon", "canary_epsilon", "it is the budget of all private canary evaluations"),
)
"""Retired since 0.1.0. An entry leaves this table one release after it came; then its key is unknown."""


def renewed(values: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values of one file or option under the keys of today, and a notice for each old key among them.

    Args:
        values: nested sections, not yet laid over others: an old key has to be replaced before, or nothing
            would show whether it or a new one was said later.
        origin: the file or option, for errors; a notice names the key alone, because it is kept in run.json.

    Raises:
        ConfigError: one file has an old key and the new one that it became.
    """
    result, notices = dict(values), []
    for old in RETIRED:
        section = result.get(old.section)
        if not isinstance(section, Mapping) or old.key not in section:
            continue
        result[old.section] = _without(section, old, origin)
        fate = f"is now called {old.now}" if old.now else "was removed and has no effect"
        notices.append(f"[{old.section}] {old.key} {fate}: {old.why}. The next release refuses the old key")
    return result, tuple(notices)


def _without(section: Mapping[str, Any], old: Retired, origin: str) -> dict[str, Any]:
    if old.now and old.now in section:
        raise ConfigError(
            f"{origin}: [{old.section}] has {old.now} and {old.key}, its old name", hint=f"leave {old.key} out"
        )
    kept = {key: value for key, value in section.items() if key != old.key}
    return {**kept, old.now: section[old.key]} if old.now else kept
