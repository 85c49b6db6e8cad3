"""Secure aggregation against an enemy that composes any messages, and the same with each fault that was found put back.

The machine and what it may do are in `secagg_conspiracy`, what follows from what it learns in `knowledge`. A machine
that finds nothing shows nothing unless it finds what is known to be there: so each fault is put back, and found.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from fedinfer.secagg import derivations, key_list, parameters
from fedinfer.secagg import device as answers
from tests.protocol.secagg_conspiracy import SAFE_SHAPES, Conspiracy, DrawnConspiracy
from tests.protocol.secagg_play import make_session

USUAL = 100
"""Examples of a search unless a profile says more (`make soak`): then every search is as long as the profile says."""


def attack(machine: type[Conspiracy], steps: int, examples: int) -> None:
    """Let a machine attack; raises AssertionError when a vector follows."""
    most = max(examples, settings().max_examples) if settings().max_examples > USUAL else examples
    chosen = settings(stateful_step_count=steps, max_examples=most, deadline=None)
    run_state_machine_as_test(machine, settings=chosen)


def finds(machine: type[Conspiracy], steps: int = 10, examples: int = 300) -> None:
    """The machine must find a fault that was put back; the first case is enough, it is not made smaller."""
    with pytest.raises(AssertionError, match="were promised"):
        run_state_machine_as_test(machine, settings=found_by(steps, examples))


def found_by(steps: int, examples: int) -> settings:
    """The same cases in every run."""
    return settings(
        stateful_step_count=steps, max_examples=examples, phases=[Phase.generate], deadline=None, derandomize=True
    )


def test_no_messages_release_less_than_was_promised() -> None:
    attack(Conspiracy, 10, 100)


def test_no_messages_release_less_than_was_promised_where_devices_draw_their_holders() -> None:
    attack(DrawnConspiracy, 5, 20)


@pytest.mark.parametrize(("n", "corrupt"), SAFE_SHAPES)
def test_the_shapes_that_the_machine_counts_as_safe_are_accepted(n: int, corrupt: int) -> None:
    for degree, threshold, floor in SAFE_SHAPES[n, corrupt]:
        session = make_session(n, degree=degree, threshold=threshold, min_survivors=floor)
        parameters.check_session(session, 2, 0.1, corrupt / n)


# --- the faults, put back ---


def forget_the_pair(patch: pytest.MonkeyPatch) -> None:
    """The seed of a pair mask binds session, key list and sharers, not the two devices."""

    def seed(secret: bytes, scope: Any, sharers: bytes, *_: int) -> bytes:
        return derivations.pair_mask_seed(secret, scope, sharers, 0, 1)

    patch.setattr(answers, "pair_mask_seed", seed)


def accept_copies(patch: pytest.MonkeyPatch) -> None:
    """Two devices may publish the same key."""
    patch.setattr(key_list, "decoded_twins", lambda keyed: iter(()))
    patch.setattr(answers, "check_secrets", lambda *_: None)


class Copying(Conspiracy):
    """Corrupt devices repeat keys whenever they can."""

    copying = 1


COPIES_FOUND = 40
"""Cases within which the machine finds what follows from a copied key when neither rule holds."""


def test_the_machine_finds_a_copied_mask_key(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_pair(monkeypatch)
    accept_copies(monkeypatch)
    finds(Copying, examples=COPIES_FOUND)


@pytest.mark.parametrize("fault", [forget_the_pair, accept_copies])
def test_either_rule_against_copied_keys_is_enough(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    fault(monkeypatch)
    attack(Conspiracy, 5, 20)
    run_state_machine_as_test(Copying, settings=found_by(10, COPIES_FOUND))


def test_the_machine_finds_a_floor_that_is_not_monotone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small floor passes because with so few devices all would hold for all; but more may be listed than that."""
    real = parameters._is_safe

    def judge(n: int, degree: int, threshold: int, corrupt: int, least: int) -> bool:
        return least - 1 <= degree or real(n, degree, threshold, corrupt, least)

    class Bold(DrawnConspiracy):
        bold = 1

    attack(Bold, 3, 5)
    monkeypatch.setattr(parameters, "_is_safe", judge)
    finds(Bold, steps=3)
