"""One site for all tests of this folder, copied for each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.site.a_site import set_up


@pytest.fixture(scope="session")
def made_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    set_up(folder)
    return folder


@pytest.fixture
def site(made_site: Path, tmp_path: Path) -> Path:
    """A folder with `site/`, `store/`, `rows.csv`, `request`, `approval` and `offline.pass`."""
    shutil.copytree(made_site, tmp_path, dirs_exist_ok=True)
    store = tmp_path / "store" / "device.json"
    store.write_text(store.read_text().replace(str(made_site), str(tmp_path)))
    return tmp_path
