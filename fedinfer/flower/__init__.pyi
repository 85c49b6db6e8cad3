"""What other packages take from `fedinfer.flower`; a name is loaded when it is first used."""

from .client_app import CohortClientApp as CohortClientApp
from .client_app import Responder as Responder
from .node import CONTACT as CONTACT
from .node import MESSAGE as MESSAGE
from .node_tasks import Handler as Handler
from .node_tasks import NodeTasks as NodeTasks
from .node_tasks import RunFacts as RunFacts
from .node_tasks import RuntimeApi as RuntimeApi
from .processes import environment as environment
from .processes import free_port as free_port
from .processes import program as program
from .processes import running as running
from .processes import stop as stop
from .processes import stop_strays as stop_strays
from .processes import tail as tail
from .processes import wait_for_port as wait_for_port
from .prompt_grid import make_prompt_grid as make_prompt_grid
from .records import build_id as build_id
from .records import error_class as error_class
from .records import refusal as refusal
from .records import reply_message as reply_message
from .server_app import make_server_app as make_server_app
from .superlink import SuperLinkSettings as SuperLinkSettings
from .superlink import address as address
from .superlink import run_superlink as run_superlink
from .transport import GridTransport as GridTransport
