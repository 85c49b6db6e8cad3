"""Events: what they refuse, and their JSON form in ledgers."""

from __future__ import annotations

import math

import pytest

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import rdp_epsilon
from fedinfer.privacy.accounting.events import (
    Composed,
    DiscreteGaussianEvent,
    GaussianEvent,
    NonPrivate,
    PoissonSampled,
    Repeated,
    SkellamEvent,
    event_from_json,
    event_to_json,
    flatten,
)
from fedinfer.types import Relation

G, S = GaussianEvent(1.5), SkellamEvent(100.0, 10.0, 30.0)
ALL = [
    G,
    S,
    DiscreteGaussianEvent(20.0, 5, 3.0, 4.0, 16),
    NonPrivate(),
    PoissonSampled(0.1, S),
    Repeated(PoissonSampled(0.25, G), 100),
    Composed((G, Repeated(Composed((S, NonPrivate())), 3))),
]


@pytest.mark.parametrize("event", ALL)
def test_json_round_trip(event: object) -> None:
    text = event_to_json(event)
    assert event_from_json(text) == event
    assert event_to_json(event_from_json(text)) == text


BAD = [
    "",
    "[]",
    "3",
    "{}",
    '{"kind":"laplace","noise_multiplier":1}',
    '{"kind":"gaussian"}',
    '{"kind":"gaussian","noise_multiplier":1,"more":2}',
    '{"kind":"gaussian","noise_multiplier":"1"}',
    '{"kind":"gaussian","noise_multiplier":0}',
    '{"kind":"gaussian","noise_multiplier":-1}',
    '{"kind":"gaussian","noise_multiplier":NaN}',
    '{"kind":"gaussian","noise_multiplier":Infinity}',
    '{"kind":"skellam","variance":1,"l2":0,"l1":1}',
    '{"kind":"discrete_gaussian","variance_per_share":1,"shares":0,"l2":1,"l1":1,"dimension":1}',
    '{"kind":"discrete_gaussian","variance_per_share":1,"shares":NaN,"l2":1,"l1":1,"dimension":1}',
    '{"kind":"discrete_gaussian","variance_per_share":1,"shares":2,"l2":1,"l1":1,"dimension":Infinity}',
    '{"kind":"discrete_gaussian","variance_per_share":1,"shares":1.5,"l2":1,"l1":1,"dimension":1}',
    '{"kind":"discrete_gaussian","variance_per_share":1,"shares":1,"l2":1,"l1":1,"dimension":0}',
    '{"kind":"poisson_sampled","rate":0,"event":{"kind":"gaussian","noise_multiplier":1}}',
    '{"kind":"poisson_sampled","rate":1.5,"event":{"kind":"gaussian","noise_multiplier":1}}',
    '{"kind":"poisson_sampled","rate":0.5,"event":{"kind":"non_private"}}',
    '{"kind":"poisson_sampled","rate":0.5,"event":{"kind":"repeated","count":2,"event":{"kind":"non_private"}}}',
    '{"kind":"poisson_sampled","rate":0.5}',
    '{"kind":"repeated","count":-1,"event":{"kind":"gaussian","noise_multiplier":1}}',
    '{"kind":"composed","events":3}',
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_not_an_event_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        event_from_json(text)


def test_flatten_counts_equal_events_whatever_their_grouping() -> None:
    one = flatten([G, Repeated(Composed((S, G)), 3)])
    other = flatten([Composed((S, S, S)), Repeated(G, 4)])
    assert one == other
    assert dict(one) == {G: 4, S: 3}
    assert flatten([PoissonSampled(1.0, G)]) == flatten([G])
    assert flatten([Repeated(G, 0)]) == ()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_noise_must_be_positive_and_finite(value: float) -> None:
    with pytest.raises(ConfigError):
        GaussianEvent(value)
    with pytest.raises(ConfigError):
        SkellamEvent(value, 1.0, 1.0)


@pytest.mark.parametrize("size", [5e-324, 1e-200, 1e-61, 1e61, 1e155, 1.7e308])
def test_sizes_whose_squares_leave_double_precision_are_refused(size):
    """A server names them; they must end in a refusal, not in an arithmetic error or an epsilon of zero."""
    for make in (
        lambda: GaussianEvent(size),
        lambda: SkellamEvent(size, 1.0, 1.0),
        lambda: SkellamEvent(1.0, size, 1.0),
        lambda: DiscreteGaussianEvent(1.0, 2, 1.0, size, 4),
    ):
        with pytest.raises(ConfigError, match="within"):
            make()


@pytest.mark.parametrize("least", [1e-60, 1e60])
def test_every_admitted_size_has_a_bound(least):
    for event in (GaussianEvent(least), SkellamEvent(least, 1 / least, 1 / least), SkellamEvent(1.0, least, least)):
        for relation in Relation:
            assert rdp_epsilon([PoissonSampled(0.1, event)], 1e-5, relation) >= 0
