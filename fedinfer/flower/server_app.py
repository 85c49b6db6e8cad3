"""The ServerApp: builds a coordinator from a Flower grid and a run config, and runs the loop."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

Main = Callable[[Grid, Context], None]


def make_server_app(main: Main) -> ServerApp:
    """A ServerApp whose main is `main(grid, context)`."""
    app = ServerApp()
    app.main()(main)
    return app
