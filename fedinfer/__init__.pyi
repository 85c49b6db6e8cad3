"""What a notebook takes from `fedinfer`; a name is loaded when it is first used."""

from . import privacy as privacy
from .api import Device as Device
from .api import Run as Run
from .api import open_device as open_device
from .api import open_run as open_run
from .api import resume as resume
from .api import run as run
from .api import sweep as sweep
from .artifact import convert as convert
from .config import Scenario as Scenario
from .config import load_scenario as load_scenario
from .inference import Predictor as Predictor

__version__: str
