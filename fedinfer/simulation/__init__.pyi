"""What other packages take from `fedinfer.simulation`; a name is loaded when it is first used."""

from .coordinate import RUN_ID as RUN_ID
from .coordinate import open_server as open_server
from .coordinate import run_simulation as run_simulation
from .engine import Prepared as Prepared
from .engine import planned_events as planned_events
from .engine import prepare_again as prepare_again
from .engine import prepare_federation as prepare_federation
from .engine import prepare_local as prepare_local
from .engine import resume_local as resume_local
from .engine import run_local as run_local
from .fleet_ray import ray_benches as ray_benches
from .folder import EventLog as EventLog
from .folder import FolderInUse as FolderInUse
from .folder import alone_in as alone_in
from .folder import new_folder as new_folder
from .given import given_scenario as given_scenario
from .given import prepare_given as prepare_given
from .grid import LocalGrid as LocalGrid
from .population import Processes as Processes
from .population import simulated_host as simulated_host
from .ray_engine import run_ray as run_ray
from .world import begin_world as begin_world
from .world import begun_scenario as begun_scenario
from .world import put_back as put_back
from .world import was_begun as was_begun
