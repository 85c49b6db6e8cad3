"""What other packages take from `fedinfer.simulation`; a name is loaded when it is first used."""

from .audit import run_audit as run_audit
from .audit_report import AuditReport as AuditReport
from .audit_report import AuditSettings as AuditSettings
from .audit_report import NoiseUnderAudit as NoiseUnderAudit
from .coordinate import run_simulation as run_simulation
from .engine import prepare_local as prepare_local
from .engine import run_local as run_local
from .folder import EventLog as EventLog
from .folder import new_folder as new_folder
from .population import Processes as Processes
from .population import simulated_host as simulated_host
from .ray_engine import run_ray as run_ray
