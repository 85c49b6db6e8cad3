"""What other packages take from `fedinfer.model_file`; a name is loaded when it is first used."""

from .confined_tensors import packed as packed
from .confined_tensors import unpacked as unpacked
from .confinement import Confinement as Confinement
from .confinement import Room as Room
from .confinement import available as available
from .confinement import confine as confine
from .inspection import CheckedModel as CheckedModel
from .inspection import check_model as check_model
from .limits import LIMITS as LIMITS
from .limits import GraphLimits as GraphLimits
from .named import run_named as run_named
from .process import confined_process as confined_process
from .process import taken as taken
from .sandbox import RUN_LIMITS as RUN_LIMITS
from .sandbox import Isolation as Isolation
from .sandbox import Question as Question
from .sandbox import RunLimits as RunLimits
from .sandbox import SandboxRun as SandboxRun
from .sandbox import run_confined as run_confined
from .session import first_line as first_line
from .session import open_checked as open_checked
