"""The ServerApp of a fedinfer coordinator."""

from fedinfer.apps import server_app

app = server_app()
