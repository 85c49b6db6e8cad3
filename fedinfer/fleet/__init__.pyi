"""What other packages take from `fedinfer.fleet`; a name is loaded when it is first used."""

from .budget import SumBudget as SumBudget
from .run import PreparedFleet as PreparedFleet
from .run import prepare_fleet as prepare_fleet
from .run import run_fleet as run_fleet
from .run import world_of as world_of
from .state import FleetKeeper as FleetKeeper
from .sums import Bench as Bench
from .sums import Chunk as Chunk
from .sums import Workers as Workers
