"""Planning: rounds, step size, clipping and windows for a schema, a fleet and a budget; no row is looked at."""

from fedinfer.planning.defaults import Defaults, plan_defaults
from fedinfer.planning.facts import Facts, facts_of

__all__ = ["Defaults", "Facts", "facts_of", "plan_defaults"]
