"""What other packages take from `fedinfer.sweeps`; a name is loaded when it is first used."""

from .advice import Wish as Wish
from .compare import compare_runs as compare_runs
from .export import Exported as Exported
from .export import exported as exported
from .export import to_mlflow as to_mlflow
from .export import to_tensorboard as to_tensorboard
from .grid import Axis as Axis
from .grid import axis_of as axis_of
from .grid import check_axes as check_axes
from .grid import named_axes as named_axes
from .pictures import write_pictures as write_pictures
from .rows import SweepRows as SweepRows
from .rows import rows_of as rows_of
from .run import Sweep as Sweep
from .run import SweepSettings as SweepSettings
from .run import Tick as Tick
from .run import run_sweep as run_sweep
from .run import runs_of as runs_of
from .selection import select_privately as select_privately
from .tables import csv_of as csv_of
from .tables import frame as frame
from .tables import write_tables as write_tables
