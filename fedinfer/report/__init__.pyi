"""What other packages take from `fedinfer.report`; a name is loaded when it is first used."""

from .attack_page import render_attack as render_attack
from .chart import Chart as Chart
from .fleet_page import render_fleet as render_fleet
from .fleet_page import virtual_time as virtual_time
from .fleet_page import write_fleet as write_fleet
from .limits import limits as limits
from .limits import one_more as one_more
from .markup import Markup as Markup
from .markup import join as join
from .markup import tag as tag
from .markup import text as text
from .page import loop_of as loop_of
from .page import write_report as write_report
from .progress import counting_bar as counting_bar
from .progress import progress_bar as progress_bar
from .reading import RunFiles as RunFiles
from .reading import read_run as read_run
from .sweep_charts import sweep_plots as sweep_plots
from .sweep_page import honest as honest
from .sweep_page import render_sweep as render_sweep
from .verdict import found_classes as found_classes
from .verdict import metric_words as metric_words
from .verdict import parts as parts
from .verdict import plural as plural
from .verdict import pooled as pooled
from .verdict import verdict as verdict
