"""Texts of a site that are written once: the app of its runs, a systemd unit, a compose file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

APP_FILES = {
    "run_client.py": "from fedinfer.apps import client_app\n\napp = client_app()\n",
    "run_server.py": "from fedinfer.apps import server_app\n\napp = server_app()\n",
}
"""The app of a run holds no logic: both sides have it installed."""
_APP = """\
[project]
name = "fedinfer"
version = "{version}"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedinfer"

[tool.flwr.app.components]
serverapp = "run_server:app"
clientapp = "run_client:app"

[tool.flwr.app.config]
{config}
"""
_UNIT = """\
[Unit]
Description=fedinfer {what}
After=network-online.target
Wants=network-online.target

[Service]
User={user}
ExecStart={command}
Restart=always
RestartSec=15
# The program ends what it started; what is left after that ends with the unit.
KillMode=mixed
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths={folder}

[Install]
WantedBy=multi-user.target
"""
_COMPOSE = """\
# docker build -f clients/Dockerfile -t fedinfer .   (in the checkout)
# docker compose up -d
services:
  server: &service
    image: fedinfer
    command: [fedinfer, server, up, /site]
    user: "{user}"
    network_mode: host # operators reach the server on the host's loopback interface
    volumes: [".:/site"]
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
  watch: # docker compose --profile operate up -d: signed orders, and the console
    <<: *service
    profiles: [operate]
    pid: "service:server" # the server is known by its process
    command: [fedinfer, server, watch, /site/run, --keys, /site/keys, --passphrase-file, /site/keys.pass, --site, /site]
  console:
    <<: *service
    profiles: [operate]
    command: [fedinfer, server, console, /site/run, --viewer-token-file, /site/viewer.token]
"""


def app_toml(version: str, config: Mapping[str, str | int | bool]) -> str:
    """The pyproject.toml of the app of a site's runs.

    Args:
        version: of fedinfer.
        config: keys of a run with their types; the values are those of the last run at most.
    """
    return _APP.format(version=version, config=toml_lines(config))


def toml_lines(values: Mapping[str, str | int | bool]) -> str:
    """Lines of TOML.

    Args:
        values: plain.
    """
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())


def unit(what: str, user: str, command: str, folder: Path) -> str:
    """A systemd unit for a program that runs in the foreground.

    Args:
        what: it is, for people.
        user: whose files it works on.
        command: path of `fedinfer`, and its arguments.
        folder: the only one that it writes to.
    """
    return _UNIT.format(what=what, user=user, command=command, folder=folder)


def compose(user: str) -> str:
    """A compose file beside the files of a server.

    Args:
        user: "uid:gid" that owns them.
    """
    return _COMPOSE.format(user=user)
