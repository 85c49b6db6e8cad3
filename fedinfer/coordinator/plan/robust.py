"""Which rule combines groups' means, and how many groups it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

from fedinfer.config import Robust, Scenario
from fedinfer.errors import ConfigError
from fedinfer.types import Unit

FEWEST_FOR_A_MEDIAN = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """How groups' means become one.

    Args:
        kind: which rule.
        least_groups: released groups without which a round counts as aborted.
        trimmed: groups left out at either end (trimmed mean), else 0.
        bound: largest L2 norm of a group's mean (norm-bounded mean); 0: the round's clipping norm.
    """

    kind: Robust
    least_groups: int
    trimmed: int
    bound: float

    @property
    def wants_means(self) -> bool:
        """Whether it needs the groups' means one by one; the plain mean needs the sum of all only."""
        match self.kind:
            case Robust.MEAN:
                return False
            case Robust.MEDIAN | Robust.TRIMMED_MEAN | Robust.NORM_BOUNDED_MEAN:
                return True
            case _:
                assert_never(self.kind)


PLAIN_MEAN = Rule(Robust.MEAN, 1, 0, 0.0)


def rule_of(scenario: Scenario, groups: int) -> Rule:
    """The rule by which groups' means become one update.

    Args:
        scenario: with `training.robust` and its parameters.
        groups: of a round, >= 1.

    Raises:
        ConfigError: fewer groups than the rule needs, or a privacy unit it does not work with.
    """
    training = scenario.training
    kind, trimmed, least = training.robust, 0, 1
    if kind is not Robust.MEAN and scenario.privacy.unit is Unit.EXAMPLE:
        raise ConfigError(
            f"[training] robust = {str(kind)!r} with [privacy] unit = 'example': a device sends a sum over as many "
            "rows as it has, so groups' means differ without anybody being dishonest, and no norm bounds what one "
            "honest device may send",
            hint="use unit = 'device', or robust = 'mean'",
        )
    match kind:
        case Robust.MEAN | Robust.NORM_BOUNDED_MEAN:
            pass
        case Robust.MEDIAN:
            least = FEWEST_FOR_A_MEDIAN
        case Robust.TRIMMED_MEAN:
            trimmed = math.ceil(training.trim * groups)
            least = 2 * trimmed + 1
        case _:
            assert_never(kind)
    if groups < least:
        raise ConfigError(
            f"[training] robust = {str(kind)!r} needs at least {least} groups, a round has {groups}",
            hint="lower secure_aggregation.group_size or training.trim, or ask more devices",
        )
    return Rule(kind, least, trimmed, training.norm_bound)
