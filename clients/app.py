"""The ClientApp of a fedinfer device."""

from fedinfer.apps import client_app

app = client_app()
