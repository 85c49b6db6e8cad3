"""What other packages take from `fedinfer.report`; a name is loaded when it is first used."""

from .page import loop_of as loop_of
from .page import write_report as write_report
from .progress import progress_bar as progress_bar
