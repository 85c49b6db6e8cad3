"""What other packages take from `fedinfer.console`; a name is loaded when it is first used."""

from .app import ConsoleSettings as ConsoleSettings
from .app import make_console as make_console
from .sessions import Tokens as Tokens
