"""What other packages take from `fedinfer.device`; a name is loaded when it is first used."""

from .aggregate.contribution import trainer_of as trainer_of
from .dispatch import DeviceResponder as DeviceResponder
from .drift_store import SKETCH_MIGRATIONS as SKETCH_MIGRATIONS
from .drift_store import MemorySketches as MemorySketches
from .drift_store import Sketches as Sketches
from .drift_store import StoredSketches as StoredSketches
from .enrolment import rejoin as rejoin
from .host import Host as Host
from .host import Member as Member
from .host import Policy as Policy
from .session_store import SESSION_MIGRATIONS as SESSION_MIGRATIONS
from .session_store import MemorySessions as MemorySessions
from .session_store import Sessions as Sessions
from .session_store import StoredSessions as StoredSessions
from .validity import VALIDITY_MIGRATIONS as VALIDITY_MIGRATIONS
from .validity import MemoryKnown as MemoryKnown
from .validity import StoredKnown as StoredKnown
from .validity import believe as believe
from .validity import known_time as known_time
