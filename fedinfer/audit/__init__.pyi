"""What other packages take from `fedinfer.audit`; a name is loaded when it is first used."""

from .checks import Check as Check
from .released import RunAudit as RunAudit
from .released import audit_run as audit_run
from .report import AuditReport as AuditReport
from .report import AuditSettings as AuditSettings
from .report import NoiseUnderAudit as NoiseUnderAudit
from .run import run_audit as run_audit
