"""The page on other runtimes: its script, as it stands there, verifies and gives the answers of this package."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import math
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from fedinfer.inference import Predictor
from fedinfer.schema import Categorical, Column
from tests.docs.blocks import ROOT, blocks
from tests.unit.inference.device_world import SCHEMA, Repository, make_model, make_rows

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs node and npm"),
]
PAGE = ROOT / "docs/how-to/other-runtimes.md"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's script and what the page installs."""
    folder = tmp_path_factory.mktemp("node")
    (script,) = [block for block in blocks(PAGE) if block.title == "predict.mjs"]
    (folder / "predict.mjs").write_text(script.body)
    (shell,) = [block for block in blocks(PAGE) if block.kind == "sh"]
    install = shell.body.splitlines()[0].partition("#")[0].split()
    assert install[:2] == ["npm", "install"]
    subprocess.run([*install, "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True, timeout=300)
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """A web server over a folder, which is all that the page asks for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Shop:
    """A repository in a folder, valid today."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.repository = folder, Repository()
        parts = self.repository
        for role in (parts.targets, parts.snapshot, parts.timestamp, parts.root):
            role.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        root = parts.sign(parts.root, parts.keys["root"][:2])
        parts.files["metadata/1.root.json"] = root
        (folder / "root.json").write_bytes(root)

    def publish(self, version: int) -> None:
        self.repository.publish(version)
        self.write()

    def write(self) -> None:
        for path, data in self.repository.files.items():
            file = self.folder / "repository" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


def run(project: Path, base: str, shop: Shop, *rows: Path) -> subprocess.CompletedProcess[str]:
    places = shop.folder / "root.json", shop.folder / "device", *rows
    arguments = ["node", "predict.mjs", base, *map(str, places)]
    return subprocess.run(arguments, cwd=project, capture_output=True, text=True, timeout=60, check=False)


def records(matrix: np.ndarray) -> list[dict[str, object]]:
    def cell(column: Column, value: float) -> object:
        if math.isnan(value):
            return None
        return column.categories[int(value)] if isinstance(column, Categorical) else value

    rows = matrix.tolist()
    return [
        {column.name: cell(column, value) for column, value in zip(SCHEMA.columns, row, strict=True)} for row in rows
    ]


def test_the_script_of_the_page_gives_the_answers_of_this_package(project: Path, tmp_path: Path) -> None:
    shop, rows = Shop(tmp_path), make_rows(count=12, seed=6)
    (tmp_path / "rows.json").write_text(json.dumps([*records(rows), {"age": 3, "ward": "unseen"}]))
    for version in (1, 2):
        shop.publish(version)
        with site(tmp_path / "repository") as base:
            done = run(project, base, shop, tmp_path / "rows.json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["version"] == version
        all_rows = np.concatenate([rows, np.array([[3, np.nan, np.nan, np.nan]], np.float32)])
        expected = Predictor.open(make_model(seed=version), SCHEMA).predict(all_rows)
        assert [each["label"] for each in found["predictions"]] == expected.labels.tolist()
        np.testing.assert_allclose([each["probabilities"] for each in found["predictions"]], expected.raw, atol=1e-6)


def test_a_changed_file_and_a_withdrawn_version_are_refused(project: Path, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.publish(1)
    (model,) = (tmp_path / "repository/targets/model").glob("*.onnx")
    good = model.read_bytes()
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with site(tmp_path / "repository") as base:
        assert run(project, base, shop).returncode != 0
        model.write_bytes(good)
        assert run(project, base, shop).returncode == 0
        shop.repository.targets.unrecognized_fields["withdrawn"] = [1]
        shop.repository.sign_all()
        shop.write()
        done = run(project, base, shop)
    assert done.returncode != 0
    assert "version 1 was withdrawn" in done.stderr
