"""What other packages take from `fedinfer.attack`; a name is loaded when it is first used."""

from .run import AttackReport as AttackReport
from .run import AttackSettings as AttackSettings
from .run import run_attack as run_attack
