"""What other packages take from `fedinfer.coordinator`; a name is loaded when it is first used."""

from .aggregate.groups import Group as Group
from .aggregate.promise import sum_plan as sum_plan
from .aggregate.promise import sum_plans as sum_plans
from .aggregate.release import noise_std as noise_std
from .aggregate.release import release as release
from .aggregate.release import release_groups as release_groups
from .context import LEDGER_OWNER as LEDGER_OWNER
from .context import Progress as Progress
from .context import Rows as Rows
from .context import Server as Server
from .context import Witness as Witness
from .drift import least_seen as least_seen
from .plan.cohort import Population as Population
from .plan.run_plan import RunPlan as RunPlan
from .plan.run_plan import make_plan as make_plan
from .plan.sum_settings import SumSettings as SumSettings
from .record import plain as plain
from .run import budget_of as budget_of
from .run import carry_out as carry_out
from .run import first_progress as first_progress
from .start import Site as Site
from .start import start_up as start_up
from .train.round import ask_next as ask_next
from .train.server_step import apply_release as apply_release
