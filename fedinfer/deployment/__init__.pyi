"""What other packages take from `fedinfer.deployment`; a name is loaded when it is first used."""

from .agent import AgentSettings as AgentSettings
from .agent import run_agent as run_agent
from .authority import REVOCATIONS as REVOCATIONS
from .authority import approve as approve
from .authority import make_authority as make_authority
from .authority import open_authority as open_authority
from .authority import public_bytes as public_bytes
from .authority import revoke as revoke
from .coordinate import Deployment as Deployment
from .coordinate import forget_run as forget_run
from .coordinate import run_deployment as run_deployment
from .coordinate import unfinished_run as unfinished_run
from .node import open_host as open_host
from .pinned import trusted_root as trusted_root
from .request import Request as Request
from .request import read_request as read_request
from .store import Floors as Floors
from .store import import_approval as import_approval
from .store import open_device as open_device
from .store import request_again as request_again
from .store import request_enrolment as request_enrolment
from .store import request_new_key as request_new_key
from .store import set_floors as set_floors
