"""The ServerApp: builds a coordinator from a Flower grid and a run config, and runs the loop."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

Main = Callable[[Grid, Context], None]


def make_server_app(main: Main) -> ServerApp:
    """A ServerApp that runs one function.

    Args:
        main: gets Flower's grid and context, runs the loop and returns when it is over.
    """
    app = ServerApp()
    app.main()(main)
    return app
