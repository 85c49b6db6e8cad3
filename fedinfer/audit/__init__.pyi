"""What other packages take from `fedinfer.audit`; a name is loaded when it is first used."""

from .report import AuditReport as AuditReport
from .report import AuditSettings as AuditSettings
from .report import NoiseUnderAudit as NoiseUnderAudit
from .run import run_audit as run_audit
